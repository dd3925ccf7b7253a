"""Random weights, made directly in the form in which they are stored.

Quantising random floats in Python takes minutes for three billion of them. A quantised block with
random bits is as good: every bit pattern of its integers is valid, and its floating-point scale
alone decides how large the weights are. So the bits come from a generator and the scale is set to
the one that gives the wanted standard deviation.
"""

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

Bytes = npt.NDArray[np.uint8]

_Q4_K_OFFSET = 7.5
"""dmin / d; with it the offset of a sub-block cancels the mean of its 4-bit integers."""

_Q4_K_STD = 258.3
"""Of `scale * q - 7.5 * min`, over random 6-bit scale and min and 4-bit q."""

_Q6_K_STD = 1365.7
"""Of `scale * (q - 32)`, over random 8-bit scale and 6-bit q."""


class BlockSource:
    """A stream of random blocks; the same seed gives the same bytes on every machine.

    It takes raw bits of PCG64, which numpy promises to keep, and none of its distributions.
    """

    def __init__(self, *seed: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(seed))

    def blocks(self, kind: GGMLQuantizationType, num_elements: int, *, std: float) -> Bytes:
        """`num_elements` weights of mean 0 and standard deviation `std`, as stored."""
        block_len, block_bytes = GGML_QUANT_SIZES[kind]
        blocks = self._bytes(num_elements // block_len * block_bytes).reshape(-1, block_bytes)
        if kind is GGMLQuantizationType.Q4_K:
            blocks[:, 0:2] = _half(std / _Q4_K_STD)
            blocks[:, 2:4] = _half(std / _Q4_K_STD * _Q4_K_OFFSET)
        elif kind is GGMLQuantizationType.Q6_K:
            blocks[:, 208:210] = _half(std / _Q6_K_STD)
        else:
            raise AssertionError(kind)
        return blocks.reshape(-1)

    def norm(self, num_elements: int) -> Bytes:
        """F32 factors of a norm: between 0.75 and 1.25."""
        bits = self._bytes(num_elements * 2).view(np.uint16)
        return (0.75 + bits / np.float32(1 << 17)).astype("<f4").view(np.uint8)

    def _bytes(self, num_bytes: int) -> Bytes:
        words = self._bits.random_raw(-(-num_bytes // 8))
        return words.astype("<u8", copy=False).view(np.uint8)[:num_bytes]


def _half(value: float) -> Bytes:
    return np.array([value], "<f2").view(np.uint8)
