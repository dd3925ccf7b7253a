"""The forms that an answer can be held to, each as a grammar in llguidance's JSON form.

Nothing here says whether a grammar compiles: `service.grammar.compiler` does.
"""

import json
import re
from collections.abc import Mapping, Sequence

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark

from service.errors import InvalidRequest

JsonSchema = Mapping[str, object] | bool

WHITESPACE = " |\\r?\\n[ \\t]{0,20}"
"""What may stand between two tokens of JSON, at most once: compact, spaced and indented JSON all
fit, and a small model cannot fill its budget with blanks."""

_GBNF_RULE = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)


def json_object() -> str:
    """Any JSON object."""
    return json_schema({"type": "object"})


def json_schema(schema: JsonSchema) -> str:
    """JSON that is valid against the schema."""
    return join_grammars([json_part("answer", schema)])


def regex(pattern: str) -> str:
    """The whole answer matches the pattern, in the syntax of Rust's regex crate."""
    return LLMatcher.grammar_from_regex(pattern)


def choice(texts: Sequence[str]) -> str:
    """Exactly one of the texts."""
    return join_grammars([lark_part(f"start: {' | '.join(map(quote, texts))}")])


def context_free(text: str, *, param: str) -> str:
    """A Lark grammar as llguidance reads it, or GBNF as llama.cpp does, told apart by `::=`.

    Raises InvalidRequest for GBNF that cannot be converted.
    """
    return join_grammars([lark_part(_from_gbnf(text, param) if _GBNF_RULE.search(text) else text)])


def join_grammars(parts: Sequence[Mapping[str, object]]) -> str:
    """The first part is where an answer starts; it refers to others as `@name`."""
    return json.dumps({"grammars": parts}, ensure_ascii=False, separators=(",", ":"))


def json_part(name: str, schema: JsonSchema, *, lenient: bool = False) -> dict[str, object]:
    """JSON by a schema; with `lenient`, what llguidance does not support in it is ignored."""
    options = {"whitespace_pattern": WHITESPACE, "lenient": lenient}
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    return {"name": name, "json_schema": {**schema, "x-guidance": options}}


def lark_part(text: str) -> dict[str, object]:
    return {"lark_grammar": text}


def quote(text: str) -> str:
    """Text as a string of a Lark grammar; an empty one matches nothing at all."""
    return json.dumps(text, ensure_ascii=False)


def _from_gbnf(text: str, param: str) -> str:
    try:
        return gbnf_to_lark(text)
    except (GbnfToLarkError, IndexError, RecursionError) as error:
        raise InvalidRequest(f"{param}: not a GBNF grammar: {error}", param=param) from None
