"""Small GGUF files, sound unless asked otherwise; and runs of llama.cpp on the synthetic model."""

import struct
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from service.gguf.header import Tensor, pad
from service.gguf.hyperparameters import Hyperparameters
from service.gguf.smollm3 import expected_tensors
from service.gguf.writer import (
    encode_header,
    f32_field,
    i32_array_field,
    tensor_entry,
    text_field,
    texts_field,
    u32_field,
)
from service.llama.context import ContextShape, LlamaContext
from service.llama.model import LlamaModel

ALIGNMENT = 32
VOCAB_LEN = 260

SMALL = Hyperparameters(
    num_layers=4,
    hidden_len=32,
    ffn_len=64,
    num_heads=4,
    num_kv_heads=2,
    head_len=8,
    vocab_len=VOCAB_LEN,
    context_len=512,
    rope_base=10_000.0,
    rope_len=8,
    rms_epsilon=1e-5,
)


def small_fields(family="smollm3") -> dict[str, bytes]:
    """Metadata that makes a complete model, by key."""
    letters = [chr(0x100 + index) for index in range(VOCAB_LEN)]
    fields = [
        text_field("general.architecture", family),
        u32_field(f"{family}.attention.head_count", SMALL.num_heads),
        u32_field(f"{family}.attention.head_count_kv", SMALL.num_kv_heads),
        u32_field(f"{family}.block_count", SMALL.num_layers),
        u32_field(f"{family}.context_length", SMALL.context_len),
        u32_field(f"{family}.embedding_length", SMALL.hidden_len),
        u32_field(f"{family}.feed_forward_length", SMALL.ffn_len),
        u32_field(f"{family}.vocab_size", SMALL.vocab_len),
        f32_field(f"{family}.rope.freq_base", SMALL.rope_base),
        u32_field(f"{family}.rope.dimension_count", SMALL.rope_len),
        f32_field(f"{family}.attention.layer_norm_rms_epsilon", SMALL.rms_epsilon),
        text_field("tokenizer.ggml.model", "gpt2"),
        text_field("tokenizer.ggml.pre", "smaug-bpe"),
        texts_field("tokenizer.ggml.tokens", letters),
        i32_array_field("tokenizer.ggml.token_type", [1] * VOCAB_LEN),
        texts_field("tokenizer.ggml.merges", [f"{letters[0]} {letters[1]}"]),
        u32_field("tokenizer.ggml.eos_token_id", 5),
        u32_field("tokenizer.ggml.bos_token_id", 6),
    ]
    return {key_of(field): field for field in fields}


def small_tensors(**changes: tuple[int, ...]) -> list[Tensor]:
    """F32 tensors of `SMALL`, packed; `changes` gives tensors other shapes, `()` leaves one out."""
    shapes = expected_tensors(SMALL, tied=True)
    shapes |= {name.replace("__", "."): dims for name, dims in changes.items()}
    return pack([(name, dims, "F32") for name, dims in shapes.items() if dims])


def pack(tensors: Sequence[tuple[str, tuple[int, ...], str]]) -> list[Tensor]:
    packed: list[Tensor] = []
    offset = 0
    for name, dims, kind_name in tensors:
        kind = GGMLQuantizationType[kind_name]
        block_len, block_bytes = GGML_QUANT_SIZES[kind]
        num_bytes = int(np.prod(dims)) // block_len * block_bytes
        packed.append(Tensor(name=name, shape=dims, type=kind, offset=offset, num_bytes=num_bytes))
        offset = pad(offset + num_bytes, ALIGNMENT)
    return packed


def small_file(
    path: Path,
    *,
    family: str = "smollm3",
    fields: Mapping[str, bytes | None] | None = None,
    tensors: Sequence[Tensor] | None = None,
) -> Path:
    """Write a model of `SMALL`'s shape; `fields` replaces metadata by key, None takes it out."""
    chosen = small_fields(family) | dict(fields or {})
    listed = small_tensors() if tensors is None else list(tensors)
    header = encode_header(
        [field for field in chosen.values() if field is not None],
        b"".join(map(tensor_entry, listed)),
        num_tensors=len(listed),
        alignment=ALIGNMENT,
    )
    size = max((tensor.offset + tensor.num_bytes for tensor in listed), default=0)
    weights = np.random.default_rng(0).normal(0, 0.2, pad(size, ALIGNMENT) // 4).astype("<f4")
    path.write_bytes(header + weights.tobytes())
    return path


def key_of(field: bytes) -> str:
    (length,) = struct.unpack_from("<Q", field)
    return field[8 : 8 + length].decode()


def raw_header(
    *, magic=b"GGUF", version=3, num_tensors=0, num_fields=0, rest: bytes = b""
) -> bytes:
    return magic + struct.pack("<IQQ", version, num_tensors, num_fields) + rest


def raw_string(data: bytes, *, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(data) if length is None else length) + data


def raw_type(kind: GGUFValueType | int) -> bytes:
    return struct.pack("<I", int(kind))


@contextmanager
def opened(path: Path, *, exact=False, num_slots=4, slot_len=512, batch_len=64, rope_scaling=1.0):
    """A context over the file; `exact` keeps keys and values in 32 bits."""
    model = LlamaModel(path)
    context = LlamaContext(
        model,
        ContextShape(
            num_slots=num_slots,
            slot_len=slot_len,
            batch_len=batch_len,
            threads=1,
            kv_type="f32" if exact else "f16",
            flash_attention="off" if exact else "auto",
            rope_scaling=rope_scaling,
        ),
    )
    try:
        yield context
    finally:
        context.close()
        model.close()


def feed(context: LlamaContext, tokens: Sequence[int], *, slot=0, start=0, chunk=64):
    """Compute `tokens` from position `start` in chunks; the logits after the last one."""
    parts = [
        _decode(context, tokens[first : first + chunk], slot, start + first, 1)
        for first in range(0, len(tokens), chunk)
    ]
    return parts[-1][0]


def feed_all(context: LlamaContext, tokens: Sequence[int]):
    """The logits after each of `tokens`, as many at a time as the context gives."""
    step = context.num_slots
    parts = [
        _decode(context, tokens[first : first + step], 0, first, step)
        for first in range(0, len(tokens), step)
    ]
    return np.concatenate(parts)


def feed_each(context: LlamaContext, tokens: Sequence[int], *, slot=0, start=0):
    """The logits after each of `tokens`, decoded one by one."""
    parts = [_decode(context, [token], slot, start + i, 1) for i, token in enumerate(tokens)]
    return np.concatenate(parts)


def _decode(context: LlamaContext, tokens: Sequence[int], slot: int, start: int, num_outputs: int):
    """One pass; the logits of its last `num_outputs` rows."""
    batch, num_rows = context.batch, len(tokens)
    batch.token[:num_rows] = tokens
    batch.pos[:num_rows] = np.arange(start, start + num_rows)
    batch.slot[:num_rows] = slot
    batch.output[:num_rows] = 0
    batch.output[num_rows - min(num_outputs, num_rows) : num_rows] = 1
    context.decode(num_rows)
    return context.logits(min(num_outputs, num_rows)).copy()


def report(line: str) -> None:
    """Shown by `pytest -s` or `-rP`: figures that a reader wants and no assertion needs."""
    print(line)  # noqa: T201 - see above
