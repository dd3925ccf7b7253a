"""API keys: who may call, whose cache a request shares, and what its caller may use."""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from service.api.rate_limits import UNLIMITED, RateLimits
from service.core.request import FIRST_PRIORITY
from service.errors import AuthenticationError

_SCHEME = b"bearer "


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who sends a request."""

    tenant: str = ""
    """Derived from the key alone, so that it stays whatever else is said of the key."""
    name: str | None = None
    """As the operator calls it in logs and metrics."""
    weight: float = 1.0
    limits: RateLimits = UNLIMITED
    best_priority: int = FIRST_PRIORITY
    """Its requests are served as if they asked for this one if they ask for a lower one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key's digest, and what is said of who has it."""

    digest: bytes
    caller: Caller

    @classmethod
    def of_digest(
        cls,
        digest: bytes,
        *,
        name: str | None = None,
        weight: float = 1.0,
        limits: RateLimits = UNLIMITED,
        best_priority: int = FIRST_PRIORITY,
    ) -> "ApiKey":
        caller = Caller(
            tenant=digest.hex()[:16],
            name=name,
            weight=weight,
            limits=limits,
            best_priority=best_priority,
        )
        return cls(digest=digest, caller=caller)


def digest_key(key: str) -> bytes:
    """SHA-256: keys are random and long, so nothing slower would make them safer."""
    return hashlib.sha256(key.encode()).digest()


class ApiKeys:
    """Keeps digests only. Every key is compared, each in constant time."""

    def __init__(self, keys: Iterable[ApiKey], *, anyone: Caller) -> None:
        """`anyone` is who calls where there are no keys."""
        self._anyone = anyone
        self._keys: tuple[ApiKey, ...] = ()
        self._callers: dict[str, Caller] = {}
        self.replace(keys)

    def replace(self, keys: Iterable[ApiKey]) -> None:
        """Only these hold from now on; requests that have begun go on."""
        self._keys = tuple(keys)
        self._callers = {key.caller.tenant: key.caller for key in self._keys}

    def __bool__(self) -> bool:
        return bool(self._keys)

    @property
    def callers(self) -> list[Caller]:
        """All that there can be."""
        return list(self._callers.values()) or [self._anyone]

    def find_caller(self, tenant: str) -> Caller:
        """Of a tenant whose key may be gone: its batches go on."""
        return self._callers.get(tenant, Caller(tenant=tenant))

    def authenticate(self, authorization: bytes | None) -> Caller:
        """Raises AuthenticationError."""
        if not self._keys:
            return self._anyone
        if authorization is None or not authorization.lower().startswith(_SCHEME):
            raise AuthenticationError(
                "No API key was given; send it as `Authorization: Bearer KEY`."
            )
        given = hashlib.sha256(authorization[len(_SCHEME) :].strip()).digest()
        matching = [key for key in self._keys if hmac.compare_digest(given, key.digest)]
        if not matching:
            raise AuthenticationError("The API key is not valid here.")
        return matching[0].caller
