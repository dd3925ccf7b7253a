"""ggml and gguf mean the same weights by the same bytes, for every type that we accept."""

import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

from service.errors import LlamaError
from service.gguf.smollm3 import ACCEPTED_TYPES
from service.llama.ggml import Ggml

ROUNDED_TO_8_BITS = 0.06
"""Six sigmas of rounding an activation to 8 bits of the vector's largest (service.llama.probe)."""

HALVES_AT = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
HALVES_AT |= {"IQ4_NL": (0,), "IQ4_XS": (0,)}
"""Where a block of a type that `gguf` cannot quantise has its 16-bit scales."""

ROW_LEN, NUM_ROWS = 512, 16


def stored_rows(kind: GGMLQuantizationType):
    rng = np.random.default_rng(0)
    if kind.name not in HALVES_AT:
        weights = rng.standard_normal((NUM_ROWS, ROW_LEN)).astype(np.float32)
        return quantize(weights, kind).view(np.uint8)
    block_len, block_bytes = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (NUM_ROWS * ROW_LEN // block_len, block_bytes), np.uint8)
    for at in HALVES_AT[kind.name]:
        blocks[:, at : at + 2] = np.float16(0.01).reshape(1).view(np.uint8)
    return blocks.reshape(NUM_ROWS, -1)


@pytest.mark.parametrize("kind", sorted(ACCEPTED_TYPES), ids=lambda kind: kind.name)
def test_products_agree(kind):
    stored = stored_rows(kind)
    x = np.random.default_rng(1).standard_normal(ROW_LEN).astype(np.float32)
    weights = dequantize(stored, kind).reshape(NUM_ROWS, ROW_LEN).astype(np.float64)
    size = np.linalg.norm(weights, axis=1)
    error = np.abs(Ggml().multiply(stored, kind, x) - weights @ x) / size
    assert error.max() < (1e-5 if kind is GGMLQuantizationType.F32 else ROUNDED_TO_8_BITS)
    assert size.min() > 0.1


@pytest.mark.parametrize("kind", sorted(ACCEPTED_TYPES), ids=lambda kind: kind.name)
def test_sound_blocks_are_valid(kind):
    assert Ggml().is_valid(stored_rows(kind), kind)


def test_scale_that_is_no_number_is_not_valid():
    stored = stored_rows(GGMLQuantizationType.Q6_K).copy()
    stored[3, 208:210] = np.float16(np.nan).reshape(1).view(np.uint8)
    assert not Ggml().is_valid(stored, GGMLQuantizationType.Q6_K)


def test_rows_of_another_length_are_refused():
    stored = stored_rows(GGMLQuantizationType.Q6_K)
    with pytest.raises(LlamaError, match="another number of bytes"):
        Ggml().multiply(stored, GGMLQuantizationType.Q6_K, np.zeros(256, np.float32))
