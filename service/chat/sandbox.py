"""Jinja for templates that came with a model file: sandboxed, and bounded in work and memory.

Jinja's own sandbox keeps a template from Python's internals, not from endless work: nested loops,
strings doubled in a loop, padding to a billion characters. Here every loop turn and every
character made is paid for from a budget that belongs to one rendering.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import CodeType, TracebackType
from typing import Any, NoReturn, cast

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MAX_LOOP_TURNS = 500_000
_MAX_CHARS = 64_000_000
"""Made in all, intermediate strings included; a hundred times the longest sensible prompt."""
_MAX_NUMBER = 1_000_000
"""Numbers beyond this are no counts or widths that a prompt needs."""
_METER = "the rendering's meter"
"""Its key in the context: no name that a template could spell."""


class TemplateFailure(Exception):  # noqa: N818 - internal; becomes InvalidRequest or ModelFileError
    """A template could not be parsed or rendered; `line` is in the template, if known."""

    def __init__(self, message: str, line: int | None) -> None:
        where = f"line {line}: " if line is not None else ""
        super().__init__(f"{where}{message}")
        self.line = line


class _Meter:
    """What one rendering has used so far."""

    def __init__(self) -> None:
        self._turns_left = _MAX_LOOP_TURNS
        self._chars_left = _MAX_CHARS

    def count_turn(self) -> None:
        self._turns_left -= 1
        if self._turns_left < 0:
            raise jinja2.TemplateRuntimeError(f"more than {_MAX_LOOP_TURNS} loop turns")

    def count_chars(self, num_chars: int) -> None:
        self._chars_left -= num_chars
        if self._chars_left < 0:
            raise jinja2.TemplateRuntimeError(f"more than {_MAX_CHARS} characters made")


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks text for training masks; here it is its body."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """The dialect that Hugging Face's templates are written in, metered."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401 - Jinja's values
        if operator == "*":
            _refuse_huge(left, right)
            _meter(context).count_chars(_product_len(left, right))
        elif operator == "**":
            _refuse_huge(left, right)
            if abs(right) > 64:  # noqa: PLR2004 - keeps powers of the largest number allowed small
                raise jinja2.TemplateRuntimeError("an exponent that large is refused")
        elif operator == "%" and isinstance(left, str):
            _refuse_widths(left)
        result = super().call_binop(context, operator, left, right)
        _meter(context).count_chars(_size(result))
        return result

    def call(self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as Jinja's
        meter = _meter(__context)
        meter.count_turn()
        _refuse_huge(*args, *kwargs.values())
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            meter.count_chars(_method_len(owner, __obj.__name__, args))
        result = super().call(__context, __obj, *args, **kwargs)
        meter.count_chars(_size(result))
        return result

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:  # noqa: ANN401 - as Jinja's
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _refuse_widths(value.__self__)
        return wrapped

    @jinja2.pass_context
    def count_turn(self, context: Context) -> None:
        """What `_meter_loops` puts at the head of all that can run again."""
        _meter(context).count_turn()

    @jinja2.pass_context
    def iterate(self, context: Context, items: Iterable[object]) -> Iterator[object]:
        """Stands for what a loop runs over: a filtered loop turns without its body."""
        meter = _meter(context)
        for item in items:
            meter.count_turn()
            yield item

    @jinja2.pass_context
    def join_metered(self, context: Context, *values: object) -> str:
        """Stands for `a ~ b`."""
        texts = [str(value) for value in values]
        _meter(context).count_chars(sum(map(len, texts)))
        return "".join(texts)


class ChatTemplate:
    """A compiled template. Rendering changes nothing in it, so threads may share one."""

    def __init__(self, source: str) -> None:
        """Raises TemplateFailure."""
        environment = _make_environment()
        try:
            tree = environment.parse(source)
            self.variables = frozenset(meta.find_undeclared_variables(tree))
            """Names that it reads and does not set."""
            _meter_loops(tree)
            tree.set_environment(environment)
            code: CodeType = environment.compile(tree)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateFailure(error.message or "syntax error", error.lineno) from error
        except (RecursionError, SyntaxError) as error:
            raise TemplateFailure("too deeply nested", None) from error
        self._template = environment.template_class.from_code(
            environment, code, environment.make_globals(None)
        )

    def render(self, variables: Mapping[str, object]) -> str:
        """Raises TemplateFailure, whatever the template does."""
        context = self._template.new_context({**variables, _METER: _Meter()})
        try:
            return "".join(_bounded(self._template.root_render_func(context)))
        except Exception as error:  # the template is foreign code; it may raise anything
            message = str(error) or type(error).__name__
            raise TemplateFailure(message, _template_line(error.__traceback__)) from error


def _make_environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationTag, "jinja2.ext.loopcontrols"],
        finalize=_finalize,
    )
    names = cast("dict[str, object]", environment.globals)  # pyright: ignore[reportUnknownMemberType] - Jinja leaves it open
    del names["lipsum"]
    names["raise_exception"] = _raise_exception
    filters = cast("dict[str, Callable[..., Any]]", environment.filters)  # pyright: ignore[reportUnknownMemberType] - Jinja leaves it open
    filters["tojson"] = _to_json
    for name, function in filters.items():
        filters[name] = _guard_filter(name, function)
    return environment


