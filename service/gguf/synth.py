"""Files of SmolLM3's shape with random weights: `tiny` for tests, `3b` for speed and memory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Literal

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from gguf.quants import dequantize

from service.errors import ModelFileError
from service.gguf import smollm3
from service.gguf.blocks import BlockSource, Bytes
from service.gguf.files import (
    Progress,
    atomic_file,
    ignore_progress,
    require_absent,
    require_space,
    write_all,
)
from service.gguf.header import Tensor, pad
from service.gguf.hyperparameters import Hyperparameters
from service.gguf.summary import layer_of
from service.gguf.vocabulary import (
    FIRST_SPECIAL,
    LAST_NAMED,
    VOCAB_LEN,
    Vocabulary,
    make_vocabulary,
)
from service.gguf.writer import (
    encode_header,
    f32_field,
    i32_array_field,
    tensor_entry,
    text_field,
    texts_field,
    u32_field,
)

Size = Literal["tiny", "3b"]
WeightType = Literal["q4_k_m", "f32"]

ALIGNMENT = 32
_CHUNK_ROWS = 4096

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""SmolLM3's turns without its system block: the service renders that itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a synthetic file holds."""

    name: str
    shape: Hyperparameters
    num_text_tokens: int
    has_unused_rows: bool
    """Whether embeddings of fillers and reserved tokens are drawn as well; otherwise they are zero,
    holes in the file, and such tokens are hardly ever generated."""


_SHAPE_3B = Hyperparameters(
    num_layers=36,
    hidden_len=2048,
    ffn_len=11008,
    num_heads=16,
    num_kv_heads=4,
    head_len=128,
    vocab_len=VOCAB_LEN,
    context_len=65536,
    rope_base=5_000_000.0,
    rope_len=128,
    rms_epsilon=1e-6,
)


def plan(size: Size) -> Plan:
    """The real shape, or one of eight layers: two of them, 3 and 7, are NoPE."""
    if size == "3b":
        return Plan(
            name="SmolLM3 synthetic 3B",
            shape=_SHAPE_3B,
            num_text_tokens=FIRST_SPECIAL,
            has_unused_rows=True,
        )
    shape = replace(
        _SHAPE_3B,
        num_layers=8,
        hidden_len=256,
        ffn_len=512,
        num_heads=4,
        num_kv_heads=2,
        head_len=64,
        rope_len=64,
    )
    return Plan(
        name="SmolLM3 synthetic tiny", shape=shape, num_text_tokens=2048, has_unused_rows=False
    )


def lay_out(shape: Hyperparameters, weights: WeightType) -> tuple[Tensor, ...]:
    """The tensors of a file: their types as Q4_K_M chooses them, packed one after the other."""
    tensors: list[Tensor] = []
    offset = 0
    for name, dims in smollm3.expected_tensors(shape, tied=True).items():
        kind = _kind(name, shape, weights)
        block_len, block_bytes = GGML_QUANT_SIZES[kind]
        tensor = Tensor(
            name=name,
            shape=dims,
            type=kind,
            offset=offset,
            num_bytes=int(np.prod(dims)) // block_len * block_bytes,
        )
        tensors.append(tensor)
        offset = pad(offset + tensor.num_bytes, ALIGNMENT)
    return tuple(tensors)


def synthesise(
    target: Path,
    size: Size,
    *,
    seed: int = 0,
    weights: WeightType = "q4_k_m",
    force: bool = False,
    progress: Progress = ignore_progress,
) -> None:
    """Write a model file; the same arguments give the same bytes.

    With `weights` f32 the file holds the dequantised weights of the quantised one, so that the two
    differ in nothing but how llama.cpp rounds activations. Raises ModelFileError if the target
    exists (unless `force`), the disk is full, or `3b` is asked for in f32.
    """
    if size == "3b" and weights == "f32":
        raise ModelFileError("3b in f32 would take 12 GB; f32 is for the tiny size")
    require_absent(target, force=force)
    planned = plan(size)
    tensors = lay_out(planned.shape, weights)
    vocabulary = make_vocabulary(planned.num_text_tokens)
    header = encode_header(
        _fields(planned, vocabulary, weights),
        b"".join(map(tensor_entry, tensors)),
        num_tensors=len(tensors),
        alignment=ALIGNMENT,
    )
    file_size = len(header) + pad(tensors[-1].offset + tensors[-1].num_bytes, ALIGNMENT)
    require_space(target.absolute().parent, file_size)
    with atomic_file(target, force=force) as file:
        write_all(file, header)
        for index, tensor in enumerate(tensors):
            file.seek(len(header) + tensor.offset)
            _write_tensor(file, tensor, planned, BlockSource(seed, index))
            progress(file.tell(), file_size)
        file.truncate(file_size)


def _kind(name: str, shape: Hyperparameters, weights: WeightType) -> GGMLQuantizationType:
    if weights == "f32" or name.endswith("_norm.weight"):
        return GGMLQuantizationType.F32
    return _quantised_kind(name, shape)


