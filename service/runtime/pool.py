"""The pool of workers: what the API submits requests to."""

import asyncio
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from service.core.messages import Abort, Ready, SequenceOutput, StepReport, Submit
from service.core.request import GenerationRequest
from service.engine.config import EngineConfig
from service.errors import EngineUnavailable, QueueFull, WorkerDied
from service.kvcache.size_class import parse_size_classes
from service.runtime.config import PoolConfig
from service.runtime.router import BLOCK, PrefixMemory, choose_worker, name_blocks
from service.runtime.stream import OutputStream
from service.runtime.supervisor import Supervisor
from service.telemetry.metrics import Metrics

MAX_RETRY_AFTER_SECONDS = 60
SMOOTHING = 0.2
"""Weight of the latest request in the running mean of request durations."""


@dataclass(slots=True)
class _Flight:
    """A request between admission and its end; times are of the event loop's clock."""

    stream: OutputStream
    worker: int
    submitted: float
    first_token: float = 0.0
    last_token: float = 0.0


class EnginePool:
    """Owns the workers and every request that is in them. Belongs to one event loop."""

    def __init__(
        self, config: PoolConfig, token_bytes: Callable[[int], bytes], metrics: Metrics
    ) -> None:
        """`token_bytes` renders a token of the model that the workers run."""
        self._config = config
        self._token_bytes = token_bytes
        self._metrics = metrics
        self._classes = parse_size_classes(config.engine.contexts)
        self.max_context_len = self._classes[-1].slot_len
        self.ready: dict[int, Ready] = {}
        """What each living worker loaded."""
        num_cells = sum(size.num_slots * size.slot_len for size in self._classes)
        self._num_slots = sum(size.num_slots for size in self._classes)
        workers = range(config.num_workers)
        self._supervisors = [
            Supervisor(number, _engine_of(config, number), self) for number in workers
        ]
        self._memories = [PrefixMemory(2 * num_cells // BLOCK) for _ in workers]
        self._loads = [0] * config.num_workers
        self._flights: dict[int, _Flight] = {}
        self._ids = itertools.count(1)
        self._mean_seconds = 1.0

    async def start(self) -> None:
        """Start every worker and wait until all are ready.

        Raises EngineError if one cannot be started; the others are stopped then.
        """
        for supervisor in self._supervisors:
            supervisor.start()
        try:
            for supervisor in self._supervisors:
                await supervisor.wait_ready()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End every worker; requests still in them fail."""
        await asyncio.gather(*(supervisor.stop() for supervisor in self._supervisors))
        for sequence_id in list(self._flights):
            self._fail(sequence_id, WorkerDied("the service is shutting down"))

    @property
    def is_ready(self) -> bool:
        return any(supervisor.is_ready for supervisor in self._supervisors)

    @property
    def num_running(self) -> int:
        return len(self._flights) - self.num_waiting

    @property
    def num_waiting(self) -> int:
        return sum(1 for flight in self._flights.values() if flight.stream.stage == "queued")

    def submit(self, request: GenerationRequest) -> OutputStream:
        """Hand a request to a worker.

        Raises QueueFull when as many wait as may, EngineUnavailable when no worker is ready.
        """
        self._check_room()
        names = name_blocks(request.tenant, request.prompt)
        worker = self._choose(names)
        sequence_id = next(self._ids)
        stream = OutputStream(
            request,
            token_bytes=self._token_bytes,
            on_abort=lambda _stream: self._abort(sequence_id),
        )
        self._supervisors[worker].send(_submission(sequence_id, request))
        self._memories[worker].add(names)
        self._loads[worker] += 1
        self._flights[sequence_id] = _Flight(stream, worker, self._now())
        self._metrics.request_admitted()
        return stream

    def worker_ready(self, worker: int, pid: int, ready: Ready) -> None:
        self.ready[worker] = ready
        self._metrics.worker_started(worker, pid)
        classes = [(size.num_slots, size.slot_len) for size in self._classes]
        self._metrics.observe_ready(worker, ready, classes)

    def worker_reported(self, worker: int, report: StepReport) -> None:
        self._metrics.observe_step(worker, report)
        now = self._now()
        for output in report.outputs:
            self._take(output, now)

    def worker_lost(self, worker: int, reason: str) -> None:
        self.ready.pop(worker, None)
        self._memories[worker].clear()
        self._metrics.worker_lost(worker)
        lost = [key for key, flight in self._flights.items() if flight.worker == worker]
        for sequence_id in lost:
            self._fail(sequence_id, WorkerDied(f"the worker was lost ({reason}); send it again"))

    def worker_restarting(self, worker: int) -> None:
        self._metrics.worker_restarted(worker)

    def _check_room(self) -> None:
        if not self.is_ready:
            raise EngineUnavailable("no worker is ready; try again in a moment")
        limit = self._num_slots * self._config.num_workers + self._config.max_queued
        if len(self._flights) >= limit:
            raise QueueFull(
                f"{self._config.max_queued} requests are waiting already; try again later",
                retry_after_seconds=self._estimate_wait(),
            )

    def _estimate_wait(self) -> int:
        """Until the queue would be empty, if requests go on as they did."""
        slots = self._num_slots * self._config.num_workers
        seconds = self._mean_seconds * self._config.max_queued / slots
        return max(1, min(MAX_RETRY_AFTER_SECONDS, math.ceil(seconds)))

    def _choose(self, names: list[int]) -> int:
        living = [supervisor.number for supervisor in self._supervisors if supervisor.is_ready]
        chosen = choose_worker(
            names,
            [self._memories[number] for number in living],
            [self._loads[number] for number in living],
        )
        return living[chosen]

    def _take(self, output: SequenceOutput, now: float) -> None:
        flight = self._flights.get(output.sequence_id)
        if flight is None:
            return  # aborted while the step ran
        stream = flight.stream
        if stream.stage == "queued":
            stream.begin(output.num_cached_tokens)
            self._metrics.request_began(now - flight.submitted)
        if output.token_ids:
            self._observe_tokens(flight, now)
        stream.push(output.token_ids, output.finish_reason)
        if stream.stage == "done":
            self._finish(output, flight, now)

    def _observe_tokens(self, flight: _Flight, now: float) -> None:
        if flight.last_token:
            self._metrics.next_token(now - flight.last_token)
        else:
            flight.first_token = now
            self._metrics.first_token(
                now - flight.submitted,
                num_prompt_tokens=flight.stream.num_prompt_tokens,
                num_cached_tokens=flight.stream.num_cached_tokens,
            )
        flight.last_token = now

    def _finish(self, output: SequenceOutput, flight: _Flight, now: float) -> None:
        self._remove(output.sequence_id)
        if output.finish_reason is None:  # a stop string, which the worker does not know of
            self._send_abort(output.sequence_id, flight.worker)
        seconds = now - flight.submitted
        self._mean_seconds += SMOOTHING * (seconds - self._mean_seconds)
        assert flight.stream.finish_reason is not None
        self._metrics.request_finished(
            flight.stream.finish_reason,
            e2e_seconds=seconds,
            ttft_seconds=flight.first_token - flight.submitted if flight.first_token else seconds,
            num_tokens=flight.stream.num_output_tokens,
        )

    def _abort(self, sequence_id: int) -> None:
        flight = self._remove(sequence_id)
        stage = flight.stream.stage
        assert stage != "done"
        self._metrics.request_aborted(stage)
        self._send_abort(sequence_id, flight.worker)

    def _send_abort(self, sequence_id: int, worker: int) -> None:
        if self._supervisors[worker].is_ready:
            self._supervisors[worker].send(Abort(sequence_id=sequence_id))

    def _fail(self, sequence_id: int, error: WorkerDied) -> None:
        flight = self._remove(sequence_id)
        self._metrics.request_failed()
        flight.stream.fail(error)

    def _remove(self, sequence_id: int) -> _Flight:
        flight = self._flights.pop(sequence_id)
        self._loads[flight.worker] -= 1
        return flight

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _engine_of(config: PoolConfig, worker: int) -> EngineConfig:
    if not config.gpus:
        return config.engine
    return msgspec.structs.replace(config.engine, gpu=config.gpus[worker % len(config.gpus)])


def _submission(sequence_id: int, request: GenerationRequest) -> Submit:
    return Submit(
        sequence_id=sequence_id,
        prompt=request.prompt,
        sampling=request.sampling,
        max_tokens=request.max_tokens,
        tenant=request.tenant,
        session=request.session,
        thinking=request.thinking,
    )
