"""What a client asks for of a list, from the query."""

from collections.abc import Mapping

from service.api.operation import Parameter
from service.api.validation import UNKNOWN_PARAMETER
from service.batches.page import Cursor, Order
from service.errors import InvalidRequest

_ORDERS: dict[str | None, Order] = {None: "desc", "desc": "desc", "asc": "asc"}
_MAX_DIGITS = 9


def list_parameters(*, default_limit: int, max_limit: int) -> tuple[Parameter, ...]:
    limit = {"type": "integer", "minimum": 1, "maximum": max_limit, "default": default_limit}
    return (
        Parameter(name="limit", place="query", schema=limit),
        Parameter(name="after", place="query", description="The last id of the page before."),
    )


def read_cursor(
    query: Mapping[str, str],
    *,
    default_limit: int,
    max_limit: int,
    others: frozenset[str] = frozenset(),
) -> Cursor:
    """`others` are parameters that are known beside limit and after. Raises InvalidRequest."""
    unknown = query.keys() - others - {"limit", "after"}
    if unknown:
        name = min(unknown)
        raise InvalidRequest(f"{name[:100]} is not known here.", param=name, code=UNKNOWN_PARAMETER)
    return Cursor(
        limit=_read_limit(query.get("limit"), default_limit, max_limit),
        after=query.get("after"),
        order=_read_order(query.get("order")),
    )


def _read_limit(text: str | None, default: int, maximum: int) -> int:
    if text is None:
        return default
    limit = read_number(text)
    if limit is None or not 1 <= limit <= maximum:
        raise InvalidRequest(f"limit must be between 1 and {maximum}.", param="limit")
    return limit


def _read_order(text: str | None) -> Order:
    if text not in _ORDERS:
        raise InvalidRequest("order must be asc or desc.", param="order")
    return _ORDERS[text]


def read_number(text: str) -> int | None:
    """None for what is not one, or a silly one."""
    if text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS:
        return int(text)
    return None
