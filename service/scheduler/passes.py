"""How many forward passes llama.cpp makes of a batch.

In a context of streams, one pass takes as many tokens from each of a run of consecutive sequence
ids; what is left over goes into further passes (llama-batch.cpp, `split_equal`, sequential).
"""

from service.core.plan import ContextPlan


def count_passes(context: ContextPlan) -> int:
    """Passes of one decode call, as long as none exceeds the micro-batch."""
    lengths = {chunk.slot: chunk.end - chunk.start for chunk in context.chunks}
    lengths.update((filler.slot, 1) for filler in context.fillers)
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
