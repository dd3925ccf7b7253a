"""The events of a background response, for a client that may come late and leave early."""

from starlette.types import Receive

from service.api.attendance import attend
from service.api.drain import Drain
from service.api.event_stream import EventStream
from service.api.responses.background import BackgroundRun


async def follow(
    run: BackgroundRun,
    events: EventStream,
    receive: Receive,
    *,
    after: int = -1,
    keepalive_seconds: float,
) -> None:
    """Ends with the run or with the client, whichever is first; the run goes on."""
    # The service's drain is held up by the run alone, and the run tells why it ended.
    async with attend(receive, Drain()):
        async with events.kept_alive(keepalive_seconds):
            async for fresh in run.follow(after):
                await events.write(fresh)
        await events.finish(b"")
