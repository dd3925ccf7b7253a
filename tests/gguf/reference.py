"""SmolLM3's forward pass in plain NumPy, written from the architecture; no cache, no tricks.

It knows llama.cpp by one thing only: GGUF stores the rows of `attn_q` and `attn_k` so that the two
numbers which rotate together are neighbours (pairs 2i, 2i + 1).
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from service.gguf.header import read_header
from service.gguf.hyperparameters import read_hyperparameters

Floats = npt.NDArray[np.float64]

ROUNDING_BLOCK = 256
"""K-quant products round their activations in blocks of this length (ggml's Q8_K)."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """`nope_layers` have no rotary embedding.

    With `rounds_activations`, the inputs of quantised products are rounded to 8 bits a block as
    ggml does; what that changes is the error that quantised arithmetic must be granted.
    """

    path: Path
    nope_layers: tuple[int, ...]
    num_tokens: int
    """How much of the vocabulary to compute: a file may have zeros beyond."""
    rounds_activations: bool = False

    def logits(self, tokens: list[int]) -> Floats:
        """(len(tokens), num_tokens): row i continues `tokens[: i + 1]`."""
        shape = self.shape
        x = self._rows("token_embd.weight", tokens)
        for layer in range(shape.num_layers):
            x = x + self._attention(self._norm(x, f"blk.{layer}.attn_norm.weight"), layer)
            x = x + self._feed_forward(self._norm(x, f"blk.{layer}.ffn_norm.weight"), layer)
        return self._product(self._norm(x, "output_norm.weight"), "token_embd.weight")

    @cached_property
    def shape(self):
        return read_hyperparameters(self._header, self._header.text("general.architecture") or "")

    def _attention(self, x: Floats, layer: int) -> Floats:
        shape, length = self.shape, len(x)
        query = self._product(x, f"blk.{layer}.attn_q.weight")
        key = self._product(x, f"blk.{layer}.attn_k.weight")
        value = self._product(x, f"blk.{layer}.attn_v.weight")
        query = query.reshape(length, shape.num_heads, shape.head_len)
        key = key.reshape(length, shape.num_kv_heads, shape.head_len)
        value = value.reshape(length, shape.num_kv_heads, shape.head_len)
        if layer not in self.nope_layers:
            query, key = self._rotate(query), self._rotate(key)
        group = shape.num_heads // shape.num_kv_heads
        key, value = np.repeat(key, group, axis=1), np.repeat(value, group, axis=1)
        scores = np.einsum("qhd,khd->hqk", query, key) / np.sqrt(shape.head_len)
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", weights, value).reshape(length, -1)
        return self._product(mixed, f"blk.{layer}.attn_output.weight")

    def _feed_forward(self, x: Floats, layer: int) -> Floats:
        gate = self._product(x, f"blk.{layer}.ffn_gate.weight")
        up = self._product(x, f"blk.{layer}.ffn_up.weight")
        silu = gate / (1 + np.exp(-gate))
        return self._product(silu * up, f"blk.{layer}.ffn_down.weight")

    def _rotate(self, heads: Floats) -> Floats:
        """Turn pair i at position p by p * base ** (-2 i / rope_len)."""
        pairs = np.arange(self.shape.rope_len // 2)
        angles = np.outer(
            np.arange(len(heads)), self.shape.rope_base ** (-2 * pairs / self.shape.rope_len)
        )
        turned = (heads[..., 0::2] + 1j * heads[..., 1::2]) * np.exp(1j * angles)[:, None, :]
        return np.stack([turned.real, turned.imag], axis=-1).reshape(heads.shape)

    def _norm(self, x: Floats, name: str) -> Floats:
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        return x / np.sqrt(mean_square + self.shape.rms_epsilon) * self._weights(name)

    def _product(self, x: Floats, name: str) -> Floats:
        quantised = self._tensors[name].type is not GGMLQuantizationType.F32
        return (_rounded(x) if self.rounds_activations and quantised else x) @ self._weights(name).T

    def _rows(self, name: str, rows: list[int]) -> Floats:
        return self._weights(name)[rows]

    def _weights(self, name: str) -> Floats:
        if name not in self._cache:
            tensor = self._tensors[name]
            num_rows = self.num_tokens if name == "token_embd.weight" else tensor.num_rows
            row_bytes = tensor.num_bytes // tensor.num_rows
            start = self._header.data_start + tensor.offset
            stored = np.memmap(self.path, np.uint8, "r", start, (num_rows, row_bytes))
            weights = dequantize(np.asarray(stored), tensor.type).astype(np.float64)
            self._cache[name] = weights if len(tensor.shape) > 1 else weights[0]
        return self._cache[name]

    @cached_property
    def _header(self):
        return read_header(self.path)

    @cached_property
    def _tensors(self):
        return {tensor.name: tensor for tensor in self._header.tensors}

    @cached_property
    def _cache(self) -> dict[str, Floats]:
        return {}


def _rounded(x: Floats) -> Floats:
    blocks = x.reshape(-1, ROUNDING_BLOCK)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / 127
    scale[scale == 0] = 1
    return (np.round(blocks / scale) * scale).reshape(x.shape)
