"""Files and batches as a whole: what the API asks, and what runs behind it."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog
from anyio import CancelScope, sleep

from service.batches.batch_store import BatchStore
from service.batches.config import BatchesConfig
from service.batches.files import FileStore
from service.batches.gate import Capacity, Gate
from service.batches.objects import Batch, new_batch_id
from service.batches.page import Cursor, Page
from service.batches.runner import Execute, LineMetrics, Runner
from service.batches.schema import MIGRATIONS
from service.errors import InvalidRequest, ObjectNotFound, StorageError
from service.records.database import Database

logger = structlog.stdlib.get_logger(__name__)

_RETRY_SECONDS = 5.0


class Metrics(LineMetrics, Protocol):
    def batches_counted(self, num_by_status: Mapping[str, int]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    database: Database
    files: FileStore
    batches: BatchStore
    runner: Runner


class Batches:
    """Owns its folder while it is open. Where that cannot be, the rest of the service goes on."""

    def __init__(
        self,
        config: BatchesConfig,
        *,
        capacity: Capacity,
        is_closed: Callable[[], bool],
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        """`clock` is the wall's. No line begins once `is_closed` says so."""
        self.config = config
        self._capacity = capacity
        self._is_closed = is_closed
        self._metrics = metrics
        self._clock = clock
        self._opened: _Opened | None = None
        self._failure = "it is not open yet"
        self._scope = CancelScope()
        self._task: asyncio.Task[None] | None = None

    async def start(self, execute: Execute) -> None:
        """Opens what is kept and goes on with it; `execute` answers a line as HTTP would."""
        with contextlib.suppress(StorageError):  # it is logged, and tried again
            await self._open(execute)
        self._task = asyncio.create_task(self._live(execute), name="batches")

    async def stop(self) -> None:
        """Lines that run are given up, to be run again; what has been answered is kept."""
        if self._task is not None:
            self._scope.cancel()
            await self._task
        if self._opened is not None:
            await self._opened.database.close()
            self._opened = None

    @property
    def files(self) -> FileStore:
        """Raises StorageError while the folder cannot be used."""
        return self._get().files

    async def create(
        self,
        tenant: str,
        *,
        endpoint: str,
        input_file_id: str,
        metadata: dict[str, str] | None,
        output_seconds: int | None,
    ) -> Batch:
        """Raises ObjectNotFound, InvalidRequest, QueueFull or StorageError."""
        opened = self._get()
        await self._check_input_file(opened.files, tenant, input_file_id)
        now = int(self._clock())
        batch = Batch(
            id=new_batch_id(),
            tenant=tenant,
            endpoint=endpoint,
            input_file_id=input_file_id,
            created_at=now,
            expires_at=now + self.config.window_seconds,
            metadata=metadata,
            output_seconds=output_seconds,
        )
        await opened.batches.add(batch, max_active=self.config.max_active)
        opened.runner.add(batch)
        return batch

    async def get(self, tenant: str, batch_id: str) -> Batch:
        """Raises ObjectNotFound or StorageError."""
        return await self._get().batches.get(tenant, batch_id)

    async def read_page(self, tenant: str, cursor: Cursor) -> Page[Batch]:
        """Raises ObjectNotFound or StorageError."""
        return await self._get().batches.read_page(tenant, cursor)

    async def cancel(self, tenant: str, batch_id: str) -> Batch:
        """Raises ObjectNotFound, InvalidRequest or StorageError."""
        opened = self._get()
        batch = await opened.batches.cancel(tenant, batch_id, int(self._clock()))
        opened.runner.interrupt(batch)
        return batch

    async def _check_input_file(self, files: FileStore, tenant: str, file_id: str) -> None:
        try:
            file = await files.get(tenant, file_id)
        except ObjectNotFound as error:
            raise ObjectNotFound(error.message, param="input_file_id") from None
        if file.purpose != "batch":
            raise InvalidRequest(
                f"The file's purpose is {file.purpose}; upload it with the purpose batch.",
                param="input_file_id",
            )

    def _get(self) -> _Opened:
        if self._opened is None:
            raise StorageError(f"files and batches are not available: {self._failure}")
        return self._opened

    async def _live(self, execute: Execute) -> None:
        with self._scope:
            while True:
                try:
                    if self._opened is not None:
                        await self._opened.runner.run()
                except Exception:
                    logger.exception("batches_stopped", retry_in_s=_RETRY_SECONDS)
                await sleep(_RETRY_SECONDS)
                with contextlib.suppress(StorageError), CancelScope(shield=True):
                    await self._open(execute)

    async def _open(self, execute: Execute) -> None:
        """To be waited for: half open, nobody would close it."""
        if self._opened is not None:
            return
        config = self.config
        database = Database(config.directory / "batches.sqlite", MIGRATIONS)
        try:
            await database.open()
            files = FileStore(database, config, self._clock)
            await files.open()
            batches = BatchStore(database, self._metrics.batches_counted)
            await batches.count()
        except StorageError as error:
            await database.close()
            if error.reason != self._failure:
                logger.warning("batches_unavailable", reason=str(error))
            self._failure = error.reason
            raise
        gate = Gate(
            self._capacity,
            max_in_flight=config.max_in_flight,
            is_closed=self._is_closed,
            clock=time.monotonic,
        )
        runner = Runner(
            config,
            batches=batches,
            files=files,
            gate=gate,
            execute=execute,
            metrics=self._metrics,
            clock=self._clock,
        )
        self._opened = _Opened(database=database, files=files, batches=batches, runner=runner)
