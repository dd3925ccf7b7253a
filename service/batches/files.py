"""Files of clients: the bytes in a folder under names of ours, what is known of them in SQLite."""

import os
import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec
from anyio import to_thread

from service.batches.config import BatchesConfig
from service.batches.objects import Purpose, StoredFile, new_file_id
from service.batches.page import Cursor, Page, Selection, read_page
from service.errors import BodyTooLarge, InvalidRequest, ObjectNotFound, StorageError
from service.records.database import Database

Result = TypeVar("Result")

_PART = ".part"
_FLUSH_BYTES = 1 << 20


class Upload:
    """A file on its way. It is nobody's until it is kept, and gone if it is not."""

    def __init__(self, path: Path, account: Callable[[int], None]) -> None:
        """`account` is told of bytes before they are taken, and may refuse them by raising."""
        self.path = path
        self.num_bytes = 0
        self._account = account
        self._file: BinaryIO | None = None
        self._pending = bytearray()

    async def write(self, data: bytes) -> None:
        """Raises BodyTooLarge, InvalidRequest or StorageError."""
        self._account(len(data))
        self.num_bytes += len(data)
        self._pending += data
        if len(self._pending) >= _FLUSH_BYTES:
            await self._flush()

    async def seal(self) -> None:
        """All bytes are on the disk after this. Raises StorageError."""
        await self._flush()
        await _off_loop(self._sync)

    def discard(self) -> None:
        if self._file is not None:
            self._file.close()
        self.path.unlink(missing_ok=True)

    async def _flush(self) -> None:
        data, self._pending = bytes(self._pending), bytearray()
        await _off_loop(self._append, data)

    def _append(self, data: bytes) -> None:
        if self._file is None:
            self._file = self.path.open("xb", buffering=0)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def _sync(self) -> None:
        assert self._file is not None
        os.fsync(self._file.fileno())
        self._file.close()


class FileStore:
    """Others' files and those that have expired are not here, whoever asks."""

    def __init__(
        self, database: Database, config: BatchesConfig, clock: Callable[[], float]
    ) -> None:
        """`clock` is the wall's."""
        self._database = database
        self._config = config
        self._clock = clock
        self._folder = config.directory / "files"
        self._arriving: Counter[str] = Counter()
        """Bytes of uploads by tenant."""

    async def open(self) -> None:
        """Removes what a killed process left half-done. Raises StorageError."""
        known = await self._database.run(_list_ids)
        await _off_loop(self._remove_strangers, known)

    @asynccontextmanager
    async def receive(self, tenant: str) -> AsyncGenerator[Upload]:
        """A file from a client, within its limits."""
        stored = await self._database.run(lambda connection: _sum_bytes(connection, tenant))
        mine = 0

        def account(num_bytes: int) -> None:
            nonlocal mine
            mine += num_bytes
            self._arriving[tenant] += num_bytes
            if mine > self._config.max_file_bytes:
                raise BodyTooLarge(
                    f"The file is larger than the {self._config.max_file_bytes} bytes allowed here."
                )
            if stored + self._arriving[tenant] > self._config.max_tenant_bytes:
                raise InvalidRequest(
                    f"Your files would take more than the {self._config.max_tenant_bytes} bytes "
                    "that you may keep here; delete some.",
                    param="file",
                    code="storage_quota_exceeded",
                )

        upload = self._new_upload(account)
        try:
            yield upload
        finally:
            self._arriving[tenant] -= mine
            upload.discard()

    @asynccontextmanager
    async def write_output(self) -> AsyncGenerator[Upload]:
        """A file of ours, as long as it gets."""
        upload = self._new_upload(lambda _num_bytes: None)
        try:
            yield upload
        finally:
            upload.discard()

    async def keep(
        self, upload: Upload, *, tenant: str, name: str, seconds: int | None
    ) -> StoredFile:
        """The client's from now on. Raises StorageError."""
        file = await self.place(upload, tenant=tenant, name=name, purpose="batch", seconds=seconds)
        try:
            await self._database.run(lambda connection: insert_file(connection, file))
        except StorageError:
            await self.forget(file)
            raise
        return file

    async def place(
        self, upload: Upload, *, tenant: str, name: str, purpose: Purpose, seconds: int | None
    ) -> StoredFile:
        """Whole and under its name, but nobody's until `insert_file`. Raises StorageError."""
        now = int(self._clock())
        file = StoredFile(
            id=new_file_id(),
            tenant=tenant,
            name=name,
            purpose=purpose,
            num_bytes=upload.num_bytes,
            created_at=now,
            expires_at=now + (seconds or self._config.retention_seconds),
        )
        await upload.seal()
        await _off_loop(_move, upload.path, self.path(file.id))
        return file

    async def forget(self, *files: StoredFile) -> None:
        """Removes what was placed and is nobody's."""
        await _off_loop(self._unlink, [file.id for file in files])

    async def get(self, tenant: str, file_id: str) -> StoredFile:
        """Raises ObjectNotFound."""
        now = self._clock()
        found = await self._database.run(lambda connection: _find(connection, tenant, file_id, now))
        if found is None:
            raise _not_found(file_id)
        return found

    async def read_page(
        self, tenant: str, cursor: Cursor, purpose: str | None = None
    ) -> Page[StoredFile]:
        """Raises ObjectNotFound for an unknown `after`."""
        selection = Selection(
            table="files",
            where="tenant = ? AND expires_at > ? AND (? IS NULL OR purpose = ?)",
            values=(tenant, self._clock(), purpose, purpose),
        )
        return await self._database.run(
            lambda connection: read_page(connection, selection, cursor, _decode)
        )

    async def delete(self, tenant: str, file_id: str) -> None:
        """Raises ObjectNotFound, or InvalidRequest for the input of a running batch."""
        now = self._clock()

        def remove(connection: sqlite3.Connection) -> None:
            if _find(connection, tenant, file_id, now) is None:
                raise _not_found(file_id)
            user = connection.execute(
                "SELECT id FROM batches WHERE input_file_id = ? AND NOT is_over", (file_id,)
            ).fetchone()
            if user is not None:
                raise InvalidRequest(
                    f"The file is being read by {user[0]}; cancel that batch first.",
                    param="file_id",
                    code="file_in_use",
                )
            connection.execute("DELETE FROM files WHERE id = ?", (file_id,))

        await self._database.run(remove)
        await _off_loop(self._unlink, [file_id])

    async def remove_expired(self) -> None:
        """Raises StorageError."""
        now = self._clock()

        def remove(connection: sqlite3.Connection) -> list[str]:
            rows = connection.execute(
                "DELETE FROM files WHERE expires_at <= ? AND id NOT IN "
                "(SELECT input_file_id FROM batches WHERE NOT is_over) RETURNING id",
                (now,),
            )
            return [file_id for (file_id,) in rows.fetchall()]

        await _off_loop(self._unlink, await self._database.run(remove))

    def path(self, file_id: str) -> Path:
        """Of an id that was found in the records; never of one from a request."""
        return self._folder / file_id

    async def open_content(self, file: StoredFile) -> BinaryIO:
        """It can be read to its end even if it is deleted meanwhile. Raises StorageError."""
        try:
            return await to_thread.run_sync(_open, self.path(file.id))
        except FileNotFoundError:
            raise _not_found(file.id) from None
        except OSError as error:
            raise _storage_error(error) from error

    def _new_upload(self, account: Callable[[int], None]) -> Upload:
        return Upload(self._folder / (new_file_id() + _PART), account)

    def _unlink(self, file_ids: Sequence[str]) -> None:
        for file_id in file_ids:
            self.path(file_id).unlink(missing_ok=True)

    def _remove_strangers(self, known: frozenset[str]) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._folder.iterdir():
            if path.name not in known and path.name.startswith("file-"):
                path.unlink()


