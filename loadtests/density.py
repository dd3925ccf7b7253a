"""Passes of steps while sequences come and go: `python -m loadtests.density`.

The scheduler over the real engine, in this process. Sequences arrive at random so that half of the
slots run on average, and run for a random length. A step that only decodes should be one pass; it
takes more where a pass costs less than filler rows, as measured at the start.
"""

import argparse
import itertools
import random
from collections import Counter
from pathlib import Path

from loadtests.results import show_results
from service.core.messages import Submit
from service.core.plan import ContextPlan
from service.core.sampling import SamplingParams
from service.engine.config import EngineConfig
from service.engine.llama_engine import LlamaEngine
from service.kvcache.allocator import SlotAllocator
from service.kvcache.size_class import parse_size_classes
from service.kvcache.store import SnapshotStore
from service.scheduler.config import SchedulerConfig
from service.scheduler.passes import count_passes
from service.scheduler.scheduler import Scheduler

PROMPT_TOKENS = 40
MAX_TOKENS = 120


def make_request(number: int, chance: random.Random) -> Submit:
    prompt = [1, *(chance.randrange(1000, 40000) for _ in range(PROMPT_TOKENS - 1))]
    return Submit(
        sequence_id=number,
        prompt=prompt,
        sampling=SamplingParams(temperature=0, ignore_eos=True),
        max_tokens=chance.randrange(1, MAX_TOKENS),
        tenant="",
        session=None,
        share="",
        thinking=None,
    )


def classify(context: ContextPlan, *, is_cheaper: bool) -> str:
    """A prompt's chunk is longer than the rows beside it, and each length takes a pass."""
    lengths = {chunk.num_tokens for chunk in context.chunks} | ({1} if context.fillers else set())
    if lengths != {1}:
        is_fewest = count_passes(context) == len(lengths)
        return "with a prompt, a pass a length" if is_fewest else "with a prompt, more passes"
    if count_passes(context) == 1:
        return "one pass"
    return "cheaper than one pass" if is_cheaper else "dearer than one pass"


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    classes = f"{arguments.slots}x512"
    engine = LlamaEngine(
        EngineConfig(model_path=str(arguments.model), contexts=classes, threads=arguments.threads)
    )
    engine.warm_up()
    store = SnapshotStore(
        host_bytes=1 << 30, bytes_per_token=engine.bytes_per_token, costs=engine.costs
    )
    allocator = SlotAllocator(parse_size_classes(classes), store)
    scheduler = Scheduler(SchedulerConfig(), allocator, engine.eog_tokens)
    chance = random.Random(1)
    kinds: Counter[str] = Counter()
    fillers = running = 0
    # A sequence runs for about half of the greatest length, so this many arrive in a step.
    arrivals = arguments.slots / 2 / (MAX_TOKENS / 2)
    numbers = itertools.count(1)
    for _ in range(arguments.steps):
        if chance.random() < arrivals and scheduler.num_waiting == 0:
            scheduler.add(make_request(next(numbers), chance))
        if not scheduler.has_work:
            continue
        plan = scheduler.plan()
        running += scheduler.num_running
        for context in plan.contexts:
            slots = [chunk.slot for chunk in context.chunks]
            gaps = [b - a - 1 for a, b in itertools.pairwise(slots) if b - a > 1]
            is_cheaper = not any(map(engine.costs.prefers_filling, gaps))
            kinds[classify(context, is_cheaper=is_cheaper)] += 1
            fillers += len(context.fillers)
        scheduler.apply(engine.execute(plan))
    engine.close()
    steps = kinds.total()
    good = ("one pass", "cheaper than one pass")
    decoding = sum(number for kind, number in kinds.items() if "prompt" not in kind)
    return {
        "slots": arguments.slots,
        "running on average": running / steps,
        "steps": steps,
        **{f"share of steps: {kind}": kinds[kind] / steps for kind in sorted(kinds)},
        "of steps that only decode, one pass or cheaper": (
            sum(kinds[kind] for kind in good) / decoding
        ),
        "filler rows a step": fillers / steps,
        "pass ms": engine.costs.pass_seconds * 1000,
        "row ms": engine.costs.row_seconds * 1000,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m-instruct.gguf"))
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = measure(arguments)
    show_results("Passes of steps at half load", results, as_json=arguments.json)


if __name__ == "__main__":
    main()
