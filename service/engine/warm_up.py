"""First computations of a worker: every kernel once, and the proof that snapshots fit."""

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import structlog

from service.errors import LlamaError
from service.kvcache.costs import Costs
from service.llama.context import LlamaContext
from service.llama.snapshot import Snapshot, cut

logger = structlog.stdlib.get_logger(__name__)

NUM_TOKENS = 32
"""Enough for the kernels of a prompt chunk; one more token exercises those of decoding."""
CUT_AT = 13
CROPPED_LEN = 29
FIRST_TOKEN = 100
MEASURED_ROWS = 8
NUM_TIMINGS = 8
"""Of each kind; half a second together on two cores."""
TOLERANCE = 0.01
"""Of the logits' standard deviation. A snapshot read wrongly is off by about 1."""


def warm_up(context: LlamaContext) -> None:
    """Decode once with many rows and once with one."""
    _compute(context, 0, 0, NUM_TOKENS)
    _compute(context, 0, NUM_TOKENS, 1)
    context.truncate(0, 0)


def measure_decoding(context: LlamaContext, costs: Costs) -> None:
    """What steps take when short sequences decode; each slot has some rows if slots are few.

    Timings of each kind alternate and the shortest counts, so that it takes a busy machine all the
    time, and not for a moment, to mislead.
    """
    num_slots = context.num_slots
    rows_each = -(-MEASURED_ROWS // num_slots)
    kinds = ((1, 1), (1, 2), (num_slots, rows_each))
    timings = [[_time_rows(context, *kind) for kind in kinds] for _ in range(NUM_TIMINGS)]
    costs.lone_seconds, two, many = map(min, zip(*timings, strict=True))
    costs.row_seconds = max(0.0, many - two) / (num_slots * rows_each - 2)
    costs.pass_seconds = max(0.0, two - 2 * costs.row_seconds)
    logger.debug(
        "decoding_measured",
        pass_ms=round(costs.pass_seconds * 1000, 2),
        row_ms=round(costs.row_seconds * 1000, 2),
        lone_ms=round(costs.lone_seconds * 1000, 2),
    )


def _time_rows(context: LlamaContext, num_slots: int, rows_each: int) -> float:
    """A step that begins `num_slots` sequences with so many tokens each."""
    batch = context.batch
    num_rows = num_slots * rows_each
    num_outputs = min(num_rows, context.num_outputs)
    batch.token[:num_rows] = FIRST_TOKEN
    batch.pos[:num_rows] = np.tile(np.arange(rows_each), num_slots)
    batch.slot[:num_rows] = np.repeat(np.arange(num_slots), rows_each)
    batch.output[:num_rows] = 0
    batch.output[num_rows - num_outputs : num_rows] = 1
    started = time.perf_counter()
    context.decode(num_rows)
    context.logits(num_outputs)
    seconds = time.perf_counter() - started
    for slot in range(num_slots):
        context.truncate(slot, 0)
    return seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """A way to restore, and the logits of the token that then comes next."""

    parts: tuple[Snapshot, ...]
    num_tokens: int
    expected: npt.NDArray[np.float32]


def check_snapshots(contexts: list[LlamaContext]) -> bool:
    """Whether states saved in one slot continue alike in the last slot of every context.

    Whole, and cut in two, joined again and cropped. Both rest on llama.cpp's layout of states,
    which another build may change.
    """
    origin = contexts[0]
    try:
        return all(
            _continues(context, trial) for trial in _make_trials(origin) for context in contexts
        )
    except LlamaError as error:
        logger.warning("snapshots_unproven", reason=str(error))
        return False
    finally:
        origin.truncate(0, 0)


def _make_trials(origin: LlamaContext) -> list[_Trial]:
    _compute(origin, 0, 0, NUM_TOKENS)
    whole = origin.save(0)
    after_whole = _compute(origin, 0, NUM_TOKENS, 1)
    origin.truncate(0, CROPPED_LEN)
    after_cropped = _compute(origin, 0, CROPPED_LEN, 1)
    halves = (cut(whole, 0, CUT_AT), cut(whole, CUT_AT, NUM_TOKENS))
    return [
        _Trial(parts=(whole,), num_tokens=NUM_TOKENS, expected=after_whole),
        _Trial(parts=halves, num_tokens=CROPPED_LEN, expected=after_cropped),
    ]


def _continues(context: LlamaContext, trial: _Trial) -> bool:
    slot = context.num_slots - 1
    context.restore(slot, trial.parts, trial.num_tokens)
    logits = _compute(context, slot, trial.num_tokens, 1)
    context.truncate(slot, 0)
    return bool(np.abs(logits - trial.expected).max() <= TOLERANCE * trial.expected.std())


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
