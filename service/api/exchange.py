"""What is known of one request beside its body: its names, its times, its line in the log."""

import hashlib
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import cast

from starlette.types import Scope

from service.core.trace import TraceContext
from service.telemetry.tracing import RequestTrace

_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_SESSION_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._:+=@-]{1,128}")
"""What can be a header's value, and one segment of a path."""
_SCOPE_KEY = "smolserve.exchange"
PRIORITY_KEY = "smolserve.priority"
"""In the ASGI scope of a request that this process makes itself: its `Exchange.priority`."""


@dataclass(slots=True, kw_only=True)
class Exchange:
    """Made by the outermost middleware; what serves the request fills it in."""

    request_id: str
    session_id: str
    """The conversation that the request belongs to; minted until it is named."""
    started_at: float
    has_named_session: bool = False
    """Whether a header of the client named the session."""
    tenant: str = ""
    status: int | None = None
    """Set when the response's head is sent."""
    priority: int | None = None
    """Overrides what the body asks for; set by who calls the application in-process."""
    trace: RequestTrace | None = None
    """Where requests are traced."""
    facts: dict[str, object] = field(default_factory=dict[str, object])
    """What goes into the log line; never prompts nor answers."""

    @classmethod
    def open(cls, scope: Scope) -> "Exchange":
        """Takes the client's ids where they are sane, mints what is missing."""
        session = read_header(scope, b"x-session-id")
        exchange = cls(
            request_id=_accept(read_header(scope, b"x-request-id")) or f"req_{mint()}",
            session_id=name_session(session) if session else f"sess_{mint()}",
            has_named_session=bool(session),
            started_at=time.monotonic(),
            priority=cast("int | None", scope.get(PRIORITY_KEY)),
        )
        scope[_SCOPE_KEY] = exchange
        return exchange

    @classmethod
    def of(cls, scope: Scope) -> "Exchange":
        return cast("Exchange", scope[_SCOPE_KEY])

    @property
    def trace_context(self) -> TraceContext | None:
        return None if self.trace is None else self.trace.context

    def enter(self, stage: str | None) -> None:
        """What the trace calls what the request goes through from now on; None where others say."""
        if self.trace is not None:
            self.trace.enter(stage)

    def adopt_session_key(self, key: str | None) -> None:
        """Take the body's `prompt_cache_key` as the session, where no header named one.

        To be called before the response's head is sent, which says the session.
        """
        if key and not self.has_named_session:
            self.session_id = name_session(key.encode(errors="surrogatepass"))
        self.facts["session_id"] = self.session_id

    def elapsed_ms(self) -> int:
        return round((time.monotonic() - self.started_at) * 1000)


def name_session(key: bytes) -> str:
    """What a client's name for a session is called: itself, or its digest if headers cannot say it.

    Equal names are equal sessions either way, whatever characters they have and however long.
    """
    if _SESSION_ID.fullmatch(name := key.decode(errors="replace")):
        return name
    return f"key_{hashlib.sha256(key).hexdigest()[:32]}"


def mint() -> str:
    """A name that nobody guesses and nobody else has."""
    return secrets.token_hex(12)


def read_header(scope: Scope, name: bytes) -> bytes | None:
    headers = cast("list[tuple[bytes, bytes]]", scope["headers"])
    return next((value for key, value in headers if key == name), None)


def _accept(value: bytes | None) -> str | None:
    return value.decode() if value is not None and _SANE_ID.fullmatch(value) else None
