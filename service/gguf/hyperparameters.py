"""The numbers that give a decoder its shape, read from a header and checked for sense."""

from dataclasses import dataclass

from service.errors import ModelFileError
from service.gguf.header import Header

MAX_LAYERS = 1024
MAX_LEN = 1 << 31


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    """Of a transformer whose layers are all alike."""

    num_layers: int
    hidden_len: int
    ffn_len: int
    num_heads: int
    num_kv_heads: int
    head_len: int
    vocab_len: int
    context_len: int
    rope_base: float
    rope_len: int
    rms_epsilon: float


def read_hyperparameters(header: Header, family: str) -> Hyperparameters:
    """The shape that the `family.*` keys tell, with llama.cpp's defaults for the optional ones.

    Raises ModelFileError if a needed key is missing, of a wrong type or out of any sensible range.
    """
    num_heads = _integer(header, f"{family}.attention.head_count")
    hidden_len = _integer(header, f"{family}.embedding_length")
    head_len = _integer(header, f"{family}.attention.key_length", hidden_len // num_heads)
    return Hyperparameters(
        num_layers=_integer(header, f"{family}.block_count", limit=MAX_LAYERS),
        hidden_len=hidden_len,
        ffn_len=_integer(header, f"{family}.feed_forward_length"),
        num_heads=num_heads,
        num_kv_heads=_integer(header, f"{family}.attention.head_count_kv", num_heads),
        head_len=head_len,
        vocab_len=_integer(header, f"{family}.vocab_size", _num_tokens(header)),
        context_len=_integer(header, f"{family}.context_length"),
        rope_base=_number(header, f"{family}.rope.freq_base", 10_000.0),
        rope_len=_integer(header, f"{family}.rope.dimension_count", head_len),
        rms_epsilon=_number(header, f"{family}.attention.layer_norm_rms_epsilon"),
    )


def _num_tokens(header: Header) -> int | None:
    tokens = header.texts("tokenizer.ggml.tokens")
    return None if tokens is None else len(tokens)


def _integer(header: Header, key: str, default: int | None = None, *, limit: int = MAX_LEN) -> int:
    if header.find(key) is None and default is not None:
        return default
    value = header.integer(key)
    if value is None:
        raise ModelFileError(f"metadata key {key} is {_state(header, key)}")
    if not 0 < value <= limit:
        raise ModelFileError(f"{key} is {value}; it must be from 1 to {limit}")
    return value


def _number(header: Header, key: str, default: float | None = None) -> float:
    value = header.find(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, float):
        raise ModelFileError(f"metadata key {key} is {_state(header, key)}")
    if not 0 < value < float("inf"):
        raise ModelFileError(f"{key} is {value}; it must be a positive number")
    return value


def _state(header: Header, key: str) -> str:
    return "missing" if header.find(key) is None else "of a wrong type"
