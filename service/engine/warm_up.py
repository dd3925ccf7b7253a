"""First computations of a worker: every kernel once, and the proof that snapshots fit."""

import numpy as np
import numpy.typing as npt

from service.errors import LlamaError
from service.llama.context import LlamaContext
from service.llama.snapshot import Snapshot

NUM_TOKENS = 32
"""Enough for the kernels of a prompt chunk; one more token exercises those of decoding."""
FIRST_TOKEN = 100
TOLERANCE = 0.01
"""Of the logits' standard deviation. A snapshot read wrongly is off by about 1."""


def warm_up(context: LlamaContext) -> None:
    """Decode once with many rows and once with one."""
    _compute(context, 0, 0, NUM_TOKENS)
    _compute(context, 0, NUM_TOKENS, 1)
    context.truncate(0, 0)


def check_snapshots(contexts: list[LlamaContext]) -> bool:
    """Whether a state saved in one slot continues alike in the last slot of every context.

    The canonical form rests on llama.cpp's layout of states, which another build may change.
    """
    origin = contexts[0]
    try:
        _compute(origin, 0, 0, NUM_TOKENS)
        snapshot = origin.save(0)
        expected = _compute(origin, 0, NUM_TOKENS, 1)
        return all(_continues(context, snapshot, expected) for context in contexts)
    except LlamaError:
        return False
    finally:
        origin.truncate(0, 0)


def _continues(
    context: LlamaContext, snapshot: Snapshot, expected: npt.NDArray[np.float32]
) -> bool:
    slot = context.num_slots - 1
    context.restore(slot, snapshot)
    context.truncate(slot, NUM_TOKENS)
    logits = _compute(context, slot, NUM_TOKENS, 1)
    context.truncate(slot, 0)
    return bool(np.abs(logits - expected).max() <= TOLERANCE * expected.std())


def _compute(
    context: LlamaContext, slot: int, start: int, num_tokens: int
) -> npt.NDArray[np.float32]:
    """Compute rising token ids at a slot's next positions; the last one's logits."""
    batch = context.batch
    positions = np.arange(start, start + num_tokens)
    batch.token[:num_tokens] = FIRST_TOKEN + positions
    batch.pos[:num_tokens] = positions
    batch.slot[:num_tokens] = slot
    batch.output[:num_tokens] = 0
    batch.output[num_tokens - 1] = 1
    context.decode(num_tokens)
    return context.logits(1)[0].copy()
