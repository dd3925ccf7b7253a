"""YaRN on SmolLM3: RoPE layers turn by YaRN's angles, NoPE layers still by none.

A sequence of one token has the same hidden states at every position (see service.llama.probe), so
the keys that llama.cpp caches at two positions show the angles, and those with and without scaling
the factor on their length.
"""

import math

import numpy as np
import pytest

from service.llama.probe import read_keys
from tests.gguf.builders import feed, opened

NOPE_LAYERS = (3, 7)
POSITION = 100
BASE, DIMENSIONS, TRAINED_LEN = 5_000_000, 64, 65536
"""Of the synthetic `tiny`."""


def keys(path, rope_scaling):
    """(position, layer, pair): keys at positions 0 and `POSITION`, pairs as complex numbers."""
    with opened(path, exact=True, rope_scaling=rope_scaling) as context:
        for slot, position in enumerate((0, POSITION)):
            feed(context, [7], slot=slot, start=position)
        layers = np.array([read_keys(context.save(slot)) for slot in (0, 1)])[:, :, 0]
    return layers[..., 0::2] + 1j * layers[..., 1::2]


def yarn_angles(factor):
    """Radians a position, as Peng et al. 2023 have them, with alpha 1 and beta 32."""
    pairs = np.arange(DIMENSIONS // 2)
    plain = BASE ** (-2.0 * pairs / DIMENSIONS)

    def pair_that_turns(times):
        return DIMENSIONS * math.log(TRAINED_LEN / (times * 2 * math.pi)) / (2 * math.log(BASE))

    first, last = math.floor(pair_that_turns(32)), math.ceil(pair_that_turns(1))
    slowed = np.clip((pairs - first) / (last - first), 0, 1)
    return plain * (1 - slowed) + plain / factor * slowed


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_rope_layers_turn_by_yarns_angles_and_nope_layers_by_none(tiny_f32, factor):
    here, there = keys(tiny_f32, factor)
    angles = np.tile(yarn_angles(factor), 2)  # two key/value heads
    for layer, (near, far) in enumerate(zip(here, there, strict=True)):
        turned = near if layer in NOPE_LAYERS else near * np.exp(1j * POSITION * angles)
        assert np.abs(far - turned).max() < 1e-3 * np.abs(near).max(), layer


def test_keys_of_rope_layers_are_longer_by_yarns_temperature(tiny_f32):
    (plain, _), (stretched, _) = keys(tiny_f32, 1), keys(tiny_f32, 2)
    for layer, (before, after) in enumerate(zip(plain, stretched, strict=True)):
        longer = 1 if layer in NOPE_LAYERS else 1 + 0.1 * math.log(2)
        assert np.abs(after - longer * before).max() < 1e-4 * np.abs(before).max(), layer
