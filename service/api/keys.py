"""API keys: who may call, and whose cache a request shares."""

import hashlib
import hmac
from collections.abc import Iterable

from service.errors import AuthenticationError

_SCHEME = b"bearer "


class ApiKeys:
    """Keeps digests only. Every key is compared, each in constant time."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def authenticate(self, authorization: bytes | None) -> str:
        """The caller's tenant: a name derived from the key, empty where no keys are set.

        Raises AuthenticationError.
        """
        if not self._digests:
            return ""
        if authorization is None or not authorization.lower().startswith(_SCHEME):
            raise AuthenticationError(
                "No API key was given; send it as `Authorization: Bearer KEY`."
            )
        given = hashlib.sha256(authorization[len(_SCHEME) :].strip()).digest()
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        if not any(matches):
            raise AuthenticationError("The API key is not valid here.")
        return given.hex()[:16]
