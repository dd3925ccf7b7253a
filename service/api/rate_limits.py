"""What one caller may use of the service: requests and tokens a minute, and requests at a time.

Buckets refill continuously and hold a minute's worth. Tokens are reserved when a request is
admitted and settled when it is known what it took, so a bucket may fall below zero; that is a debt
which the following requests wait for, and the rate holds in the long run.
"""

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from service.errors import RateLimitExceeded

ESTIMATED_ANSWER_TOKENS = 256
"""Reserved for an answer that may be longer; what it really has is settled at its end."""
RATE_LIMIT_HEADERS = tuple(
    f"x-ratelimit-{what}-{noun}"
    for noun in ("requests", "tokens")
    for what in ("limit", "remaining", "reset")
)
_BUSY_RETRY_SECONDS = 1
"""Nobody knows when a running request will end."""
_SECONDS_A_MINUTE = 60
_TOLERANCE = 1e-6
"""Less than that is missing from rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None


UNLIMITED = RateLimits()


class Bucket:
    """Times are seconds of one clock that never goes back."""

    def __init__(self, per_minute: int, now: float) -> None:
        self.capacity = per_minute
        self._level = float(per_minute)
        self._at = now

    def level(self, now: float) -> float:
        refilled = (now - self._at) * self.capacity / _SECONDS_A_MINUTE
        return min(self.capacity, self._level + refilled)

    def take(self, amount: float, now: float) -> None:
        """What is not there as well; a negative amount is given back."""
        self._level = min(self.capacity, self.level(now) - amount)
        self._at = now

    def seconds_until(self, amount: float, now: float) -> float:
        """How long it takes to hold so much; for more than it can hold, to be full."""
        missing = min(amount, self.capacity) - self.level(now)
        if missing < _TOLERANCE:
            return 0.0
        return missing * _SECONDS_A_MINUTE / self.capacity


class Account:
    """What one caller uses; for one thread. Totals only grow."""

    def __init__(self, limits: RateLimits, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._limits = limits
        self._clock = clock
        self._requests = _make_bucket(limits.requests_per_minute, None, clock())
        self._tokens = _make_bucket(limits.tokens_per_minute, None, clock())
        self.num_running = 0
        self.num_requests = 0
        self.num_refused = 0
        self.num_tokens = 0

    def change_limits(self, limits: RateLimits) -> None:
        """What was used of the old ones counts towards the new ones, up to all of these."""
        if limits == self._limits:
            return
        now = self._clock()
        self._limits = limits
        self._requests = _make_bucket(limits.requests_per_minute, self._requests, now)
        self._tokens = _make_bucket(limits.tokens_per_minute, self._tokens, now)

    def admit(self) -> None:
        """Takes a request, or nothing. Raises RateLimitExceeded."""
        now = self._clock()
        most = self._limits.max_concurrent
        if most is not None and self.num_running >= most:
            raise self._refuse(f"{most} requests at a time", _BUSY_RETRY_SECONDS)
        if self._requests is not None:
            self._check(self._requests, 1, now, "requests")
        if self._tokens is not None:  # before the prompt is looked at, which costs more
            self._check(self._tokens, 1, now, "tokens")
        if self._requests is not None:
            self._requests.take(1, now)
        self.num_requests += 1

    def reserve(self, num_tokens: int) -> int:
        """Takes them, or nothing; how many, as none are where there is no limit.

        Raises RateLimitExceeded.
        """
        if self._tokens is None:
            return 0
        now = self._clock()
        self._check(self._tokens, num_tokens, now, "tokens")
        self._tokens.take(num_tokens, now)
        return num_tokens

    def settle(self, *, num_reserved: int, num_used: int) -> None:
        """Takes what was used instead of what was reserved."""
        self.num_tokens += num_used
        if self._tokens is not None:
            self._tokens.take(num_used - num_reserved, self._clock())

    def headers(self) -> list[tuple[bytes, bytes]]:
        """As OpenAI names and writes them; none of what has no limit."""
        now = self._clock()
        return [
            *_describe(b"requests", self._requests, now),
            *_describe(b"tokens", self._tokens, now),
        ]

    def _check(self, bucket: Bucket, amount: int, now: float, noun: str) -> None:
        seconds = bucket.seconds_until(amount, now)
        if seconds:
            left = max(0, math.floor(bucket.level(now)))
            limit = f"{bucket.capacity} {noun} per minute, of which {left} are left"
            raise self._refuse(f"{limit} and this needs {amount}", math.ceil(seconds))

    def _refuse(self, limit: str, retry_after_seconds: int) -> RateLimitExceeded:
        self.num_refused += 1
        return RateLimitExceeded(
            f"Your limit here is {limit}; try again in {retry_after_seconds} s.",
            retry_after_seconds=retry_after_seconds,
        )


class Accounts:
    """Of all callers, by tenant. They outlive a change of what a caller may use."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._clock = clock
        self._accounts: dict[str, Account] = {}

    def find(self, tenant: str, limits: RateLimits) -> Account:
        """A tenant's, which has these limits from now on."""
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = Account(limits, self._clock)
        else:
            account.change_limits(limits)
        return account