def _quantised_kind(name: str, shape: Hyperparameters) -> GGMLQuantizationType:
    layer = layer_of(name)
    if layer is None:
        return GGMLQuantizationType.Q6_K
    wants_bits = name.endswith(("attn_v.weight", "ffn_down.weight"))
    if wants_bits and smollm3.uses_more_bits(layer, shape.num_layers):
        return GGMLQuantizationType.Q6_K
    return GGMLQuantizationType.Q4_K


def _write_tensor(file: FileIO, tensor: Tensor, planned: Plan, source: BlockSource) -> None:
    if tensor.name.endswith("_norm.weight"):
        write_all(file, source.norm(tensor.num_elements).data)
        return
    row_bytes = tensor.num_bytes // tensor.shape[1]
    start = file.tell()
    for first, last in _rows(tensor, planned):
        file.seek(start + first * row_bytes)
        blocks = source.blocks(
            _quantised_kind(tensor.name, planned.shape),
            (last - first) * tensor.shape[0],
            std=_std(tensor, planned.shape),
        )
        write_all(file, _stored(blocks, tensor, planned.shape).data)


def _rows(tensor: Tensor, planned: Plan) -> Iterator[tuple[int, int]]:
    """Half-open ranges of rows to draw, each small enough to hold."""
    ranges = [(0, tensor.shape[1])]
    if tensor.name == "token_embd.weight" and not planned.has_unused_rows:
        ranges = [(0, planned.num_text_tokens), (FIRST_SPECIAL, LAST_NAMED + 1)]
    for first, last in ranges:
        for row in range(first, last, _CHUNK_ROWS):
            yield row, min(row + _CHUNK_ROWS, last)


def _stored(blocks: Bytes, tensor: Tensor, shape: Hyperparameters) -> Bytes:
    if tensor.type is not GGMLQuantizationType.F32:
        return blocks
    floats = dequantize(blocks, _quantised_kind(tensor.name, shape))
    return floats.astype("<f4", copy=False).view(np.uint8)


def _std(tensor: Tensor, shape: Hyperparameters) -> float:
    """Weights that neither vanish nor explode: a product keeps the size of its input.

    Embeddings are such that logits have a standard deviation of about 6, as peaked as a trained
    model's. Queries and keys of NoPE layers are larger, so that these layers look at something and
    rotating them is seen far above the rounding of quantised arithmetic; `ffn_down` is smaller,
    so that this rounding is not amplified from layer to layer.
    """
    if tensor.name == "token_embd.weight":
        return 6 / shape.hidden_len**0.5
    gain = 1.0
    if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
        gain = 2.0 if layer_of(tensor.name) in smollm3.nope_layers(shape.num_layers) else 1.0
    if tensor.name.endswith("ffn_down.weight"):
        gain = 0.5
    return gain / tensor.shape[0] ** 0.5


def _fields(planned: Plan, vocabulary: Vocabulary, weights: WeightType) -> list[bytes]:
    shape, family = planned.shape, smollm3.ARCHITECTURE
    file_type = LlamaFileType.MOSTLY_Q4_K_M if weights == "q4_k_m" else LlamaFileType.ALL_F32
    end_of_turn = vocabulary.tokens.index("<|im_end|>")
    return [
        text_field("general.architecture", family),
        text_field("general.type", "model"),
        text_field("general.name", planned.name),
        text_field("general.description", "Random weights; made by smolserve gguf synth."),
        u32_field(f"{family}.block_count", shape.num_layers),
        u32_field(f"{family}.context_length", shape.context_len),
        u32_field(f"{family}.embedding_length", shape.hidden_len),
        u32_field(f"{family}.feed_forward_length", shape.ffn_len),
        u32_field(f"{family}.attention.head_count", shape.num_heads),
        u32_field(f"{family}.attention.head_count_kv", shape.num_kv_heads),
        f32_field(f"{family}.rope.freq_base", shape.rope_base),
        f32_field(f"{family}.attention.layer_norm_rms_epsilon", shape.rms_epsilon),
        u32_field(f"{family}.vocab_size", shape.vocab_len),
        u32_field(f"{family}.rope.dimension_count", shape.rope_len),
        text_field("tokenizer.ggml.model", "gpt2"),
        text_field("tokenizer.ggml.pre", "smaug-bpe"),
        texts_field("tokenizer.ggml.tokens", vocabulary.tokens),
        i32_array_field("tokenizer.ggml.token_type", vocabulary.kinds),
        texts_field("tokenizer.ggml.merges", vocabulary.merges),
        u32_field("tokenizer.ggml.eos_token_id", end_of_turn),
        u32_field("tokenizer.ggml.padding_token_id", end_of_turn),
        u32_field("tokenizer.ggml.bos_token_id", FIRST_SPECIAL),
        text_field("tokenizer.chat_template", CHAT_TEMPLATE),
        u32_field("general.quantization_version", 2),
        u32_field("general.file_type", int(file_type)),
    ]
