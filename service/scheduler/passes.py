"""How many forward passes llama.cpp makes of a batch.

In a context of streams, one pass takes as many tokens from each of a run of consecutive sequence
ids; what is left over goes into further passes (llama-batch.cpp, `split_equal`, sequential).
"""

from collections.abc import Iterable

from service.core.plan import Chunk, ContextPlan, Filler


def count_passes(context: ContextPlan) -> int:
    """Passes of one decode call, as long as none exceeds the micro-batch."""
    return count_passes_of(rows_by_slot(context.chunks, context.fillers))


def rows_by_slot(chunks: Iterable[Chunk], fillers: Iterable[Filler]) -> dict[int, int]:
    """How many rows each slot has in the batch."""
    lengths = {chunk.slot: chunk.num_rows for chunk in chunks}
    lengths.update((filler.slot, 1) for filler in fillers)
    return lengths


def count_passes_of(lengths: dict[int, int]) -> int:
    """The same, of so many rows in each slot."""
    lengths = dict(lengths)
    passes = 0
    while lengths:
        run = _first_run(lengths)
        taken = min(lengths[slot] for slot in run)
        for slot in run:
            lengths[slot] -= taken
            if not lengths[slot]:
                del lengths[slot]
        passes += 1
    return passes


def _first_run(lengths: dict[int, int]) -> list[int]:
    slot = min(lengths)
    run = [slot]
    while slot + 1 in lengths:
        slot += 1
        run.append(slot)
    return run