def insert_file(connection: sqlite3.Connection, file: StoredFile) -> None:
    connection.execute(
        "INSERT INTO files (id, tenant, purpose, num_bytes, expires_at, document) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (
            file.id,
            file.tenant,
            file.purpose,
            file.num_bytes,
            file.expires_at,
            msgspec.json.encode(file),
        ),
    )


def _decode(document: bytes) -> StoredFile:
    return msgspec.json.decode(document, type=StoredFile)


def _find(
    connection: sqlite3.Connection, tenant: str, file_id: str, now: float
) -> StoredFile | None:
    row = connection.execute(
        "SELECT document FROM files WHERE id = ? AND tenant = ? AND expires_at > ?",
        (file_id, tenant, now),
    ).fetchone()
    return None if row is None else _decode(row[0])


def _list_ids(connection: sqlite3.Connection) -> frozenset[str]:
    return frozenset(file_id for (file_id,) in connection.execute("SELECT id FROM files"))


def _sum_bytes(connection: sqlite3.Connection, tenant: str) -> int:
    query = "SELECT coalesce(sum(num_bytes), 0) FROM files WHERE tenant = ?"
    (num_bytes,) = connection.execute(query, (tenant,)).fetchone()
    return num_bytes


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


def _move(source: Path, target: Path) -> None:
    """Whole or not at all, after a power failure too."""
    source.rename(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _not_found(file_id: str) -> ObjectNotFound:
    return ObjectNotFound(f"There is no file {file_id[:100]!r}.", param="file_id")


def _storage_error(error: OSError) -> StorageError:
    return StorageError(f"the file cannot be kept or read: {error.strerror}.")


async def _off_loop(act: Callable[..., Result], *arguments: object) -> Result:
    """Disks may take their time; it is waited for even by who is cancelled. Raises StorageError."""
    try:
        return await to_thread.run_sync(act, *arguments)
    except OSError as error:
        raise _storage_error(error) from error
