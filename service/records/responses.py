"""Responses that clients may come back to, each with the items it was made of.

A response that continues another is of its *chain*, named after the first one. A chain lives and
expires as one, counted from its last response, so that no conversation loses its beginning alone.
"""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from service.errors import StorageError
from service.records.database import Database, num_bytes

_MIGRATIONS = (
    """
    CREATE TABLE chains (
        id TEXT PRIMARY KEY, tenant TEXT NOT NULL, expires_at INTEGER NOT NULL
    );
    CREATE INDEX chains_by_expiry ON chains (expires_at);
    CREATE TABLE responses (
        id TEXT PRIMARY KEY,
        chain TEXT NOT NULL REFERENCES chains ON DELETE CASCADE,
        previous TEXT,
        is_finished INTEGER NOT NULL,
        body BLOB NOT NULL
    );
    CREATE INDEX responses_by_chain ON responses (chain);
    CREATE INDEX responses_unfinished ON responses (id) WHERE NOT is_finished;
    CREATE TABLE items (
        response TEXT NOT NULL REFERENCES responses ON DELETE CASCADE,
        is_output INTEGER NOT NULL,
        position INTEGER NOT NULL,
        id TEXT NOT NULL,
        body BLOB NOT NULL
    );
    CREATE UNIQUE INDEX items_by_position ON items (response, is_output, position);
    CREATE INDEX items_by_id ON items (id)
    """,
)
_MAX_EXPIRED_AT_ONCE = 8
"""Chains that one write deletes beside its own work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRecord:
    id: str
    body: bytes
    """JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseRecord:
    id: str
    tenant: str
    chain: str
    previous: str | None
    is_finished: bool
    body: bytes
    """JSON without the output."""
    input: Sequence[ItemRecord] = field(default_factory=tuple[ItemRecord, ...])
    output: Sequence[ItemRecord] = field(default_factory=tuple[ItemRecord, ...])


