"""Conversations that the API process knows of: which worker has their tokens, since when."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

DEFAULT_MAX_SESSIONS = 100_000
DEFAULT_TTL_SECONDS = 3600.0


def _now() -> float:
    return time.time()  # noqa: TID251 - people are told when; a day asleep counts as a day unused


@dataclass(slots=True, eq=False, kw_only=True)
class Session:
    """One conversation of a tenant. Times are seconds since the epoch."""

    tenant: str
    id: str
    created: float
    last_used: float
    worker: int | None = None
    """The one that it was last sent to."""
    num_requests: int = 0
    """Generations asked for; each choice of a request counts."""
    num_tokens: int = 0
    """Prompt and output of its latest generation."""
    num_running: int = 0
    is_removed: bool = False
    """Whether somebody asked for it to be forgotten; its name may be another session's now."""


class SessionRegistry:
    """Owns the sessions; every change goes through it. An operation takes amortised constant time.

    The least recently used go first, when there are too many or their time is over; those with
    running requests never. What a session computed is not freed with its entry here: the workers'
    own budgets see to that, and `EnginePool.forget_session`.
    """

    def __init__(
        self,
        *,
        max_sessions: int = DEFAULT_MAX_SESSIONS,
        ttl_seconds: float = DEFAULT_TTL_SECONDS,
        clock: Callable[[], float] = _now,
    ) -> None:
        self._max_sessions = max_sessions
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._tenants: dict[str, dict[str, Session]] = {}
        """By tenant and id, each tenant's in the order of their creation."""
        self._idle: OrderedDict[Session, None] = OrderedDict()
        """The least recently used first."""
        self._num_sessions = 0

    def __len__(self) -> int:
        self._expire()
        return self._num_sessions

    def begin(self, tenant: str, session_id: str) -> Session:
        """A request of it starts; the session is made where there is none. `end` must follow."""
        self._expire()
        session = self._find(tenant, session_id) or self._create(tenant, session_id)
        self._idle.pop(session, None)
        session.num_running += 1
        session.num_requests += 1
        session.last_used = self._clock()
        self._make_room()
        return session

    def end(self, session: Session, *, num_tokens: int | None = None) -> None:
        """A request of it is over; `num_tokens` is how many it had, None that it never ran.

        The session may have been removed meanwhile.
        """
        session.num_running -= 1
        session.last_used = self._clock()
        if num_tokens is not None:
            session.num_tokens = num_tokens
        if session.is_removed:
            return
        if not session.num_running:
            self._idle[session] = None
        self._expire()
        self._make_room()

    def learn(self, tenant: str, session_id: str, *, worker: int, num_tokens: int) -> None:
        """A worker has tokens of it on disk. One that was used since knows better where it is."""
        self._expire()
        session = self._find(tenant, session_id)
        if session is None:
            session = self._create(tenant, session_id)
            self._idle[session] = None
        if not session.num_requests and num_tokens > session.num_tokens:
            session.worker, session.num_tokens = worker, num_tokens
        self._make_room()

    def get(self, tenant: str, session_id: str) -> Session | None:
        """Looking does not count as use."""
        self._expire()
        return self._find(tenant, session_id)

    def list_newest(self, tenant: str, *, limit: int, after: str | None = None) -> list[Session]:
        """The tenant's sessions, newest first, at most `limit`; those behind `after`.

        Raises KeyError when there is no session `after`. Walks to it, so it is for people.
        """
        self._expire()
        sessions = self._tenants.get(tenant, {})
        newest = reversed(sessions.values())
        if after is not None:
            cursor = sessions[after]
            while next(newest) is not cursor:
                pass
        return list(islice(newest, limit))

    def remove(self, tenant: str, session_id: str) -> Session | None:
        """Forget it. Its running requests go on; the next one begins a new session."""
        self._expire()
        session = self._find(tenant, session_id)
        if session is not None:
            session.is_removed = True
            self._drop(session)
        return session

    def _find(self, tenant: str, session_id: str) -> Session | None:
        return self._tenants.get(tenant, {}).get(session_id)

    def _create(self, tenant: str, session_id: str) -> Session:
        now = self._clock()
        session = Session(tenant=tenant, id=session_id, created=now, last_used=now)
        self._tenants.setdefault(tenant, {})[session_id] = session
        self._num_sessions += 1
        return session

    def _expire(self) -> None:
        oldest = self._clock() - self._ttl_seconds
        while self._idle and (session := next(iter(self._idle))).last_used <= oldest:
            self._drop(session)

    def _make_room(self) -> None:
        while self._num_sessions > self._max_sessions and self._idle:
            self._drop(next(iter(self._idle)))

    def _drop(self, session: Session) -> None:
        self._idle.pop(session, None)
        sessions = self._tenants[session.tenant]
        del sessions[session.id]
        if not sessions:
            del self._tenants[session.tenant]
        self._num_sessions -= 1
