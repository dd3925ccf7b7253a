"""A part of a list, and where the next one begins."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from service.errors import ObjectNotFound

Order = Literal["asc", "desc"]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Some rows of a table with the columns number, id and document."""

    table: str
    where: str
    """SQL, never of a request; `values` are for its question marks."""
    values: tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[Item]):
    items: list[Item]
    has_more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """What a client asks for of a list."""

    limit: int
    after: str | None = None
    """The id of the last item that it has."""
    order: Order = "desc"


def read_page(
    connection: sqlite3.Connection,
    selection: Selection,
    cursor: Cursor,
    read: Callable[[bytes], Item],
) -> Page[Item]:
    """Documents in the order of their making, or the other way round.

    Raises ObjectNotFound for a cursor's id that is not among them.
    """
    table, where, values = selection.table, selection.where, selection.values
    if cursor.after is not None:
        place = connection.execute(
            f"SELECT number FROM {table} WHERE {where} AND id = ?",  # noqa: S608 - text of our own  # nosec
            (*values, cursor.after),
        ).fetchone()
        if place is None:
            raise ObjectNotFound(
                f"There is no {cursor.after[:100]!r} to go on after.", param="after"
            )
        where += f" AND number {'>' if cursor.order == 'asc' else '<'} ?"
        values = (*values, place[0])
    rows = connection.execute(
        f"SELECT document FROM {table} WHERE {where} "  # noqa: S608 - text of our own  # nosec
        f"ORDER BY number {cursor.order} LIMIT ?",
        (*values, cursor.limit + 1),
    ).fetchall()
    return Page(
        items=[read(document) for (document,) in rows[: cursor.limit]],
        has_more=len(rows) > cursor.limit,
    )
