"""The pool of workers: what the API submits requests to."""

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import structlog

from service.core.messages import (
    Abort,
    Embedded,
    Forget,
    Forgotten,
    Ready,
    SequenceOutput,
    StepReport,
)
from service.core.request import FinishReason, GenerationRequest
from service.engine.config import EngineConfig
from service.errors import EngineUnavailable, QueueFull, WorkerDied
from service.kvcache.size_class import parse_size_classes
from service.runtime.blame import Death, convict
from service.runtime.config import PoolConfig
from service.runtime.embeddings import Embeddings
from service.runtime.flight import Flight
from service.runtime.forgetting import Forgetting
from service.runtime.placement import Placement
from service.runtime.sessions import SessionRegistry
from service.runtime.sharing import Sharing
from service.runtime.stream import OutputStream
from service.runtime.supervisor import Supervisor
from service.telemetry.metrics import Metrics

logger = structlog.stdlib.get_logger(__name__)

Witness = Callable[[Flight, FinishReason, float], None]
"""Told of a request that ended, how and when by the pool's clock."""
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
        sharing: Sharing | None = None,
        witnesses: Sequence[Witness] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`token_bytes` renders a token of the model that the workers run.

        `sharing` is within tenants by default. `witnesses` are told of each request's end. `clock`
        is not the event loop's, which stands still between wake-ups.
        """
        self._clock = clock
        self._config = config
        self._token_bytes = token_bytes
        self._metrics = metrics
        self._sharing = sharing or Sharing()
        self._witnesses = witnesses
        self.sessions = SessionRegistry(
            max_sessions=config.max_sessions, ttl_seconds=config.session_ttl_seconds
        )
        metrics.count_sessions(lambda: len(self.sessions))
        self._forgetting = Forgetting()
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
        self._placement = Placement(
            self._supervisors,
            metrics,
            num_slots=self._num_slots,
            num_cells=num_cells,
            clock=clock,
        )
        self._flights: dict[int, Flight] = {}
        self._ids = itertools.count(1)
        self._embeddings = Embeddings(
            self._supervisors,
            self._ids,
            metrics,
            max_requests=self.num_slots + config.max_queued,
        )
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
        self._embeddings.fail_all(WorkerDied("the service is shutting down"))
        for supervisor in self._supervisors:
            self._forgetting.lose(
                supervisor.number, EngineUnavailable("the service is shutting down")
            )

    @property
    def is_ready(self) -> bool:
        return any(supervisor.is_ready for supervisor in self._supervisors)

    @property
    def num_slots(self) -> int:
        return self._num_slots * self._config.num_workers

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

    def count_before(self, priority: int) -> int:
        """Requests, running and waiting, that are served before one of this priority."""
        return sum(flight.request.priority < priority for flight in self._flights.values())

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
            sequence_id=sequence_id,
            request=request,
            stream=stream,
            submitted=self._clock(),
            share=self._sharing.label(request.tenant),
            num_public=self._sharing.count_public(request.prompt),
        )
        if request.session is not None:
            flight.session = self.sessions.begin(request.tenant, request.session)
        self._flights[sequence_id] = flight
        self._metrics.request_admitted()
        self._placement.add(flight)
        self._placement.fill()
        return stream

    def check_room(self, num_requests: int) -> None:
        """Whether so many may be submitted now. Raises as `submit` does."""
        if not self.is_ready:
            raise EngineUnavailable("no worker is ready; try again in a moment")
        limit = self.num_slots + self._config.max_queued
        if len(self._flights) + num_requests > limit:
            raise QueueFull(
                f"{self._config.max_queued} requests may wait, and there is no room for "
                f"{num_requests} more; try again later",
                retry_after_seconds=self._estimate_wait(),
            )

    @property
    def embedding_len(self) -> int:
        """Tokens that a text for `embed` may have; 0 where none is taken."""
        return self._config.engine.embedding_len

    async def embed(self, texts: Sequence[list[int]]) -> list[bytes]:
        """A vector of length 1 for each text, as little-endian float32; outlives workers.

        Raises as `submit` does, and WorkerDied.
        """
        return await self._embeddings.embed(texts)

    async def forget_session(self, tenant: str, session: str) -> int | None:
        """Free what a session computed, in every worker that has some of it.

        The number of tokens freed; None if nothing was known of it. Its running requests go on, and
        leave nothing. Raises EngineUnavailable when a worker cannot say that it has forgotten.
        """
        for supervisor in self._supervisors:
            if self._has_disk and not supervisor.is_ready:
                raise EngineUnavailable("a worker is restarting, and its disk may have the session")
        is_known = self.sessions.remove(tenant, session) is not None
        answers: list[asyncio.Future[int]] = []
        for supervisor in self._supervisors:
            if supervisor.is_ready:
                supervisor.send(Forget(tenant=tenant, session=session))
                answers.append(self._forgetting.expect(supervisor.number, tenant, session))
        try:
            async with asyncio.timeout(self._config.watchdog_seconds):
                num_tokens = sum(await asyncio.gather(*answers))
        except TimeoutError:
            raise EngineUnavailable("a worker is busy and has not answered yet") from None
        return num_tokens if is_known or num_tokens else None

    def worker_ready(self, worker: int, pid: int, ready: Ready) -> None:
        self.ready[worker] = ready
        logger.info(
            "worker_ready",
            worker=worker,
            load_seconds=round(ready.load_seconds, 2),
            cpu_variant=ready.cpu_variant,
            repacked=ready.extra_buffers,
            gpus=[gpu.name for gpu in ready.gpus],
        )
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
        for tenant, session, num_tokens in ready.sessions:
            self.sessions.learn(tenant, session, worker=worker, num_tokens=num_tokens)
        self._placement.fill()
        self._embeddings.fill()

    def worker_reported(self, worker: int, report: StepReport) -> None:
        self._metrics.observe_step(worker, report)
        now = self._clock()
        step_began = now - report.stats.step_seconds
        for output in report.outputs:
            self._take(output, now, step_began)
        self._placement.note_report(worker)
        self._placement.fill()

    def worker_forgot(self, worker: int, answer: Forgotten) -> None:
        self._forgetting.answer(worker, answer)

    def worker_embedded(self, worker: int, report: Embedded) -> None:  # noqa: ARG002 - the protocol's
        self._embeddings.take(report)

    def worker_hung(self, worker: int) -> None:
        self._metrics.worker_hung(worker)

    def worker_lost(self, worker: int, death: Death) -> None:
        self.ready.pop(worker, None)
        self._metrics.worker_lost(worker)
        lost = [flight for flight in self._flights.values() if flight.worker == worker]
        was_embedding = self._embeddings.lose(worker, death)
        guilty = [] if was_embedding else convict(lost, death)
        self._placement.add_lost(worker, lost)
        is_on_disk = EngineUnavailable("a worker died, and its disk may have the session")
        self._forgetting.lose(worker, is_on_disk if self._has_disk else None)
        for flight in guilty:
            self._quarantine(flight, death)
        if all(one.num_failed_starts >= MAX_FAILED_STARTS for one in self._supervisors):
            for flight in self._placement.waiting:
                self._fail(flight, WorkerDied(f"the engine cannot be restarted ({death.reason})"))
            self._embeddings.fail_all(
                WorkerDied(f"the engine cannot be restarted ({death.reason})")
            )
        self._placement.fill()
        self._embeddings.fill()

    def worker_restarting(self, worker: int) -> None:
        self._metrics.worker_restarted(worker)

    def _estimate_wait(self) -> int:
        """Until the queue would be empty, if requests go on as they did."""
        seconds = self._mean_seconds * self._config.max_queued / self.num_slots
        return max(1, min(MAX_RETRY_AFTER_SECONDS, math.ceil(seconds)))

    def _take(self, output: SequenceOutput, now: float, step_began: float) -> None:
        flight = self._flights.get(output.sequence_id)
        if flight is None:
            return  # aborted while the step ran
        stream = flight.stream
        if stream.stage == "queued":
            stream.begin(output.num_cached_tokens)
            # A command that came while the step was being drained is a little older than it.
            flight.began = max(step_began, flight.submitted)
            self._metrics.request_began(flight.began - flight.submitted)
        flight.take(output.token_ids)
        stream.num_accepted_tokens += output.num_accepted
        stream.num_rejected_tokens += output.num_rejected
        if output.token_ids:
            self._observe_tokens(flight, now)
        stream.push(output.token_ids, output.finish_reason, output.logprobs)
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
        self._tell_witnesses(flight, flight.stream.finish_reason, now)

    def _abort(self, sequence_id: int) -> None:
        flight = self._flights[sequence_id]
        stage = flight.stream.stage
        assert stage != "done"
        self._remove(flight)
        self._metrics.request_aborted(stage)
        self._send_abort(flight)
        self._placement.fill()
        self._tell_witnesses(flight, "abort", self._clock())

    def _tell_witnesses(self, flight: Flight, reason: FinishReason, ended: float) -> None:
        for witness in self._witnesses:
            witness(flight, reason, ended)

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
        self._tell_witnesses(flight, "error", self._clock())

    def _remove(self, flight: Flight) -> None:
        del self._flights[flight.sequence_id]
        self._placement.remove(flight)
        if flight.session is not None:
            has_begun = flight.stream.stage != "queued"
            self.sessions.end(flight.session, num_tokens=len(flight.prompt) if has_begun else None)

    @property
    def _has_disk(self) -> bool:
        return self._config.engine.disk_cache_bytes > 0


def _engine_of(config: PoolConfig, worker: int) -> EngineConfig:
    engine = config.engine
    if engine.disk_cache_bytes:
        folder = str(Path(engine.disk_cache_dir) / f"worker-{worker}")
        engine = msgspec.structs.replace(engine, disk_cache_dir=folder)
    if config.gpus:
        gpu = config.gpus[worker % len(config.gpus)]
        engine = msgspec.structs.replace(engine, gpu=gpu)
    return engine