class ResponseRecords:
    """One process's responses; what other tenants stored is as if it were not there."""

    def __init__(
        self,
        path: Path | str,
        *,
        ttl_seconds: float,
        max_bytes: int,
        now: Callable[[], float],
    ) -> None:
        """`now` is the wall clock, since records outlive processes."""
        self._database = Database(path, _MIGRATIONS)
        self._ttl_seconds = ttl_seconds
        self._max_bytes = max_bytes
        self._now = now

    async def open(self) -> None:
        """Raises StorageError that says why the file cannot be used."""
        await self._database.open()
        await self._database.run(self._delete_expired)

    async def close(self) -> None:
        await self._database.close()

    async def put(self, record: ResponseRecord) -> None:
        """Takes the place of an earlier record of the same id.

        Raises StorageError when it does not fit, even without what was not used for longest.
        """
        await self._database.run(lambda connection: self._put(connection, record))

    async def get(self, response_id: str, tenant: str) -> ResponseRecord | None:
        def read(connection: sqlite3.Connection) -> ResponseRecord | None:
            row = self._find(connection, response_id, tenant)
            return None if row is None else _read_record(connection, row, tenant)

        return await self._database.run(read)

    async def get_chain(self, response_id: str, tenant: str) -> list[ResponseRecord]:
        """From the first response to this one.

        The first of the list has a `previous` where that was deleted; the list is empty where this
        one is not there.
        """

        def read(connection: sqlite3.Connection) -> list[ResponseRecord]:
            chain: list[ResponseRecord] = []
            previous: str | None = response_id
            while previous is not None:
                row = self._find(connection, previous, tenant)
                if row is None:
                    break
                chain.append(_read_record(connection, row, tenant))
                previous = chain[-1].previous
            return chain[::-1]

        return await self._database.run(read)

    async def find_items(self, item_ids: Sequence[str], tenant: str) -> dict[str, bytes]:
        """The items that are there, by their ids; the newest of an id."""

        def read(connection: sqlite3.Connection) -> dict[str, bytes]:
            found = {item_id: self._find_item(connection, item_id, tenant) for item_id in item_ids}
            return {item_id: body for item_id, body in found.items() if body is not None}

        return await self._database.run(read)

    async def delete(self, response_id: str, tenant: str) -> bool:
        """Whether it was there. What continues it can be read still, and not be continued."""

        def delete(connection: sqlite3.Connection) -> bool:
            row = self._find(connection, response_id, tenant)
            if row is None:
                return False
            connection.execute("DELETE FROM responses WHERE id = ?", (response_id,))
            connection.execute(
                "DELETE FROM chains WHERE id = ?1 AND NOT EXISTS"
                " (SELECT 1 FROM responses WHERE chain = ?1)",
                (row[1],),
            )
            return True

        return await self._database.run(delete)

    async def list_unfinished(self) -> list[ResponseRecord]:
        """Of all tenants: what was being made when the process ended."""

        def read(connection: sqlite3.Connection) -> list[ResponseRecord]:
            rows = connection.execute(
                "SELECT r.id, r.chain, r.previous, r.is_finished, r.body, c.tenant FROM responses r"
                " JOIN chains c ON c.id = r.chain WHERE NOT r.is_finished"
            ).fetchall()
            return [_read_record(connection, row[:5], row[5]) for row in rows]

        return await self._database.run(read)

    def _put(self, connection: sqlite3.Connection, record: ResponseRecord) -> None:
        self._delete_expired(connection)
        expires_at = int(self._now() + self._ttl_seconds)
        connection.execute(
            "INSERT INTO chains VALUES (?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at",
            (record.chain, record.tenant, expires_at),
        )
        connection.execute("DELETE FROM responses WHERE id = ?", (record.id,))
        connection.execute(
            "INSERT INTO responses VALUES (?, ?, ?, ?, ?)",
            (record.id, record.chain, record.previous, record.is_finished, record.body),
        )
        connection.executemany(
            "INSERT INTO items VALUES (?, ?, ?, ?, ?)",
            [
                (record.id, is_output, position, item.id, item.body)
                for is_output, items in ((False, record.input), (True, record.output))
                for position, item in enumerate(items)
            ],
        )
        self._make_room(connection, record.chain)

    def _make_room(self, connection: sqlite3.Connection, kept: str) -> None:
        while num_bytes(connection) > self._max_bytes:
            oldest = connection.execute(
                "DELETE FROM chains WHERE id = (SELECT id FROM chains WHERE id != ?"
                " ORDER BY expires_at LIMIT 1)",
                (kept,),
            )
            if not oldest.rowcount:
                raise StorageError(
                    f"the response and what it continues are larger than the {self._max_bytes} "
                    "bytes that may be stored; send store=false, or raise "
                    "SMOLSERVE_RECORDS__MAX_BYTES."
                )

    def _delete_expired(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            "DELETE FROM chains WHERE id IN"
            " (SELECT id FROM chains WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
            (self._now(), _MAX_EXPIRED_AT_ONCE),
        )

    def _find(
        self, connection: sqlite3.Connection, response_id: str, tenant: str
    ) -> tuple[str, str, str | None, int, bytes] | None:
        return connection.execute(
            "SELECT r.id, r.chain, r.previous, r.is_finished, r.body FROM responses r"
            " JOIN chains c ON c.id = r.chain"
            " WHERE r.id = ? AND c.tenant = ? AND c.expires_at > ?",
            (response_id, tenant, self._now()),
        ).fetchone()

    def _find_item(self, connection: sqlite3.Connection, item_id: str, tenant: str) -> bytes | None:
        row = connection.execute(
            "SELECT i.body FROM items i JOIN responses r ON r.id = i.response"
            " JOIN chains c ON c.id = r.chain"
            " WHERE i.id = ? AND c.tenant = ? AND c.expires_at > ?"
            " ORDER BY i.rowid DESC LIMIT 1",
            (item_id, tenant, self._now()),
        ).fetchone()
        return None if row is None else row[0]


def _read_record(
    connection: sqlite3.Connection, row: tuple[str, str, str | None, int, bytes], tenant: str
) -> ResponseRecord:
    response_id, chain, previous, is_finished, body = row
    return ResponseRecord(
        id=response_id,
        tenant=tenant,
        chain=chain,
        previous=previous,
        is_finished=bool(is_finished),
        body=body,
        input=_read_items(connection, response_id, is_output=False),
        output=_read_items(connection, response_id, is_output=True),
    )


def _read_items(
    connection: sqlite3.Connection, response_id: str, *, is_output: bool
) -> list[ItemRecord]:
    rows = connection.execute(
        "SELECT id, body FROM items WHERE response = ? AND is_output = ? ORDER BY position",
        (response_id, is_output),
    )
    return [ItemRecord(id=item_id, body=body) for item_id, body in rows]
