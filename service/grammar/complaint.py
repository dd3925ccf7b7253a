"""llguidance's complaints as errors that say where in the request the reason is.

It does not say where; its words name the keyword, the format, the pattern or the reference, and
that is looked for in the schema.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from service.errors import InvalidRequest

UNSUPPORTED_SCHEMA = "unsupported_schema"
INVALID_SCHEMA = "invalid_schema"

_SINGLE = frozenset({"additionalProperties", "additionalItems", "items", "not", "contains"})
_LISTED = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
_DEFINITIONS = frozenset({"$defs", "definitions"})
_NAMED = frozenset({"properties", "patternProperties"}) | _DEFINITIONS
_COUNTS = frozenset({"minProperties", "maxProperties"})
_MAX_MESSAGE = 500

_UNIMPLEMENTED = re.compile(r"Unimplemented keys: (\[.*\])", re.DOTALL)
_FORMAT = re.compile(r"Unknown format: (.*)", re.DOTALL)
_REFERENCE = re.compile(r"(?:Pointer|Resource|Anchor) '(.*?)' ", re.DOTALL)
_TYPE = re.compile(r"Invalid type: (.*)", re.DOTALL)
_PATTERN = re.compile(r"regex parse error:.*^error: ([^\n]*)", re.DOTALL | re.MULTILINE)
_OUT_OF_ORDER = re.compile(r"(\w+) \((.+?)\) is greater than .*")

Node = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A part of a request that a grammar was made from."""

    param: str
    schema: object = None
    """None where it is not a JSON schema."""


def explain(message: str, origins: Sequence[Origin]) -> InvalidRequest:
    """The error for what llguidance says of a grammar; `param` is as exact as can be found."""
    message = message.strip()
    finding = _read(message)
    if finding is None:
        return _refuse(origins[0].param, message, INVALID_SCHEMA)
    for origin in origins:
        for path, node in _walk(origin.schema, origin.param):
            for keyword in node:
                if finding.matches(node, keyword):
                    return _refuse(f"{path}.{keyword}", finding.reason, finding.code)
    return _refuse(origins[0].param, finding.reason, finding.code)


def _refuse(param: str, reason: str, code: str) -> InvalidRequest:
    reason = reason[:_MAX_MESSAGE].rstrip(".")
    return InvalidRequest(f"{param}: {reason}.", param=param, code=code)


@dataclass(frozen=True, slots=True)
class _Finding:
    """What is wrong, and how the place is known."""

    matches: Callable[[Node, str], bool]
    reason: str
    code: str = INVALID_SCHEMA


def _read(message: str) -> _Finding | None:  # noqa: PLR0911 - a case each
    if found := _UNIMPLEMENTED.match(message):
        keywords = json.loads(found[1])
        return _Finding(
            lambda _, keyword: keyword in keywords,
            "this keyword of JSON Schema is not supported",
            UNSUPPORTED_SCHEMA,
        )
    if found := _FORMAT.match(message):
        return _Finding(
            _has("format", found[1]),
            f"the format {found[1]!r} is not supported",
            UNSUPPORTED_SCHEMA,
        )
    if found := _REFERENCE.match(message):
        return _Finding(
            lambda node, keyword: keyword == "$ref" and str(node[keyword]).endswith(found[1]),
            "refers to a schema that is not there; only references within the schema are followed",
        )
    if found := _TYPE.match(message):
        return _Finding(_has("type", found[1]), f"there is no type {found[1]!r}")
    if found := _OUT_OF_ORDER.search(message):
        return _Finding(_has(found[1], found[2]), found[0])
    if message.startswith("oneOf"):
        return _Finding(
            lambda _, keyword: keyword == "oneOf",
            "supported only where no instance fits two of its schemas, as a const property in each "
            "shows; use anyOf",
            UNSUPPORTED_SCHEMA,
        )
    if "min/maxProperties" in message:
        return _Finding(lambda _, keyword: keyword in _COUNTS, message, UNSUPPORTED_SCHEMA)
    if message.startswith("patternProperty regexes"):
        return _Finding(lambda _, keyword: keyword == "patternProperties", message)
    if found := _PATTERN.search(message):
        return _Finding(_is_pattern_in(message), found[1], UNSUPPORTED_SCHEMA)
    return None


def _has(name: str, value: str) -> Callable[[Node, str], bool]:
    """The keyword with that value, or that value among its."""

    def matches(node: Node, keyword: str) -> bool:
        if keyword != name:
            return False
        given = node[keyword]
        values = cast("list[object]", given) if isinstance(given, list) else [given]
        return value in map(str, values)

    return matches


def _is_pattern_in(message: str) -> Callable[[Node, str], bool]:
    def matches(node: Node, keyword: str) -> bool:
        given = node[keyword]
        if keyword == "pattern":
            return str(given) in message
        return keyword == "patternProperties" and any(
            name in message for name in cast("Node", given)
        )

    return matches


def _walk(schema: object, path: str) -> Iterator[tuple[str, Node]]:
    """Every schema in a schema and where it is, definitions last: not all of them are used."""
    if not isinstance(schema, dict):
        return
    node = cast("Node", schema)
    yield path, node
    for keyword in sorted(node, key=_DEFINITIONS.__contains__):
        value = node[keyword]
        if keyword in _NAMED and isinstance(value, dict):
            for name, child in cast("Node", value).items():
                yield from _walk(child, f"{path}.{keyword}.{name}")
        elif keyword in _LISTED and isinstance(value, list):
            for index, child in enumerate(cast("list[object]", value)):
                yield from _walk(child, f"{path}.{keyword}[{index}]")
        elif keyword in _SINGLE:
            yield from _walk(value, f"{path}.{keyword}")
