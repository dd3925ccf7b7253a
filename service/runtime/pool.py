"""The pool of workers: what the API submits requests to."""

import asyncio
import itertools
import math
import time
from collections.abc import Callable

import msgspec
import structlog

from service.core.messages import Abort, Ready, SequenceOutput, StepReport
from service.core.request import GenerationRequest
from service.engine.config import EngineConfig
from service.errors import EngineUnavailable, QueueFull, WorkerDied
from service.kvcache.size_class import parse_size_classes
from service.runtime.blame import Death, convict
from service.runtime.config import PoolConfig
from service.runtime.flight import Flight
from service.runtime.placement import Placement
from service.runtime.stream import OutputStream
from service.runtime.supervisor import Supervisor
from service.telemetry.metrics import Metrics

logger = structlog.stdlib.get_logger(__name__)

MAX_FAILED_STARTS = 3
"""When every worker failed to start so often in a row, requests wait for none of them any more."""
MAX_RETRY_AFTER_SECONDS = 60
SMOOTHING = 0.2
"""Weight of the latest request in the running mean of request durations."""


class EnginePool:
    """Owns the workers and every request that is in them. Belongs to one event loop."""

    def __init__(
        self,
        config: PoolConfig,
        token_bytes: Callable[[int], bytes],
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`token_bytes` renders a token of the model that the workers run.

        `clock` is not the event loop's, which stands still between wake-ups.
        """
        self._clock = clock
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
            Supervisor(
                number,
                _engine_of(config, number),
                self,
                watchdog_seconds=config.watchdog_seconds,
            )
            for number in workers
        ]
        self._placement = Placement(self._supervisors, metrics, num_cells=num_cells)
        self._flights: dict[int, Flight] = {}
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
        for flight in list(self._flights.values()):
            self._fail(flight, WorkerDied("the service is shutting down"))

    @property
    def is_ready(self) -> bool:
        return any(supervisor.is_ready for supervisor in self._supervisors)

    @property
    def num_running(self) -> int:
        return len(self._flights) - self.num_waiting

    @property
    def num_waiting(self) -> int:
        return sum(
            1
            for flight in self._flights.values()
            if flight.worker is None or flight.stream.stage == "queued"
        )

    def submit(self, request: GenerationRequest) -> OutputStream:
        """Hand a request to a worker, or let it wait for one that is about to take it.

        It outlives its worker: another goes on with it. Raises QueueFull when as many wait as may,
        EngineUnavailable when no worker is ready.
        """
        self.check_room(1)
        sequence_id = next(self._ids)
        stream = OutputStream(
            request,
            token_bytes=self._token_bytes,
            on_abort=lambda _stream: self._abort(sequence_id),
        )
        flight = Flight(
            sequence_id=sequence_id, request=request, stream=stream, submitted=self._clock()
        )
        self._flights[sequence_id] = flight
        self._metrics.request_admitted()
        self._placement.add(flight)
        self._placement.fill()
        return stream

    def check_room(self, num_requests: int) -> None:
        """Whether so many may be submitted now. Raises as `submit` does."""
        if not self.is_ready:
            raise EngineUnavailable("no worker is ready; try again in a moment")
        limit = self._num_slots * self._config.num_workers + self._config.max_queued
        if len(self._flights) + num_requests > limit:
            raise QueueFull(
                f"{self._config.max_queued} requests may wait, and there is no room for "
                f"{num_requests} more; try again later",
                retry_after_seconds=self._estimate_wait(),
            )

    def worker_ready(self, worker: int, pid: int, ready: Ready) -> None:
        self.ready[worker] = ready
        if not ready.can_copy:
            logger.warning(
                "snapshots_off",
                worker=worker,
                means="this build of llama.cpp reads states in another form than expected; "
                "computed tokens are reused in their own slot only",
            )
        self._metrics.worker_started(worker, pid)
        classes = [(size.num_slots, size.slot_len) for size in self._classes]
        self._metrics.observe_ready(worker, ready, classes)
        self._placement.fill()

    def worker_reported(self, worker: int, report: StepReport) -> None:
        self._metrics.observe_step(worker, report)
        now = self._clock()
        step_began = now - report.stats.step_seconds
        for output in report.outputs:
            self._take(output, now, step_began)
        self._placement.note_report(worker)
        self._placement.fill()

    def worker_hung(self, worker: int) -> None:
        self._metrics.worker_hung(worker)

    def worker_lost(self, worker: int, death: Death) -> None:
        self.ready.pop(worker, None)
        self._metrics.worker_lost(worker)
        lost = [flight for flight in self._flights.values() if flight.worker == worker]
        guilty = convict(lost, death)
        self._placement.add_lost(worker, lost)
        for flight in guilty:
            self._quarantine(flight, death)
        if all(one.num_failed_starts >= MAX_FAILED_STARTS for one in self._supervisors):
            for flight in self._placement.waiting:
                self._fail(flight, WorkerDied(f"the engine cannot be restarted ({death.reason})"))
        self._placement.fill()

    def worker_restarting(self, worker: int) -> None:
        self._metrics.worker_restarted(worker)

    def _estimate_wait(self) -> int:
        """Until the queue would be empty, if requests go on as they did."""
        slots = self._num_slots * self._config.num_workers
        seconds = self._mean_seconds * self._config.max_queued / slots
        return max(1, min(MAX_RETRY_AFTER_SECONDS, math.ceil(seconds)))

    def _take(self, output: SequenceOutput, now: float, step_began: float) -> None:
        flight = self._flights.get(output.sequence_id)
        if flight is None:
            return  # aborted while the step ran
        stream = flight.stream
        if stream.stage == "queued":
            stream.begin(output.num_cached_tokens)
            # A command that came while the step was being drained is a little older than it.
            self._metrics.request_began(max(0.0, step_began - flight.submitted))
        flight.take(output.token_ids)
        if output.token_ids:
            self._observe_tokens(flight, now)
        stream.push(output.token_ids, output.finish_reason)
        if stream.stage == "done":
            self._finish(output, flight, now)

    def _observe_tokens(self, flight: Flight, now: float) -> None:
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

    def _finish(self, output: SequenceOutput, flight: Flight, now: float) -> None:
        self._remove(flight)
        if output.finish_reason is None:  # a stop string, which the worker does not know of
            self._send_abort(flight)
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
        flight = self._flights[sequence_id]
        stage = flight.stream.stage
        assert stage != "done"
        self._remove(flight)
        self._metrics.request_aborted(stage)
        self._send_abort(flight)
        self._placement.fill()

    def _send_abort(self, flight: Flight) -> None:
        if flight.worker is not None and self._supervisors[flight.worker].is_ready:
            self._supervisors[flight.worker].send(Abort(sequence_id=flight.sequence_id))

    def _quarantine(self, flight: Flight, death: Death) -> None:
        logger.error(
            "request_quarantined",
            request_id=flight.request.request_id,
            reason=death.reason,
            num_deaths=flight.num_deaths,
            num_prompt_tokens=len(flight.request.prompt),
            num_generated=len(flight.output),
        )
        self._metrics.request_quarantined()
        message = (
            f"{flight.num_deaths} workers died while they ran this request, the last one "
            f"so: {death.reason}; it is not tried again"
        )
        self._fail(flight, WorkerDied(message))

    def _fail(self, flight: Flight, error: WorkerDied) -> None:
        self._remove(flight)
        self._metrics.request_failed()
        flight.stream.fail(error)

    def _remove(self, flight: Flight) -> None:
        del self._flights[flight.sequence_id]
        self._placement.remove(flight)


def _engine_of(config: PoolConfig, worker: int) -> EngineConfig:
    if not config.gpus:
        return config.engine
    return msgspec.structs.replace(config.engine, gpu=config.gpus[worker % len(config.gpus)])
