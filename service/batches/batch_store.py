"""Batches, their lines and their results, in SQLite: each change is one transaction."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from service.batches.files import insert_file
from service.batches.objects import (
    STATUSES,
    Batch,
    Ending,
    Line,
    Problem,
    Status,
    StoredFile,
    Usage,
)
from service.batches.page import Cursor, Page, Selection, read_page
from service.errors import InvalidRequest, ObjectNotFound, QueueFull
from service.records.database import Database

Result = TypeVar("Result")

_CANCELLABLE = frozenset[Status]({"validating", "in_progress"})
_RETRY_SECONDS = 60


class BatchStore:
    """Knows nothing of time or files; who calls it says what happens."""

    def __init__(self, database: Database, on_change: Callable[[Mapping[str, int]], None]) -> None:
        """`on_change` is told how many batches have each status, whenever one got another."""
        self._database = database
        self._on_change = on_change

    async def count(self) -> None:
        """Tells the counts as they are."""
        self._on_change(await self._database.run(_count))

    async def add(self, batch: Batch, *, max_active: int) -> None:
        """Raises QueueFull for a tenant that has as many as may be."""

        def add(connection: sqlite3.Connection) -> None:
            (num_active,) = connection.execute(
                "SELECT count(*) FROM batches WHERE tenant = ? AND NOT is_over", (batch.tenant,)
            ).fetchone()
            if num_active >= max_active:
                raise QueueFull(
                    f"{num_active} of your batches are not done, as many as may be; wait for one "
                    "or cancel it.",
                    retry_after_seconds=_RETRY_SECONDS,
                )
            connection.execute(
                "INSERT INTO batches (id, tenant, status, is_over, input_file_id, document) "
                "VALUES (?, ?, ?, 0, ?, ?)",
                (batch.id, batch.tenant, batch.status, batch.input_file_id, _encode(batch)),
            )

        await self._change(add)

    async def get(self, tenant: str, batch_id: str) -> Batch:
        """Raises ObjectNotFound."""
        return await self._database.run(lambda connection: _find(connection, batch_id, tenant))

    async def load(self, batch_id: str) -> Batch:
        """Of one that is known to be there, whoever's it is."""
        return await self._database.run(lambda connection: _load(connection, batch_id))

    async def read_page(self, tenant: str, cursor: Cursor) -> Page[Batch]:
        """Raises ObjectNotFound for an unknown `after`."""
        selection = Selection(table="batches", where="tenant = ?", values=(tenant,))
        return await self._database.run(
            lambda connection: read_page(connection, selection, cursor, _decode)
        )

    async def list_active(self) -> list[Batch]:
        """Everybody's that are not over, in the order of their making."""
        query = "SELECT document FROM batches WHERE NOT is_over ORDER BY number"
        return await self._database.run(
            lambda connection: [_decode(row[0]) for row in connection.execute(query)]
        )

    async def begin(self, batch: Batch, lines: Sequence[Line], model: str | None, now: int) -> None:
        """The input is valid. Nothing happens to a batch that was cancelled meanwhile."""

        def begin(connection: sqlite3.Connection) -> None:
            current = _load(connection, batch.id)
            if current.status != "validating":
                return
            connection.executemany(
                "INSERT INTO lines (batch_id, number, custom_id, offset, length) "
                "VALUES (?, ?, ?, ?, ?)",
                ((batch.id, *msgspec.structs.astuple(line)) for line in lines),
            )
            begun = replace(current, model=model, num_lines=len(lines))
            _save(connection, begun.become("in_progress", now))

        await self._change(begin)

    async def fail(self, batch: Batch, problems: Sequence[Problem], now: int) -> None:
        """The input is not valid. Nothing happens to a batch that was cancelled meanwhile."""

        def fail(connection: sqlite3.Connection) -> None:
            current = _load(connection, batch.id)
            if current.status == "validating":
                failed = replace(current, problems=tuple(problems))
                _save(connection, failed.become("failed", now))

        await self._change(fail)

    async def cancel(self, tenant: str, batch_id: str, now: int) -> Batch:
        """Asking twice is no mistake. Raises ObjectNotFound, InvalidRequest when it is too late."""

        def cancel(connection: sqlite3.Connection) -> Batch:
            batch = _find(connection, batch_id, tenant)
            if batch.status in {"cancelling", "cancelled"}:
                return batch
            if batch.status not in _CANCELLABLE:
                raise InvalidRequest(
                    f"The batch is {batch.status}; it is too late to cancel it.",
                    param="batch_id",
                    code="batch_not_cancellable",
                )
            return _save(connection, batch.become("cancelling", now))

        return await self._change(cancel)

    async def next_lines(self, batch: Batch, after: int, limit: int) -> list[Line]:
        """Those behind line `after` that have no result yet."""
        return await self._database.run(
            lambda connection: _read_lines(connection, batch.id, after, limit)
        )

    async def commit(
        self, batch: Batch, line: Line, result: bytes, *, failed: bool, usage: Usage
    ) -> bool:
        """The line's one result; False for a line that has one already."""

        def commit(connection: sqlite3.Connection) -> bool:
            if not _take_line(connection, batch, line, result, failed=failed):
                return False
            current = _load(connection, batch.id)
            counted = replace(
                current,
                num_completed=current.num_completed + (not failed),
                num_failed=current.num_failed + failed,
                usage=current.usage + usage,
            )
            _save(connection, counted)
            return True

        return await self._database.run(commit)

    async def end(self, batch: Batch, now: int, fail_line: Callable[[Line, Ending], bytes]) -> int:
        """No line runs from now on: those without a result get the one that `fail_line` makes.

        Returns how many those were.
        """

        def end(connection: sqlite3.Connection) -> int:
            current = _load(connection, batch.id)
            lines = _read_lines(connection, batch.id, 0, -1)
            ending = _choose_ending(current, len(lines))
            for line in lines:
                _take_line(connection, batch, line, fail_line(line, ending), failed=True)
            ended = replace(current, ending=ending, num_failed=current.num_failed + len(lines))
            if current.status != "cancelling":
                ended = ended.become("finalizing", now)
            _save(connection, ended)
            return len(lines)

        return await self._change(end)

    async def read_results(
        self, batch: Batch, *, failed: bool, after: int, limit: int
    ) -> list[tuple[int, bytes]]:
        """(line number, result), in the order of the input."""
        query = (
            "SELECT number, document FROM results WHERE batch_id = ? AND failed = ? AND number > ? "
            "ORDER BY number LIMIT ?"
        )
        return await self._database.run(
            lambda connection: connection.execute(
                query, (batch.id, failed, after, limit)
            ).fetchall()
        )

    async def finish(
        self, batch: Batch, output: StoredFile | None, errors: StoredFile | None, now: int
    ) -> Batch:
        """Its files become visible, and the batch is over; both or neither."""

        def finish(connection: sqlite3.Connection) -> Batch:
            current = _load(connection, batch.id)
            assert current.ending is not None
            for file in (output, errors):
                if file is not None:
                    insert_file(connection, file)
            connection.execute("DELETE FROM results WHERE batch_id = ?", (batch.id,))
            finished = replace(
                current,
                output_file_id=output and output.id,
                error_file_id=errors and errors.id,
            )
            return _save(connection, finished.become(current.ending, now))

        finished = await self._change(finish)
        await self._database.run(_give_back_pages)
        return finished

    async def _change(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        result, counts = await self._database.run(
            lambda connection: (work(connection), _count(connection))
        )
        self._on_change(counts)
        return result


def _encode(batch: Batch) -> bytes:
    return msgspec.json.encode(batch)


def _decode(document: bytes) -> Batch:
    return msgspec.json.decode(document, type=Batch)


def _load(connection: sqlite3.Connection, batch_id: str) -> Batch:
    query = "SELECT document FROM batches WHERE id = ?"
    return _decode(connection.execute(query, (batch_id,)).fetchone()[0])


def _find(connection: sqlite3.Connection, batch_id: str, tenant: str) -> Batch:
    query = "SELECT document FROM batches WHERE id = ? AND tenant = ?"
    row = connection.execute(query, (batch_id, tenant)).fetchone()
    if row is None:
        raise ObjectNotFound(f"There is no batch {batch_id[:100]!r}.", param="batch_id")
    return _decode(row[0])


def _save(connection: sqlite3.Connection, batch: Batch) -> Batch:
    connection.execute(
        "UPDATE batches SET status = ?, is_over = ?, document = ? WHERE id = ?",
        (batch.status, batch.is_over, _encode(batch), batch.id),
    )
    return batch


def _read_lines(
    connection: sqlite3.Connection, batch_id: str, after: int, limit: int
) -> list[Line]:
    rows = connection.execute(
        "SELECT number, custom_id, offset, length FROM lines "
        "WHERE batch_id = ? AND number > ? ORDER BY number LIMIT ?",
        (batch_id, after, limit),
    )
    return [
        Line(number=number, custom_id=custom_id, offset=offset, length=length)
        for number, custom_id, offset, length in rows
    ]


def _choose_ending(batch: Batch, num_left: int) -> Ending:
    if batch.status == "cancelling":
        return "cancelled"
    return "expired" if batch.status == "validating" or num_left else "completed"


def _take_line(
    connection: sqlite3.Connection, batch: Batch, line: Line, result: bytes, *, failed: bool
) -> bool:
    """Moves it from `lines` to `results`, where it can come to once only."""
    deleted = connection.execute(
        "DELETE FROM lines WHERE batch_id = ? AND number = ?", (batch.id, line.number)
    )
    if deleted.rowcount == 0:
        return False
    connection.execute(
        "INSERT INTO results (batch_id, number, failed, document) VALUES (?, ?, ?, ?)",
        (batch.id, line.number, failed, result),
    )
    return True


def _count(connection: sqlite3.Connection) -> Mapping[str, int]:
    rows = connection.execute("SELECT status, count(*) FROM batches GROUP BY status")
    return {**dict.fromkeys(map(str, STATUSES), 0), **dict(rows.fetchall())}


def _give_back_pages(connection: sqlite3.Connection) -> None:
    """To the file system; what a large batch took would stay in the file for ever."""
    connection.execute("PRAGMA incremental_vacuum").fetchall()
