"""What is known of one request beside its body: its names, its times, its line in the log."""

import re
import secrets
import time
from dataclasses import dataclass, field
from typing import cast

from starlette.types import Scope

_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_SCOPE_KEY = "smolserve.exchange"
PRIORITY_KEY = "smolserve.priority"
"""In the ASGI scope of a request that this process makes itself: its `Exchange.priority`."""


@dataclass(slots=True, kw_only=True)
class Exchange:
    """Made by the outermost middleware; what serves the request fills it in."""

    request_id: str
    session_id: str
    started_at: float
    tenant: str = ""
    status: int | None = None
    """Set when the response's head is sent."""
    priority: int | None = None
    """Overrides what the body asks for; set by who calls the application in-process."""
    facts: dict[str, object] = field(default_factory=dict[str, object])
    """What goes into the log line; never prompts nor answers."""

    @classmethod
    def open(cls, scope: Scope) -> "Exchange":
        """Takes the client's ids where they are sane, mints what is missing."""
        exchange = cls(
            request_id=_accept(read_header(scope, b"x-request-id")) or f"req_{mint()}",
            session_id=_accept(read_header(scope, b"x-session-id")) or f"sess_{mint()}",
            started_at=time.monotonic(),
            priority=cast("int | None", scope.get(PRIORITY_KEY)),
        )
        scope[_SCOPE_KEY] = exchange
        return exchange

    @classmethod
    def of(cls, scope: Scope) -> "Exchange":
        return cast("Exchange", scope[_SCOPE_KEY])

    def elapsed_ms(self) -> int:
        return round((time.monotonic() - self.started_at) * 1000)


def mint() -> str:
    """A name that nobody guesses and nobody else has."""
    return secrets.token_hex(12)


def read_header(scope: Scope, name: bytes) -> bytes | None:
    headers = cast("list[tuple[bytes, bytes]]", scope["headers"])
    return next((value for key, value in headers if key == name), None)


def _accept(value: bytes | None) -> str | None:
    return value.decode() if value is not None and _SANE_ID.fullmatch(value) else None
