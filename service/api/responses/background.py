"""Responses that are made whether anybody waits for them or not."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import ExitStack

from structlog.typing import FilteringBoundLogger

from service.api.drain import Drain
from service.api.errors import internal_error
from service.api.generator import Choice
from service.api.rate_limits import Permit
from service.api.responses.conversation import Conversation, Conversations
from service.api.responses.events import Event, GrowingResponse, encode
from service.api.responses.generation import generate
from service.errors import EngineError, SmolserveError

_MAX_ENDED = 64
"""Runs that are remembered after their end."""


class BackgroundRun:
    """One response on its way; followed by any number of clients, owned by none."""

    def __init__(
        self,
        response: GrowingResponse,
        conversation: Conversation,
        choice: Choice,
        permit: Permit,
        *,
        is_streamed: bool,
    ) -> None:
        """`is_streamed` keeps its events, for those that come to follow."""
        self.response = response
        self.conversation = conversation
        self.permit = permit
        self.is_streamed = is_streamed
        self._choice = choice
        self._events: list[bytes] = []
        self._news = asyncio.Event()
        self._has_ended = asyncio.Event()
        self._is_cancelled = False
        self._interruption: SmolserveError | None = None

    def body(self) -> dict[str, object]:
        """The response as it is now."""
        if self._choice.stream.stage in {"prefill", "decode"}:
            self._publish(self.response.start())
        return self.response.body()

    async def cancel(self) -> None:
        """Returns when it has ended, as cancelled unless it was quicker."""
        self._is_cancelled = True
        self._choice.stream.abort()
        await self._has_ended.wait()

    def interrupt(self, error: SmolserveError) -> None:
        self._interruption = error
        self._choice.stream.abort()

    async def generate(self) -> list[Event]:
        """Ends the response and returns what is still to be published, but for the last event."""
        self._publish(self.response.create())
        try:
            return await generate(self._choice, self.response, self._emit)
        except EngineError as error:
            if self._is_cancelled:
                return self.response.cancel()
            reason = self._interruption or error
            return self.response.fail(reason.message, reason.code)
        finally:
            self._choice.stream.abort()
            self.permit.settle(self._choice.stream.num_output_tokens)

    def finish(self, events: list[Event]) -> None:
        self._publish([*events, *self.response.conclude()])
        self._has_ended.set()
        self._news.set()

    async def follow(self, after: int) -> AsyncIterator[bytes]:
        """Events whose number is larger than `after`, as they come, until the last."""
        while True:
            news = self._news
            fresh = self._events[after + 1 :]
            if fresh:
                after += len(fresh)
                yield b"".join(fresh)
            elif self._has_ended.is_set():
                return
            else:
                await news.wait()

    async def _emit(self, events: list[Event]) -> None:
        self._publish(events)

    def _publish(self, events: list[Event]) -> None:
        if self.is_streamed and events:
            self._events += [encode([event]) for event in events]
            self._news.set()
            self._news = asyncio.Event()


class Background:
    """Owns the runs of this process, and remembers the last that ended."""

    def __init__(
        self, conversations: Conversations, drain: Drain, log: FilteringBoundLogger
    ) -> None:
        self._conversations = conversations
        self._drain = drain
        self._log = log
        self._running: dict[str, BackgroundRun] = {}
        self._ended: OrderedDict[str, BackgroundRun] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, run: BackgroundRun) -> None:
        """Holds a drain up until the run has ended, and its caller's permit.

        Raises EngineUnavailable.
        """
        holding = ExitStack()
        holding.enter_context(self._drain.running(run.interrupt))
        holding.enter_context(run.permit.held())
        self._running[run.response.id] = run
        task = asyncio.create_task(self._make(run, holding))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def find(self, response_id: str, tenant: str) -> BackgroundRun | None:
        """None for what ended long ago as well: that is among the records."""
        run = self._running.get(response_id) or self._ended.get(response_id)
        return run if run is not None and run.conversation.tenant == tenant else None

    def forget(self, response_id: str) -> None:
        self._ended.pop(response_id, None)

    async def _make(self, run: BackgroundRun, holding: ExitStack) -> None:
        with holding:
            try:
                events = await run.generate()
            except Exception:  # noqa: BLE001 - the top of a task; what is left is our fault
                self._log.exception("background response failed", response_id=run.response.id)
                error = internal_error(run.response.id)
                events = run.response.fail(error.message, error.code)
            try:
                await self._conversations.keep_if_possible(run.response, run.conversation)
            finally:
                self._end(run, events)

    def _end(self, run: BackgroundRun, events: list[Event]) -> None:
        self._log.info(
            "background response", response_id=run.response.id, status=run.response.status
        )
        del self._running[run.response.id]
        self._ended[run.response.id] = run
        while len(self._ended) > _MAX_ENDED:
            self._ended.popitem(last=False)
        run.finish(events)
