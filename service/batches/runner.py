"""Takes batches from their input to their files.

What it knows is in the store, so that a process that dies is followed by one that goes on.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog
from anyio import CancelScope, create_task_group, current_time, sleep, to_thread
from anyio.abc import TaskGroup

from service.batches.batch_store import BatchStore
from service.batches.config import BatchesConfig
from service.batches.files import FileStore, Upload
from service.batches.gate import PRIORITY, Gate
from service.batches.input_file import CheckedInput, InputRules, check_input, read_request
from service.batches.objects import Batch, Line, Problem, StoredFile
from service.batches.results import Answer, render_answer, render_unrun
from service.errors import ObjectNotFound, StorageError

logger = structlog.stdlib.get_logger(__name__)

_PAGE = 100
"""Lines that are fetched, or written out, in one transaction."""
_FIRST_RETRY_SECONDS = 1.0
_MAX_RETRY_SECONDS = 60.0
_SWEEP_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A line's request, as if its owner had sent it."""

    tenant: str
    endpoint: str
    body: bytes
    priority: int = PRIORITY


Execute = Callable[[Call], Awaitable[Answer]]


class LineMetrics(Protocol):
    def batch_lines_ended(self, outcome: str, count: int = 1) -> None: ...


class Runner:
    """A task for each batch that is not over; they share a gate."""

    def __init__(  # noqa: PLR0913 - what it joins
        self,
        config: BatchesConfig,
        *,
        batches: BatchStore,
        files: FileStore,
        gate: Gate,
        execute: Execute,
        metrics: LineMetrics,
        clock: Callable[[], float],
    ) -> None:
        """`clock` is the wall's."""
        self._config = config
        self._batches = batches
        self._files = files
        self._gate = gate
        self._execute = execute
        self._metrics = metrics
        self._clock = clock
        self._group: TaskGroup | None = None
        self._running: dict[str, CancelScope] = {}

    async def run(self) -> None:
        """Until it is cancelled: goes on with what there is, and takes what is added."""
        async with create_task_group() as group:
            self._group = group
            for batch in await self._batches.list_active():
                self.add(batch)
            while True:
                await self._sweep()
                await sleep(_SWEEP_SECONDS)

    def add(self, batch: Batch) -> None:
        assert self._group is not None
        self._group.start_soon(self._drive, batch)

    def interrupt(self, batch: Batch) -> None:
        """Its status has changed: lines that run are given up."""
        scope = self._running.get(batch.id)
        if scope is not None:
            scope.cancel()

    async def _sweep(self) -> None:
        try:
            await self._files.remove_expired()
        except StorageError as error:
            logger.warning("files_not_swept", reason=str(error))

    async def _drive(self, batch: Batch) -> None:
        """Whatever fails, a full disk as well, is tried again from where the store says it is."""
        wait_seconds = _FIRST_RETRY_SECONDS
        while True:
            try:
                return await self._go_on(batch.id)
            except Exception:
                logger.exception("batch_stalled", batch=batch.id, retry_in_s=wait_seconds)
            await sleep(wait_seconds)
            wait_seconds = min(2 * wait_seconds, _MAX_RETRY_SECONDS)

    async def _go_on(self, batch_id: str) -> None:
        batch = await self._batches.load(batch_id)
        if batch.ending is None:
            await self._run_in_time(batch)
            batch = await self._batches.load(batch_id)
            if batch.status == "failed":
                return
            num_unrun = await self._batches.end(batch, self._now(), render_unrun)
            batch = await self._batches.load(batch_id)
            self._metrics.batch_lines_ended(str(batch.ending), num_unrun)
        finished = await self._finish(batch)
        logger.info(
            "batch_ended",
            batch=finished.id,
            status=finished.status,
            num_completed=finished.num_completed,
            num_failed=finished.num_failed,
        )

    async def _run_in_time(self, batch: Batch) -> None:
        deadline = current_time() + max(0.0, batch.expires_at - self._clock())
        with CancelScope(deadline=deadline) as scope:
            self._running[batch.id] = scope
            try:
                if batch.status == "validating":
                    await self._validate(batch)
                    batch = await self._batches.load(batch.id)
                if batch.status == "in_progress":
                    await self._run_lines(batch)
            finally:
                del self._running[batch.id]

    async def _validate(self, batch: Batch) -> None:
        checked = await self._check(batch)
        if checked.problems:
            await self._batches.fail(batch, checked.problems, self._now())
        else:
            await self._batches.begin(batch, checked.lines, checked.model, self._now())

    async def _check(self, batch: Batch) -> CheckedInput:
        rules = InputRules(
            endpoint=batch.endpoint,
            max_lines=self._config.max_lines,
            max_body_bytes=self._config.max_body_bytes,
        )
        try:
            file = await self._files.get(batch.tenant, batch.input_file_id)
            content = await self._files.open_content(file)
        except ObjectNotFound as error:
            missing = Problem(code=error.code, message=str(error), param="input_file_id")
            return CheckedInput(problems=[missing])
        with content:
            return await to_thread.run_sync(check_input, content, rules)

    async def _run_lines(self, batch: Batch) -> None:
        """In passes: a line that the engine refused has no result, and is in the next one."""
        while await self._batches.next_lines(batch, 0, 1):
            async with create_task_group() as group:
                async for line in self._list_lines(batch):
                    await self._gate.enter()
                    group.start_soon(self._run_line, batch, line)

    async def _list_lines(self, batch: Batch) -> AsyncIterator[Line]:
        after = 0
        while lines := await self._batches.next_lines(batch, after, _PAGE):
            for line in lines:
                yield line
            after = lines[-1].number

    async def _run_line(self, batch: Batch, line: Line) -> None:
        try:
            path = self._files.path(batch.input_file_id)
            body = await to_thread.run_sync(read_request, path, line)
            answer = await self._execute(
                Call(tenant=batch.tenant, endpoint=batch.endpoint, body=body)
            )
        finally:
            self._gate.leave()
        if answer.is_refusal:
            self._gate.pause(answer.retry_after_seconds or _FIRST_RETRY_SECONDS)
            return
        with CancelScope(shield=True):  # it is there; a shutdown does not throw it away
            await self._commit(batch, line, answer)

    async def _commit(self, batch: Batch, line: Line, answer: Answer) -> None:
        result, usage = render_answer(line, answer)
        if await self._batches.commit(batch, line, result, failed=answer.is_failure, usage=usage):
            self._metrics.batch_lines_ended("failed" if answer.is_failure else "completed")

    async def _finish(self, batch: Batch) -> Batch:
        output = await self._write_results(batch, failed=False)
        errors = await self._write_results(batch, failed=True)
        try:
            return await self._batches.finish(batch, output, errors, self._now())
        except Exception:
            await self._files.forget(*filter(None, (output, errors)))
            raise

    async def _write_results(self, batch: Batch, *, failed: bool) -> StoredFile | None:
        """None where there are none."""
        async with self._files.write_output() as upload:
            await self._copy_results(batch, upload, failed=failed)
            if not upload.num_bytes:
                return None
            return await self._files.place(
                upload,
                tenant=batch.tenant,
                name=f"{batch.id}_{'error' if failed else 'output'}.jsonl",
                purpose="batch_output",
                seconds=batch.output_seconds,
            )

    async def _copy_results(self, batch: Batch, upload: Upload, *, failed: bool) -> None:
        after = 0
        read = partial(self._batches.read_results, batch, failed=failed, limit=_PAGE)
        while results := await read(after=after):
            for number, result in results:
                await upload.write(result)
                after = number

    def _now(self) -> int:
        return int(self._clock())
