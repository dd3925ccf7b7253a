"""How long a request may take: the operator's setting, which the client's header shortens."""

import math
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from service.api.exchange import Exchange
from service.api.operation import Parameter
from service.errors import DeadlineExceeded, InvalidRequest

TIMEOUT_HEADER = Parameter(
    name="X-Request-Timeout",
    place="header",
    schema={"type": "number", "exclusiveMinimum": 0},
    description="Seconds after which the request is ended; can only shorten what is set.",
)
_NUMBER = re.compile(rb"[0-9.eE+-]{1,32}")


def set_deadline(exchange: Exchange, max_seconds: float | None) -> None:
    """To be called before work begins; `max_seconds` is the operator's.

    A line of a batch has its batch's window and no other deadline. Raises InvalidRequest.
    """
    if exchange.is_internal:
        return
    seconds = math.inf if max_seconds is None else max_seconds
    if exchange.asked_timeout is not None:
        seconds = min(seconds, _read_seconds(exchange.asked_timeout))
    exchange.timeout_seconds = None if seconds == math.inf else seconds


@asynccontextmanager
async def within_deadline(exchange: Exchange) -> AsyncGenerator[None]:
    """Cancels the body when the time is up. Raises DeadlineExceeded then."""
    with anyio.move_on_after(exchange.seconds_left()) as scope:
        yield
    if scope.cancelled_caught:
        raise DeadlineExceeded("The time that this request had is up; send less, or give it more.")


def _read_seconds(value: bytes) -> float:
    try:
        seconds = float(value) if _NUMBER.fullmatch(value) else 0.0
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise InvalidRequest(
            f"X-Request-Timeout: {value[:40].decode(errors='replace')!r} is no number of seconds "
            "above 0.",
            param="X-Request-Timeout",
        )
    return seconds
