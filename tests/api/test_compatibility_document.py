"""docs/api-compatibility.md says of every field what the schemas do with it."""

import re
from pathlib import Path

import pytest
from openai.types import (
    batch_create_params,
    completion_create_params,
    embedding_create_params,
    file_create_params,
)
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from service.api.application import OPERATIONS
from service.api.openapi import OPENAPI, describe

DOCUMENT = Path(__file__).parents[2] / "docs" / "api-compatibility.md"
STATUSES = {"supported", "extension", "no effect", "refused"}
SDK = {
    "POST /v1/chat/completions": chat_create_params.CompletionCreateParamsBase,
    "POST /v1/completions": completion_create_params.CompletionCreateParamsBase,
    "POST /v1/embeddings": embedding_create_params.EmbeddingCreateParams,
    "POST /v1/responses": response_create_params.ResponseCreateParamsBase,
    "POST /v1/files": file_create_params.FileCreateParams,
    "POST /v1/batches": batch_create_params.BatchCreateParams,
}
"""What the official client can send; it adds `stream` in classes of its own."""

_SECTION = re.compile(r"^## `(\w+ [^`]+)`\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\| `([^`]+)` \| ([a-z ]+) \| (.*) \|$", re.MULTILINE)
_SAME_AS = re.compile(r"^Fields as of `(\w+ [^`]+)`", re.MULTILINE)


class Fields:
    """Of the bodies and queries that a described service takes, by their paths."""

    def __init__(self):
        self._document = describe([*OPERATIONS, OPENAPI], model_id="m", needs_key=False)

    def of_operations(self):
        return {
            f"{method.upper()} {path}": self._of_operation(operation)
            for path, operations in self._document["paths"].items()
            for method, operation in operations.items()
        }

    def _of_operation(self, operation):
        fields = {
            f"?{parameter['name']}": parameter["schema"]
            for parameter in operation["parameters"]
            if parameter["in"] == "query"
        }
        for content in operation.get("requestBody", {}).get("content", {}).values():
            self._walk(content["schema"], "", fields, ())
        return fields

    def _walk(self, schema, path, fields, within):
        """Adds the fields of a schema; what stands at one path in several is one field."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            if name not in within:
                known = self._document["components"]["schemas"][name]
                self._walk(known, path, fields, (*within, name))
            return
        for kind in ("anyOf", "oneOf", "allOf"):
            for variant in schema.get(kind, ()):
                self._walk(variant, path, fields, within)
        if isinstance(schema.get("items"), dict):
            self._walk(schema["items"], f"{path}[]", fields, within)
        for name, described in schema.get("properties", {}).items():
            place = f"{path}.{name}".removeprefix(".")
            fields[place] = (
                described if place not in fields else {"anyOf": [fields[place], described]}
            )
            self._walk(described, place, fields, within)


def asks_for_nothing(schema):
    """Whether only null, and values that change nothing, are taken."""
    if "enum" in schema:
        return schema["enum"][0] is None
    if "anyOf" in schema:
        return all(map(asks_for_nothing, schema["anyOf"]))
    return schema == {"type": "null"} or ("const" in schema and schema["const"] is False)


FIELDS = Fields().of_operations()
TEXT = DOCUMENT.read_text()
SECTIONS = dict(_SECTION.findall(TEXT))


def rows_of(operation):
    """The documented fields: {path: (status, note)}."""
    section = SECTIONS[operation]
    rows = {path: (status, note) for path, status, note in _ROW.findall(section)}
    for other in _SAME_AS.findall(section):
        rows = rows_of(other) | rows
    return rows


with_fields = pytest.mark.parametrize("operation", [name for name, of in FIELDS.items() if of])


def test_every_operation_has_its_section_and_no_other_has():
    assert SECTIONS.keys() == FIELDS.keys()


@with_fields
def test_every_field_is_documented_and_nothing_else_is(operation):
    assert rows_of(operation).keys() == FIELDS[operation].keys()


@with_fields
def test_a_field_is_said_to_be_refused_where_it_is(operation):
    refused = {path for path, schema in FIELDS[operation].items() if asks_for_nothing(schema)}
    said = {path for path, (status, _) in rows_of(operation).items() if status == "refused"}
    assert said == refused


@with_fields
def test_every_field_has_a_status_and_a_word_about_it(operation):
    for path, (status, note) in rows_of(operation).items():
        assert status in STATUSES, path
        assert note, path


@pytest.mark.parametrize("operation", SDK)
def test_an_extension_is_what_the_official_client_does_not_have(operation):
    official = {*SDK[operation].__annotations__, "stream"}
    top = {path: status for path, (status, _) in rows_of(operation).items() if path.isidentifier()}
    extensions = {path for path, status in top.items() if status == "extension"}
    assert top.keys() - official <= extensions
    assert not extensions & official


@pytest.mark.parametrize("operation", SDK)
def test_whatever_the_official_client_sends_is_documented(operation):
    documented = {re.split(r"[.[]", path)[0] for path in rows_of(operation)}
    assert SDK[operation].__annotations__.keys() <= documented
