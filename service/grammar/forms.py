"""The forms that an answer can be held to, each as a grammar in llguidance's JSON form.

Nothing here says whether a grammar compiles: `service.grammar.compiler` does.
"""

import json
import re
from collections.abc import Mapping, Sequence

from llguidance import regex_to_lark

JsonSchema = Mapping[str, object]

WHITESPACE = " |\\r?\\n[ \\t]{0,20}"
"""What may stand between two tokens of JSON, at most once: compact, spaced and indented JSON all
fit, and a small model cannot fill its budget with blanks."""

_ASCII_CLASSES = "dw"
_AFTER_THOUGHT = "after_thought"
_GBNF_RULE = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)


def json_object() -> str:
    """Any JSON object."""
    return json_schema({"type": "object"})


def json_schema(schema: JsonSchema) -> str:
    """JSON that is valid against the schema."""
    return join_grammars([json_part("answer", schema)])


def regex(pattern: str) -> str:
    r"""The whole answer matches the pattern, in the syntax of Rust's regex crate.

    As in JSON schemas, `\d` and `\w` are ASCII's.
    """
    return join_grammars([lark_part(f"start: /{regex_to_lark(pattern, _ASCII_CLASSES)}/")])


def choice(texts: Sequence[str]) -> str:
    """Exactly one of the texts."""
    return join_grammars([lark_part(f"start: {' | '.join(map(quote, texts))}")])


def context_free(lark: str) -> str:
    """A Lark grammar as llguidance reads it."""
    return join_grammars([lark_part(lark)])


def is_gbnf(text: str) -> bool:
    """Whether it is a grammar as llama.cpp reads it, told from Lark by `::=`."""
    return _GBNF_RULE.search(text) is not None


def after_thought(grammar: str) -> str:
    """The same behind line ends that a model may write once it has closed its thought."""
    start = lark_part(f"start: /\\n{{0,2}}/ @{_AFTER_THOUGHT}")
    return join_grammars([start, *name_grammar(grammar, _AFTER_THOUGHT)])


def join_grammars(parts: Sequence[Mapping[str, object]]) -> str:
    """The first part is where an answer starts; it refers to others as `@name`."""
    return json.dumps({"grammars": parts}, ensure_ascii=False, separators=(",", ":"))


def name_grammar(grammar: str, name: str) -> list[dict[str, object]]:
    """The parts of a grammar, for others to refer to its first by a name."""
    first, *others = json.loads(grammar)["grammars"]
    return [{**first, "name": name}, *others]


def json_part(name: str, schema: JsonSchema, *, lenient: bool = False) -> dict[str, object]:
    """JSON by a schema; with `lenient`, what llguidance does not support in it is ignored."""
    options = {"whitespace_pattern": WHITESPACE, "lenient": lenient}
    return {"name": name, "json_schema": {**schema, "x-guidance": options}}


def lark_part(text: str) -> dict[str, object]:
    return {"lark_grammar": text}


def quote(text: str) -> str:
    """Text as a string of a Lark grammar; an empty one matches nothing at all."""
    return json.dumps(text, ensure_ascii=False)
