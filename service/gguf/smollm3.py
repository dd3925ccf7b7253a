"""SmolLM3's architecture as a GGUF file holds it; docs/smollm3.md explains it."""

from collections.abc import Mapping

from gguf.constants import GGMLQuantizationType

from service.errors import ModelFileError
from service.gguf.header import Header, Value
from service.gguf.hyperparameters import MAX_LAYERS, Hyperparameters

ARCHITECTURE = "smollm3"
LLAMA = "llama"

NOPE_STEP = 4
"""Every fourth layer has no rotary embedding; llama.cpp hard-codes it, no file says it."""

NOPE_KEY = "smollm3.attention.nope_layers"
"""Ours: the layers without rotary embedding, an array of i32. llama.cpp ignores unknown keys."""

MAPPED = (
    "attention.head_count",
    "attention.head_count_kv",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "vocab_size",
    "rope.freq_base",
    "rope.dimension_count",
    "attention.layer_norm_rms_epsilon",
)
"""What loaders of the llama family look for under `llama.`, in place of `smollm3.`."""

TEMPERATURE, TOP_P = 0.6, 0.95
"""Sampling that the model's card advises."""

SPECIAL_TOKENS: Mapping[int, str] = {
    128000: "<|begin_of_text|>",
    128001: "<|end_of_text|>",
    128002: "<think>",
    128003: "</think>",
    128004: "<|finetune_right_pad_id|>",
    128005: "<|reserved_special_token_2|>",
    128006: "<|start_header_id|>",
    128007: "<|end_header_id|>",
    128008: "<|eom_id|>",
    128009: "<|eot_id|>",
    128010: "<|python_tag|>",
    128011: "<|im_start|>",
    128012: "<|im_end|>",
    128013: "<tool_response>",
    128014: "</tool_response>",
    128015: "<tool_call>",
    128016: "</tool_call>",
    128017: "<code>",
    128018: "</code>",
}
"""For synthetic files only: code that reads a model asks its vocabulary."""

ACCEPTED_TYPES = frozenset(
    {
        GGMLQuantizationType.F32,
        GGMLQuantizationType.F16,
        GGMLQuantizationType.BF16,
        GGMLQuantizationType.Q4_0,
        GGMLQuantizationType.Q4_1,
        GGMLQuantizationType.Q5_0,
        GGMLQuantizationType.Q5_1,
        GGMLQuantizationType.Q8_0,
        GGMLQuantizationType.Q2_K,
        GGMLQuantizationType.Q3_K,
        GGMLQuantizationType.Q4_K,
        GGMLQuantizationType.Q5_K,
        GGMLQuantizationType.Q6_K,
        GGMLQuantizationType.IQ4_NL,
        GGMLQuantizationType.IQ4_XS,
    }
)
"""Types of weights that we serve: llama.cpp computes them fast, and `gguf` can dequantise them."""


def nope_layers(num_layers: int) -> tuple[int, ...]:
    return tuple(range(NOPE_STEP - 1, num_layers, NOPE_STEP))


def declared_nope_layers(header: Header) -> tuple[int, ...] | None:
    """What the file's own metadata says, if it was remapped. Raises ModelFileError if malformed."""
    value = header.find(NOPE_KEY)
    if value is None:
        return None
    numbers = header.numbers(NOPE_KEY)
    if numbers is None or numbers.dtype.kind not in "iu" or numbers.size > MAX_LAYERS:
        raise ModelFileError(f"{NOPE_KEY} must be an array of layer numbers; remap the file again")
    return tuple(int(layer) for layer in numbers)


def expected_tensors(shape: Hyperparameters, *, tied: bool) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a SmolLM3 (or plain llama) model, in the order of a file.

    The order is llama.cpp's: tensors outside of layers first, then layer by layer, each by name.
    """
    hidden, ffn = shape.hidden_len, shape.ffn_len
    query, key_value = shape.num_heads * shape.head_len, shape.num_kv_heads * shape.head_len
    tensors: dict[str, tuple[int, ...]] = {}
    if not tied:
        tensors["output.weight"] = (hidden, shape.vocab_len)
    tensors["output_norm.weight"] = (hidden,)
    tensors["token_embd.weight"] = (hidden, shape.vocab_len)
    layer = {
        "attn_k": (hidden, key_value),
        "attn_norm": (hidden,),
        "attn_output": (query, hidden),
        "attn_q": (hidden, query),
        "attn_v": (hidden, key_value),
        "ffn_down": (ffn, hidden),
        "ffn_gate": (hidden, ffn),
        "ffn_norm": (hidden,),
        "ffn_up": (hidden, ffn),
    }
    for index in range(shape.num_layers):
        tensors |= {f"blk.{index}.{name}.weight": dims for name, dims in layer.items()}
    return tensors


def uses_more_bits(layer: int, num_layers: int) -> bool:
    """Whether Q4_K_M gives this layer's `attn_v` and `ffn_down` Q6_K (llama-quant.cpp)."""
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2  # noqa: PLR2004


def equal_values(left: Value, right: Value) -> bool:
    """Equality of two metadata values of any type."""
    if isinstance(left, (int, float, str, tuple)) or isinstance(right, (int, float, str, tuple)):
        return type(left) is type(right) and bool(left == right)
    return left.dtype == right.dtype and left.tobytes() == right.tobytes()
