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
    "PRAGMA auto_vacuum = INCREMENTAL",  # before the first table, or it does nothing
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    f"PRAGMA journal_size_limit = {16 * _MIB}",
    "PRAGMA foreign_keys = ON",
)

Result = TypeVar("Result")


class Database:
    """Runs transactions one after the other, off the event loop."""

    def __init__(self, path: str, migrations: Sequence[str]) -> None:
        """`migrations[n]` takes the schema from version n to n + 1; released ones never change."""
        self.path = path
        self._migrations = migrations
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Makes the file where there is none, and brings its schema up to date.

        Raises StorageError that says why the file cannot be used.
        """
        try:
            self._thread.submit(self._open).result()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Waits for what runs; idempotent."""
        if self._connection is not None:
            self._thread.submit(self._close).result()
        self._thread.shutdown()

    async def run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """`work` is a transaction, undone if it raises. Raises StorageError for SQLite's failures.

        Once begun it is done, though nobody waits for it any more.
        """
        return await asyncio.wrap_future(self._submit(work))

    def run_now(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """As `run`, for start and end, where no event loop is held up."""
        return self._submit(work).result()

    def _submit(self, work: Callable[[sqlite3.Connection], Result]) -> Future[Result]:
        try:
            return self._thread.submit(self._transact, work)
        except RuntimeError:  # that is how an executor that was shut down refuses
            raise StorageError(f"{self.path} is closed.") from None

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
            raise StorageError(f"{self.path} cannot be used: {_explain(error)}") from error

    def _close(self) -> None:
        assert self._connection is not None
        self._connection.close()
        self._connection = None

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """In one transaction, since two processes may start at once."""
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        for statement in self._migrations[version:]:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {max(version, len(self._migrations))}")

    def _transact(self, transaction: Transaction[Result]) -> Result:
        connection = self._connection
        assert connection is not None
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = transaction(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # a full disk ends it by itself
                connection.execute("ROLLBACK")
            raise
        return result
