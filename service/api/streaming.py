"""A streamed answer's ways to end: as it should, with an error event, or as the client leaves."""

from collections.abc import Coroutine
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from service.api.attendance import attend
from service.api.drain import Drain
from service.api.errors import internal_error, render_error
from service.api.event_stream import EventStream
from service.api.exchange import Exchange
from service.errors import SmolserveError


async def stream_answer(
    writing: Coroutine[Any, Any, None],
    events: EventStream,
    *,
    exchange: Exchange,
    receive: Receive,
    drain: Drain,
) -> None:
    """After the first byte an error is an event, and the stream ends without `[DONE]`.

    Raises what fails before it.
    """
    try:
        async with attend(receive, drain):
            await writing
    except SmolserveError as error:
        if not events.has_started:
            raise
        exchange.facts["error"] = error.code
        await events.finish(_error_event(error))
    except ClientDisconnect:
        raise
    except Exception:
        if events.has_started:
            await events.finish(_error_event(internal_error(exchange.request_id)))
        raise


def _error_event(error: SmolserveError) -> bytes:
    return b"data: " + render_error(error) + b"\n\n"
