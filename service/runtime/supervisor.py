"""Keeps one worker alive: started, watched, started again."""

import asyncio
import contextlib
from typing import Protocol

import msgspec
import structlog

from service.core.messages import Command, Failed, Ready, Report, StepReport
from service.engine.config import EngineConfig
from service.errors import EngineError, EngineUnavailable
from service.runtime.worker_process import WorkerProcess

logger = structlog.stdlib.get_logger(__name__)

FIRST_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 30.0


class WorkerEvents(Protocol):
    """Who is told what happens to a worker."""

    def worker_ready(self, worker: int, pid: int, ready: Ready) -> None: ...
    def worker_reported(self, worker: int, report: StepReport) -> None: ...
    def worker_lost(self, worker: int, reason: str) -> None: ...
    def worker_restarting(self, worker: int) -> None: ...


class Supervisor:
    """Owns the lives of worker number `number`, one after the other.

    A worker that dies in its first warm-up is started once in safe mode, without repacked weights;
    if that fails too, it never could run and `wait_ready` says so. One that was ready before is
    started again for ever, later each time it dies soon.
    """

    def __init__(self, number: int, config: EngineConfig, events: WorkerEvents) -> None:
        self.number = number
        self.is_ready = False
        self._config = config
        self._events = events
        self._process: WorkerProcess | None = None
        self._settled = asyncio.Event()
        self._failure: EngineError | None = None
        self._last_words: Failed | None = None
        self._was_ever_ready = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._live(), name=f"worker-{self.number}")

    async def wait_ready(self) -> None:
        """Raises EngineError, with the worker's last words, if it cannot be started."""
        await self._settled.wait()
        if self._failure is not None:
            raise self._failure

    def send(self, command: Command) -> None:
        """Raises EngineUnavailable while there is no ready worker."""
        if self._process is None or not self.is_ready:
            raise EngineUnavailable("the worker is restarting; try again in a moment")
        self._process.send(command)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _live(self) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            started = asyncio.get_running_loop().time()
            reason = await self._live_once()
            lived = asyncio.get_running_loop().time() - started
            self._events.worker_lost(self.number, reason)
            if not self._was_ever_ready and not self._enter_safe_mode(reason):
                return
            backoff = (
                FIRST_BACKOFF_SECONDS
                if lived > MAX_BACKOFF_SECONDS
                else min(2 * backoff, MAX_BACKOFF_SECONDS)
            )
            logger.error("worker_died", worker=self.number, reason=reason, restart_in_s=backoff)
            await asyncio.sleep(backoff)
            self._events.worker_restarting(self.number)

    async def _live_once(self) -> str:
        """One life, to its end; why it ended."""
        self._last_words = None
        self._process = process = WorkerProcess(self._config, self._take)
        try:
            await process.start()
            status = await process.wait()
        finally:
            self.is_ready = False
            await asyncio.shield(process.kill())
            process.close()
        return _explain(status, self._last_words)

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
                self.is_ready = self._was_ever_ready = True
                self._events.worker_ready(self.number, self._process.pid, report)
                self._settled.set()
            case StepReport():
                self._events.worker_reported(self.number, report)
            case Failed():
                self._last_words = report


def _explain(status: int, last_words: Failed | None) -> str:
    if last_words is not None:
        return last_words.message
    if status < 0:
        return f"killed by signal {-status}"
    return f"ended with status {status}"