@jinja2.pass_context
def _finalize(context: Context, value: object) -> object:
    """Sees all that a template prints, into captured blocks as well."""
    _meter(context).count_chars(_size(value))
    return value


def _guard_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, metered. It takes the context; what the filter itself takes is passed on."""
    passed = jinja2.utils._PassArg.from_obj(function)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - no public name for it

    @jinja2.pass_context
    def guarded(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - any filter
        _refuse_huge(*args, *kwargs.values())
        if name == "format":
            _refuse_widths(str(value))
        elif name == "join":
            value = list(value)
            _meter(context).count_chars(sum(map(_size, value)))
        elif name == "replace":
            _meter(context).count_chars(_method_len(str(value), name, args))
        result = function(*_first_arguments(passed, context), value, *args, **kwargs)
        _meter(context).count_chars(_size(result))
        return result

    return guarded


def _first_arguments(passed: Any, context: Context) -> list[object]:  # noqa: ANN401 - Jinja's private enum
    if passed is None:
        return []
    return [
        {"context": context, "eval_context": context.eval_ctx}.get(passed.name, context.environment)
    ]


def _meter(context: Context) -> _Meter:
    return context.parent[_METER]


def _meter_loops(tree: nodes.Template) -> None:
    """Puts a count into every body that can run again, and meters `~`."""
    for node in list(tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block))):
        turn = nodes.Call(nodes.EnvironmentAttribute("count_turn"), [], [], None, None)
        node.body.insert(0, nodes.ExprStmt(turn).set_lineno(node.lineno))
        if isinstance(node, nodes.For):
            iterate = nodes.EnvironmentAttribute("iterate")
            node.iter = nodes.Call(iterate, [node.iter], [], None, None).set_lineno(node.lineno)
    _replace_concats(tree)


def _replace_concats(node: nodes.Node) -> None:
    for field, value in node.iter_fields():
        if isinstance(value, nodes.Node):
            setattr(node, field, _metered(value))
        elif isinstance(value, list):
            items = cast("list[object]", value)
            items[:] = [_metered(item) if isinstance(item, nodes.Node) else item for item in items]


def _metered(node: nodes.Node) -> nodes.Node:
    _replace_concats(node)
    if not isinstance(node, nodes.Concat):
        return node
    join = nodes.EnvironmentAttribute("join_metered")
    return nodes.Call(join, node.nodes, [], None, None).set_lineno(node.lineno)


def _bounded(chunks: Iterator[str]) -> Iterator[str]:
    num_chars = 0
    for chunk in chunks:
        num_chars += len(chunk)
        if num_chars > _MAX_CHARS:
            raise jinja2.TemplateRuntimeError(f"more than {_MAX_CHARS} characters made")
        yield chunk


def _template_line(traceback: TracebackType | None) -> int | None:
    """The template's line of the innermost frame that belongs to one."""
    line = None
    while traceback is not None:
        template = traceback.tb_frame.f_globals.get("__jinja_template__")
        if template is not None:
            line = template.get_corresponding_lineno(traceback.tb_lineno)
        traceback = traceback.tb_next
    return line


def _refuse_huge(*values: object) -> None:
    for value in values:
        if isinstance(value, (int, float)) and abs(value) > _MAX_NUMBER:
            raise jinja2.TemplateRuntimeError(f"the number {value} is refused")


def _refuse_widths(text: str) -> None:
    if re.search(r"\d{5}|%[-+ #0]*\*|\.\*|:[^{}]*\{", text):
        raise jinja2.TemplateRuntimeError("a format with widths that large is refused")


def _product_len(left: object, right: object) -> int:
    for sequence, factor in ((left, right), (right, left)):
        if isinstance(sequence, (str, list, tuple)) and isinstance(factor, int):
            return len(sequence) * factor  # pyright: ignore[reportUnknownArgumentType] - a template's value
    return 0


def _method_len(owner: str, method: str, args: tuple[Any, ...]) -> int:
    """Characters that a string method is going to make, where the result's length is no guide."""
    match method, args:
        case "replace", (old, new, *_):
            return (owner.count(str(old)) if old else len(owner) + 1) * len(str(new))
        case "join", (items,) if isinstance(items, (list, tuple)):
            texts = cast("Sequence[object]", items)
            return sum(map(_size, texts)) + len(owner) * len(texts)
        case _:
            return 0


def _size(value: object) -> int:
    if isinstance(value, (str, list, tuple)):
        return len(value)  # pyright: ignore[reportUnknownArgumentType] - a template's value
    return value.bit_length() if isinstance(value, int) else 0


def _to_json(
    value: object,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - the signature templates call
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002 - the signature templates call
) -> str:
    """Hugging Face's `tojson`: no HTML escapes, other scripts as they are."""
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - how Jinja raises
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