class Permit:
    """One request's part of its caller's account, from its admission until nobody holds it.

    An application holds it while it answers, and a response in the background while it is made.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self._num_holders = 0
        self._num_prompt_tokens = 0
        self._num_reserved = 0

    @contextmanager
    def held(self) -> Generator[None]:
        """Counts among the requests that run at a time."""
        if not self._num_holders:
            self._account.num_running += 1
        self._num_holders += 1
        try:
            yield
        finally:
            self._num_holders -= 1
            if not self._num_holders:
                self._account.num_running -= 1
                self._settle(0)  # nothing is left to settle, unless it failed before it began

    def admit(self) -> None:
        """Raises RateLimitExceeded; not held, it has taken nothing then."""
        self._account.admit()

    def reserve(self, *, num_prompt_tokens: int, num_answer_tokens: int) -> None:
        """The prompt, and a guess of the answer. Raises RateLimitExceeded."""
        self._num_reserved = self._account.reserve(num_prompt_tokens + num_answer_tokens)
        self._num_prompt_tokens = num_prompt_tokens

    def settle(self, num_answer_tokens: int) -> None:
        """The answer as it was; the prompt is paid for by whatever came into the queue."""
        self._settle(self._num_prompt_tokens + num_answer_tokens)

    def headers(self) -> list[tuple[bytes, bytes]]:
        return self._account.headers()

    def _settle(self, num_used: int) -> None:
        num_reserved = self._num_reserved
        self._num_prompt_tokens = self._num_reserved = 0
        self._account.settle(num_reserved=num_reserved, num_used=num_used)


def format_duration(seconds: float) -> bytes:
    """As OpenAI does: 20ms, 1s, 8.64s, 6m0s, 1h0m0s; never less than it is."""
    milliseconds = math.ceil(seconds * 1000 - _TOLERANCE)
    if 0 < milliseconds < 1000:  # noqa: PLR2004 - in a second
        return b"%dms" % milliseconds
    minutes, rest = divmod(milliseconds, _SECONDS_A_MINUTE * 1000)
    hours, minutes = divmod(minutes, 60)
    written = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours or minutes:
        written = f"{minutes}m{written}"
    return (f"{hours}h{written}" if hours else written).encode()


def _make_bucket(per_minute: int | None, old: Bucket | None, now: float) -> Bucket | None:
    """What is missing from the old one, if there was one, is missing from this.

    A minute's worth at most: a limit that is lowered keeps nobody out for hours.
    """
    if per_minute is None:
        return None
    bucket = Bucket(per_minute, now)
    if old is not None:
        bucket.take(min(old.capacity - old.level(now), per_minute), now)
    return bucket


def _describe(noun: bytes, bucket: Bucket | None, now: float) -> list[tuple[bytes, bytes]]:
    if bucket is None:
        return []
    left = max(0, math.floor(bucket.level(now) + _TOLERANCE))
    reset = format_duration(bucket.seconds_until(bucket.capacity, now))
    return [
        (b"x-ratelimit-limit-" + noun, b"%d" % bucket.capacity),
        (b"x-ratelimit-remaining-" + noun, b"%d" % left),
        (b"x-ratelimit-reset-" + noun, reset),
    ]
