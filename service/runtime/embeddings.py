"""Texts on their way to being vectors, whatever becomes of the workers that compute them."""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from service.core.messages import Abort, Embed, Embedded
from service.errors import EngineError, EngineUnavailable, QueueFull, WorkerDied
from service.runtime.blame import Death
from service.runtime.supervisor import Supervisor
from service.telemetry.metrics import Metrics

MAX_IN_WORKER = 4
"""Texts that a worker has at a time: it need not wait for the next one, and the others stay here,
where they cost nothing to take back."""
MAX_DEATHS = 2
"""Workers that may die while they compute one text."""
RETRY_AFTER_SECONDS = 5


@dataclass(slots=True, eq=False)
class _Text:
    id: int
    tokens: list[int]
    vector: asyncio.Future[bytes]
    worker: int | None = None
    num_deaths: int = 0


class Embeddings:
    """Hands texts to workers, one of each request in turn: a long list delays nobody."""

    def __init__(
        self,
        supervisors: Sequence[Supervisor],
        ids: Iterator[int],
        metrics: Metrics,
        *,
        max_requests: int,
    ) -> None:
        """`ids` are those that sequences have as well."""
        self._supervisors = supervisors
        self._ids = ids
        self._metrics = metrics
        self._max_requests = max_requests
        self._num_requests = 0
        self._waiting: deque[deque[_Text]] = deque()
        """Of each request what is left of it; none is empty."""
        self._sent: dict[int, _Text] = {}

    async def embed(self, texts: Sequence[list[int]]) -> list[bytes]:
        """A vector for each text, as `Embedded` has them. Cancelled, it takes back all of them.

        Raises QueueFull, and EngineError when they cannot be computed.
        """
        if not any(supervisor.is_ready for supervisor in self._supervisors):
            raise EngineUnavailable("no worker is ready; try again in a moment")
        if self._num_requests >= self._max_requests:
            raise QueueFull(
                f"{self._max_requests} requests for embeddings are under way; try again later",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        loop = asyncio.get_running_loop()
        request = deque(_Text(next(self._ids), text, loop.create_future()) for text in texts)
        vectors = [text.vector for text in request]
        self._num_requests += 1
        self._waiting.append(request)
        try:
            self.fill()
            return await asyncio.gather(*vectors)
        finally:
            self._num_requests -= 1
            self._take_back(vectors)

    def fill(self) -> None:
        """Send on what workers take now."""
        while self._waiting:
            worker = self._choose_worker()
            if worker is None:
                return
            request = self._waiting.popleft()
            text = request.popleft()
            if request:
                self._waiting.append(request)
            text.worker = worker
            self._sent[text.id] = text
            self._supervisors[worker].send(Embed(sequence_id=text.id, tokens=text.tokens))

    def take(self, report: Embedded) -> None:
        if report.vector is None:
            return
        text = self._sent.pop(report.sequence_id, None)
        if text is not None:  # not taken back meanwhile
            self._metrics.text_embedded(len(text.tokens))
            if not text.vector.done():
                text.vector.set_result(report.vector)
        self.fill()

    def lose(self, worker: int, death: Death) -> bool:
        """Send its texts elsewhere; whether it was one of them that the worker died in.

        A text in which a second worker dies fails.
        """
        lost = [text for text in self._sent.values() if text.worker == worker]
        for text in lost:
            del self._sent[text.id]
            text.worker = None
            if text.id in death.running and not death.is_outside:
                text.num_deaths += 1
            if text.num_deaths < MAX_DEATHS:
                self._waiting.appendleft(deque([text]))
            else:
                _fail(text, WorkerDied(f"{MAX_DEATHS} workers died of this text"))
        return any(text.id in death.running for text in lost)

    def fail_all(self, error: EngineError) -> None:
        """There will be no worker for them."""
        for request in self._waiting:
            for text in request:
                _fail(text, error)
        self._waiting.clear()
        for text in self._sent.values():
            _fail(text, error)
        self._sent.clear()

    def _choose_worker(self) -> int | None:
        """The one with the fewest texts, if it takes one more."""
        nums = {one.number: 0 for one in self._supervisors if one.is_ready}
        for text in self._sent.values():
            if text.worker in nums:
                nums[text.worker] += 1
        worker = min(nums, key=nums.__getitem__, default=None)
        return worker if worker is not None and nums[worker] < MAX_IN_WORKER else None

    def _take_back(self, vectors: Sequence[asyncio.Future[bytes]]) -> None:
        """What is still under way of a request that ended."""
        mine = set(vectors)
        self._waiting = deque(request for request in self._waiting if request[0].vector not in mine)
        for text in [text for text in self._sent.values() if text.vector in mine]:
            del self._sent[text.id]
            supervisor = self._supervisors[text.worker or 0]
            if supervisor.is_ready:
                supervisor.send(Abort(sequence_id=text.id))
        self.fill()


def _fail(text: _Text, error: EngineError) -> None:
    if not text.vector.done():
        text.vector.set_exception(error)
