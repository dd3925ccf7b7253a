"""Keeps one worker alive: started, watched, started again."""

import asyncio
import contextlib
import signal
from typing import Protocol

import msgspec
import structlog

from service.core.messages import (
    Abort,
    Command,
    Embed,
    Embedded,
    Failed,
    Forgotten,
    Ready,
    Report,
    StepReport,
    Submit,
)
from service.engine.config import EngineConfig
from service.errors import EngineError, EngineUnavailable
from service.runtime.blame import Death
from service.runtime.watchdog import Watchdog
from service.runtime.worker_process import WorkerProcess

logger = structlog.stdlib.get_logger(__name__)

FIRST_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 30.0


class WorkerEvents(Protocol):
    """Who is told what happens to a worker."""

    def worker_ready(self, worker: int, pid: int, ready: Ready) -> None: ...
    def worker_reported(self, worker: int, report: StepReport) -> None: ...
    def worker_forgot(self, worker: int, answer: Forgotten) -> None: ...
    def worker_embedded(self, worker: int, report: Embedded) -> None: ...
    def worker_hung(self, worker: int) -> None: ...
    def worker_lost(self, worker: int, death: Death) -> None: ...
    def worker_restarting(self, worker: int) -> None: ...


class Supervisor:
    """Owns the lives of worker number `number`, one after the other.

    A worker that dies in its first warm-up is started once in safe mode, without repacked weights;
    if that fails too, it never could run and `wait_ready` says so. One that was ready before is
    started again for ever, later each time it dies soon. One that hangs is killed.
    """

    def __init__(
        self, number: int, config: EngineConfig, events: WorkerEvents, *, watchdog_seconds: float
    ) -> None:
        self.number = number
        self.is_ready = False
        self.num_failed_starts = 0
        """Lives in a row that ended before the worker was ready."""
        self._config = config
        self._events = events
        self._process: WorkerProcess | None = None
        self._watchdog = Watchdog(watchdog_seconds, self._kill_hung)
        self._is_hung = False
        self._open: set[int] = set()
        self._open_texts: set[int] = set()
        self._settled = asyncio.Event()
        self._failure: EngineError | None = None
        self._last_words: Failed | None = None
        self._was_ready = False
        self._was_ever_ready = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._live(), name=f"worker-{self.number}")
        self._task.add_done_callback(_tell_failure)

    async def wait_ready(self) -> None:
        """Raises EngineError, with the worker's last words, if it cannot be started."""
        await self._settled.wait()
        if self._failure is not None:
            raise self._failure

    @property
    def load(self) -> int:
        """Sequences that the worker has been sent and has not ended."""
        return len(self._open)

    def send(self, command: Command) -> None:
        """Raises EngineUnavailable while there is no ready worker."""
        if self._process is None or not self.is_ready:
            raise EngineUnavailable("the worker is restarting; try again in a moment")
        self._process.send(command)
        match command:
            case Submit(sequence_id=sequence_id):
                self._open.add(sequence_id)
                self._watchdog.watch()
            case Embed(sequence_id=sequence_id):
                self._open_texts.add(sequence_id)
                self._watchdog.watch()
            case Abort(sequence_id=sequence_id):
                self._close([sequence_id])
            case _:
                pass

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _live(self) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            started = asyncio.get_running_loop().time()
            death = await self._live_once()
            self.num_failed_starts = 0 if self._was_ready else self.num_failed_starts + 1
            lived = asyncio.get_running_loop().time() - started
            self._events.worker_lost(self.number, death)
            if not self._was_ever_ready and not self._enter_safe_mode(death.reason):
                return
            backoff = (
                FIRST_BACKOFF_SECONDS
                if lived > MAX_BACKOFF_SECONDS
                else min(2 * backoff, MAX_BACKOFF_SECONDS)
            )
            logger.error(
                "worker_died",
                worker=self.number,
                reason=death.reason,
                num_running=len(death.running),
                restart_in_s=backoff,
            )
            await asyncio.sleep(backoff)
            self._events.worker_restarting(self.number)

    async def _live_once(self) -> Death:
        """One life, to its end."""
        self._last_words = None
        self._is_hung = self._was_ready = False
        try:
            self._process = process = WorkerProcess(self._config, self._take)
        except OSError as error:
            return _fail_to_start(error)
        try:
            await process.start()
            return self._describe(await process.wait(), process.read_roster())
        except OSError as error:
            return _fail_to_start(error)
        finally:
            process.stop_listening()
            self.is_ready = False
            self._open.clear()
            self._open_texts.clear()
            self._watchdog.rest()
            await asyncio.shield(process.end())
            process.close()

    def _describe(self, status: int, running: frozenset[int]) -> Death:
        reason = _explain(status, self._last_words)
        if self._is_hung:
            reason = "it had work and said nothing until the watchdog killed it"
        is_outside = status == -signal.SIGKILL and not self._is_hung
        return Death(reason=reason, is_outside=is_outside, running=running)

    def _kill_hung(self) -> None:
        assert self._process is not None
        self._is_hung = True
        logger.warning("worker_hung", worker=self.number, num_requests=self.load)
        self._events.worker_hung(self.number)
        self._process.kill()

    def _enter_safe_mode(self, reason: str) -> bool:
        """Whether it is worth another try: it died, did not just refuse, and was not safe yet."""
        has_refused = self._last_words is not None
        if has_refused or not self._config.extra_buffers:
            self._failure = EngineError(f"the engine cannot start: {reason}")
            self._settled.set()
            return False
        logger.warning(
            "worker_safe_mode",
            worker=self.number,
            reason=reason,
            means="weights are not repacked for this CPU (use_extra_bufts=False); slower, but safe",
        )
        self._config = msgspec.structs.replace(self._config, extra_buffers=False)
        return True

    def _take(self, report: Report) -> None:
        match report:
            case Ready():
                assert self._process is not None
                self.is_ready = self._was_ready = self._was_ever_ready = True
                self._events.worker_ready(self.number, self._process.pid, report)
                self._settled.set()
            case StepReport():
                self._watchdog.hear()
                self._close([out.sequence_id for out in report.outputs if out.finish_reason])
                self._events.worker_reported(self.number, report)
            case Forgotten():
                self._events.worker_forgot(self.number, report)
            case Embedded():
                self._watchdog.hear()
                if report.vector is not None:
                    self._close([report.sequence_id])
                self._events.worker_embedded(self.number, report)
            case Failed():
                self._last_words = report

    def _close(self, sequence_ids: list[int]) -> None:
        """The worker owes nothing more for these."""
        self._open.difference_update(sequence_ids)
        self._open_texts.difference_update(sequence_ids)
        if not self._open and not self._open_texts:
            self._watchdog.rest()


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.critical("supervisor_failed", task=task.get_name(), exc_info=task.exception())


def _fail_to_start(error: OSError) -> Death:
    reason = f"the process could not be started: {error}"
    return Death(reason=reason, is_outside=True, running=frozenset())


def _explain(status: int, last_words: Failed | None) -> str:
    if last_words is not None:
        return last_words.message
    if status < 0:
        return f"killed by signal {-status}"
    return f"ended with status {status}"
