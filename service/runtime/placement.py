"""Which worker a request is in; those that none can take now wait here."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from service.core.messages import Forget
from service.runtime.flight import Flight
from service.runtime.router import BLOCK, PrefixMemory, choose_worker, name_blocks
from service.runtime.supervisor import Supervisor
from service.telemetry.metrics import Metrics

logger = structlog.stdlib.get_logger(__name__)

TRIAL_REPORTS = 4
"""Reports within which a worker with a free slot has begun what it was sent."""


@dataclass(slots=True)
class _Trial:
    """A suspect in a worker that takes nobody else until the suspect is proven or gone."""

    flight: Flight
    patience: int = TRIAL_REPORTS


class Placement:
    """Sends requests to workers. Every change but `fill` only prepares; `fill` sends.

    In the order of the waiting line come suspects, one at a time in each worker; then whose readers
    wait in the middle of an answer; then the others, each by age.
    """

    def __init__(
        self,
        supervisors: Sequence[Supervisor],
        metrics: Metrics,
        *,
        num_slots: int,
        num_cells: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`num_slots` is how many one worker has, and `num_cells` how many tokens they hold."""
        self._num_slots = num_slots
        self._supervisors = supervisors
        self._metrics = metrics
        self._clock = clock
        self._memories = [PrefixMemory(2 * num_cells // BLOCK) for _ in supervisors]
        self._trials: dict[int, _Trial] = {}
        self._waiting: dict[int, Flight] = {}

    @property
    def waiting(self) -> list[Flight]:
        return list(self._waiting.values())

    def add(self, flight: Flight) -> None:
        self._waiting[flight.sequence_id] = flight

    def add_lost(self, worker: int, lost: list[Flight]) -> None:
        """Take back what a worker had that died."""
        self._memories[worker].clear()
        self._trials.pop(worker, None)
        for flight in lost:
            flight.lose_worker()
        line = sorted([*self._waiting.values(), *lost], key=_rank)
        self._waiting = {flight.sequence_id: flight for flight in line}

    def remove(self, flight: Flight) -> None:
        """Forget a request that ended, wherever it is."""
        self._waiting.pop(flight.sequence_id, None)
        if flight.worker is not None:
            trial = self._trials.get(flight.worker)
            if trial is not None and trial.flight is flight:
                del self._trials[flight.worker]

    def note_report(self, worker: int) -> None:
        """A worker's outputs have been taken in: its trial may be over.

        A suspect that has to wait for a slot does not hold up the worker meanwhile.
        """
        trial = self._trials.get(worker)
        if trial is None:
            return
        if not trial.flight.is_running:
            trial.patience -= 1
        if not trial.flight.is_suspect or trial.patience == 0:
            del self._trials[worker]

    def fill(self) -> None:
        """Send on who waits, as far as workers take them."""
        while self._waiting:
            takers = [
                supervisor
                for supervisor in self._supervisors
                if supervisor.is_ready and supervisor.number not in self._trials
            ]
            if not takers:
                return
            self._send(self._waiting.pop(next(iter(self._waiting))), takers)

    def _send(self, flight: Flight, takers: list[Supervisor]) -> None:
        session = flight.session
        names = name_blocks(flight.share, flight.prompt)
        home = None if session is None else session.worker
        chosen = choose_worker(
            names,
            [self._memories[taker.number] for taker in takers],
            [taker.load for taker in takers],
            num_slots=self._num_slots,
            home=next((n for n, taker in enumerate(takers) if taker.number == home), None),
        )
        taker = takers[chosen]
        self._memories[taker.number].add(names)
        if flight.is_suspect:
            self._trials[taker.number] = _Trial(flight)
        if flight.num_placements:
            self._metrics.request_resubmitted()
            logger.debug(
                "request_resubmitted",
                request_id=flight.request.request_id,
                worker=taker.number,
                num_generated=len(flight.output),
                num_deaths=flight.num_deaths,
            )
        taker.send(flight.enter(taker.number, self._clock()))
        if session is not None:
            session.worker = taker.number
            if session.is_removed:  # while this waited; what it leaves is freed as well
                taker.send(Forget(tenant=session.tenant, session=session.id))


def _rank(flight: Flight) -> tuple[bool, bool, int]:
    return not flight.is_suspect, not flight.was_interrupted, flight.sequence_id
