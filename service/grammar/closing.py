"""Schemas without properties that they do not list: what they allow is valid all the same."""

from collections.abc import Mapping
from typing import cast

_COMBINING = frozenset(
    {
        *("allOf", "anyOf", "oneOf", "not", "if", "$ref", "dependentSchemas"),
        *("patternProperties", "unevaluatedProperties", "minProperties"),
    }
)


def close(schema: Mapping[str, object]) -> dict[str, object]:
    """The schema without properties that it does not list, where it does not say that there are.

    A small model makes up properties as long as it may. What is combined with other schemas, which
    may list more, stays as it is, and so does what asks for more than it lists.
    """
    closed = dict(schema)
    if _COMBINING.intersection(schema):
        return closed
    listed = schema.get("properties")
    if isinstance(listed, dict):
        properties = cast("dict[str, object]", listed)
        closed["properties"] = {name: _close_value(value) for name, value in properties.items()}
        if _lists(schema.get("required", []), properties):
            closed.setdefault("additionalProperties", False)
    if "items" in schema:
        closed["items"] = _close_value(schema["items"])
    return closed


def _lists(required: object, properties: Mapping[str, object]) -> bool:
    return isinstance(required, list) and all(
        name in properties for name in cast("list[object]", required)
    )


def _close_value(value: object) -> object:
    return close(cast("Mapping[str, object]", value)) if isinstance(value, dict) else value
