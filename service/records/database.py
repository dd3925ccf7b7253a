"""A SQLite file and the one thread that uses it.

The file belongs to one process: it is locked from `open` to `close`, and a second owner is told at
start. Killing the process loses nothing that was committed; losing power may lose the last
commits, and never more.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from service.errors import StorageError

MEMORY = ":memory:"
"""A path for what need not outlive the process."""

_MIB = 1024 * 1024
_SET_UP = (
    "PRAGMA auto_vacuum = FULL",  # before the first table, or it does nothing
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    f"PRAGMA journal_size_limit = {16 * _MIB}",
    "PRAGMA foreign_keys = ON",
)

Result = TypeVar("Result")


class Database:
    """Runs transactions one after the other, off the event loop."""

    def __init__(self, path: Path | str, migrations: Sequence[str]) -> None:
        """`migrations[n]` takes the schema from version n to n + 1; released ones never change."""
        self.path = str(path)
        self._migrations = migrations
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Makes the file where there is none, and brings its schema up to date.

        Raises StorageError that says why the file cannot be used.
        """
        try:
            await asyncio.wrap_future(self._thread.submit(self._open))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Waits for what runs; idempotent."""
        if self._connection is not None:
            await asyncio.wrap_future(self._thread.submit(self._close))
        self._thread.shutdown()

    async def run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """`work` is a transaction, undone if it raises. Raises StorageError for SQLite's failures.

        Once begun it is done, though nobody waits for it any more.
        """
        return await asyncio.wrap_future(self._submit(work))

    def _submit(self, work: Callable[[sqlite3.Connection], Result]) -> Future[Result]:
        try:
            return self._thread.submit(self._transact, work)
        except RuntimeError:  # that is how an executor that was shut down refuses
            raise StorageError("it is closed.", path=self.path) from None

    def _open(self) -> None:
        try:
            if self.path != MEMORY:
                _make_private(Path(self.path))
            # Autocommit: transactions begin and end where `_transact` says so.
            self._connection = sqlite3.connect(self.path, timeout=1, isolation_level=None)
            for statement in _SET_UP:
                self._connection.execute(statement).fetchall()
            self._migrate(self._connection)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(_explain(error), path=self.path) from error

    def _close(self) -> None:
        assert self._connection is not None
        self._connection.close()
        self._connection = None

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """In one transaction; its lock, taken now, tells a second owner at its start."""
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(self._migrations):
            raise StorageError(
                f"it was written by a newer version of smolserve (schema {version}, this one knows "
                f"{len(self._migrations)}); use that version or another file.",
                path=self.path,
            )
        for script in self._migrations[version:]:
            for statement in filter(str.strip, script.split(";")):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(self._migrations)}")
        connection.execute("COMMIT")

    def _transact(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        connection = self._connection
        if connection is None:
            raise StorageError("it is not open.", path=self.path)
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a full disk ends it by itself
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StorageError(_explain(error), path=self.path) from error
        return result


def num_bytes(connection: sqlite3.Connection) -> int:
    """What the rows take; free pages do not count."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _make_private(path: Path) -> None:
    """What clients wrote is for the owner's eyes."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _explain(error: OSError | sqlite3.Error) -> str:
    """The reason and what to do about it."""
    if isinstance(error, OSError):
        return f"{error.strerror}. Choose a file in a folder that this user may write to."
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return "another process uses it. End that process, or choose another file."
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return f"it is damaged ({error}). Move it away, and a new one is made."
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}:
        return f"{error}. Choose a file in a folder that this user may write to."
    if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
        return f"{error}. See whether its disk is full."
    return f"{error}."
