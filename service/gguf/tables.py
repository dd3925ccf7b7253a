"""What `smolserve gguf` prints. Text from files is escaped: it may hold terminal commands."""

from collections.abc import Iterable

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from service.gguf.check import Check
from service.gguf.header import Scalar
from service.gguf.hyperparameters import Hyperparameters
from service.gguf.memory import MemoryEstimate
from service.gguf.summary import GgufSummary, SpecialToken

_MEBIBYTE = 1 << 20
_MARKS = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}


def print_summary(console: Console, summary: GgufSummary, memory: MemoryEstimate | None) -> None:
    console.print(
        Group(
            _overview(summary),
            _quantisations(summary),
            _layers(summary),
            _tokenizer(summary),
            _mapping(summary),
            *([] if memory is None else [_memory(memory)]),
        )
    )


def format_check(check: Check) -> str:
    """One line."""
    return f"{_MARKS[check.outcome]:8}{check.name:14}{printable(check.detail)}"


def printable(text: str) -> str:
    """`text` with everything that a terminal might obey written as an escape."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def count_bytes(num_bytes: int) -> str:
    if num_bytes < 10 * _MEBIBYTE:
        return f"{num_bytes / 1024:,.1f} KiB"
    if num_bytes < 1000 * _MEBIBYTE:
        return f"{num_bytes / _MEBIBYTE:,.1f} MiB"
    return f"{num_bytes / _MEBIBYTE / 1024:,.2f} GiB"


def format_ranges(numbers: Iterable[int]) -> str:
    """`0-3, 6, 9` for 0 1 2 3 6 9."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(
        f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run))  # noqa: PLR2004 - a pair is no range
        for run in runs
    )


def _overview(summary: GgufSummary) -> Table:
    table = _pairs("File")
    size = f"{count_bytes(summary.file_size)} ({summary.file_size:,} bytes)"
    if summary.missing_bytes:
        size += f", CUT SHORT by {summary.missing_bytes:,} bytes"
    _row(table, "path", summary.path)
    _row(table, "size", size)
    _row(table, "name", summary.name or "-")
    _row(table, "architecture", summary.architecture or "missing")
    _row(table, "GGUF version", str(summary.gguf_version))
    _row(table, "tensors", f"{summary.num_tensors}, {count_bytes(summary.tensor_bytes)}")
    _row(table, "metadata", f"{summary.num_metadata} keys")
    if summary.hyperparameters is None:
        _row(table, "problem", summary.hyperparameters_problem or "")
    else:
        _add_hyperparameters(table, summary.hyperparameters)
    _row(table, "embeddings", "tied" if summary.tied_embeddings else "not tied (output.weight)")
    nope = format_ranges(summary.nope_layers) or "none"
    _row(table, "NoPE layers", f"{nope} (from {summary.nope_source})")
    for kind, num_bytes in summary.kv_bytes_per_token.items():
        _row(table, f"KV a token, {kind}", count_bytes(num_bytes))
    return table


def _add_hyperparameters(table: Table, shape: Hyperparameters) -> None:
    heads = f"{shape.num_heads} query, {shape.num_kv_heads} key/value, of {shape.head_len}"
    rope = f"{shape.rope_len} of {shape.head_len} dimensions, base {shape.rope_base:,.0f}"
    _row(table, "layers", str(shape.num_layers))
    _row(table, "hidden / FFN", f"{shape.hidden_len} / {shape.ffn_len}")
    _row(table, "heads", heads)
    _row(table, "vocabulary", str(shape.vocab_len))
    _row(table, "context", str(shape.context_len))
    _row(table, "RoPE", rope)
    _row(table, "RMS epsilon", f"{shape.rms_epsilon:.3g}")


def _quantisations(summary: GgufSummary) -> Table:
    table = _table("Tensors", "type", "tensors", "shape", "number", "bytes")
    for group in summary.quantisations:
        size = count_bytes(group.num_bytes)
        table.add_row(group.type, "all", "", str(group.num_tensors), size, style="bold")
        for member in group.shapes:
            shape = " x ".join(map(str, member.shape))
            name, size = _text(member.name), count_bytes(member.num_bytes)
            table.add_row("", name, shape, str(member.num_tensors), size)
    return table


def _layers(summary: GgufSummary) -> Table:
    table = _table("Types by layer", "tensor", "type", "layers")
    for group in summary.layer_quantisations:
        table.add_row(group.tensor, group.type, format_ranges(group.layers))
    return table


def _tokenizer(summary: GgufSummary) -> Table:
    tokenizer, table = summary.tokenizer, _pairs("Tokenizer")
    _row(
        table, "model", f"{tokenizer.model or '-'}, pre-tokenizer {tokenizer.pre_tokenizer or '-'}"
    )
    _row(table, "tokens", f"{tokenizer.num_tokens}, {tokenizer.num_merges} merges")
    kinds = f"{tokenizer.num_control} control, {tokenizer.num_user_defined} user-defined"
    _row(table, "kinds", f"{kinds}, {tokenizer.num_unused} unused")
    template = summary.chat_template_len
    found = "none" if template is None else f"found, {template} characters"
    for role, tokens in _by_role(tokenizer.special):
        _row(table, role, ", ".join(f"{token.token_id} {token.text}" for token in tokens))
    _row(table, "chat template", found)
    return table


def _by_role(tokens: Iterable[SpecialToken]) -> list[tuple[str, list[SpecialToken]]]:
    roles: dict[str, list[SpecialToken]] = {}
    for token in tokens:
        roles.setdefault(token.role, []).append(token)
    return list(roles.items())


def _mapping(summary: GgufSummary) -> Table:
    wanted = "needs remapping" if summary.needs_remap else "nothing to do"
    title = f"Keys of the llama family: {wanted}" if summary.mapping else "No keys to map"
    table = _table(title, "smollm3.* to llama.*", "value", "llama key")
    for mapping in summary.mapping:
        table.add_row(mapping.suffix, _text(_format_value(mapping.source_value)), mapping.state)
    return table


def _format_value(value: Scalar | None) -> str:
    if isinstance(value, float):
        return f"{value:.7g}"
    return "-" if value is None else str(value)


def _memory(memory: MemoryEstimate) -> Table:
    table = _pairs("Memory, estimated")
    _row(table, "slots", f"{memory.num_slots} of {memory.slot_len} tokens")
    _row(table, "weights", f"{count_bytes(memory.weight_bytes)}, memory-mapped")
    _row(table, f"KV, {memory.kv_type}", count_bytes(memory.kv_bytes))
    _row(table, "compute", count_bytes(memory.compute_bytes))
    _row(table, "in all", count_bytes(memory.total_bytes))
    return table


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)


def _pairs(title: str) -> Table:
    table = _table(title, "", "")
    table.show_header = False
    return table


def _row(table: Table, name: str, value: str) -> None:
    table.add_row(name, _text(value))


def _text(value: str) -> Text:
    return Text(printable(value))
