"""The ceiling: the same prompts and batch shapes driven straight through llama.cpp, greedily.

A process of its own, as the worker is. It reads a JSON line per job on standard input,
{"prompts": [[token, …], …], "max_tokens": n}, and answers {"seconds": s} on standard output.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from service.llama.context import ContextShape, LlamaContext
from service.llama.model import LlamaModel


def prefill(context: LlamaContext, prompts: list[list[int]], step_tokens: int) -> list[int]:
    """Compute all prompts in batches of at most `step_tokens`; the first token of each."""
    first: list[int] = []
    rows: list[tuple[int, int, int, bool]] = [
        (token, pos, slot, pos == len(prompt) - 1)
        for slot, prompt in enumerate(prompts)
        for pos, token in enumerate(prompt)
    ]
    batch = context.batch
    for start in range(0, len(rows), step_tokens):
        part = rows[start : start + step_tokens]
        count = len(part)
        tokens, positions, slots, outputs = (np.array(column) for column in zip(*part, strict=True))
        batch.token[:count] = tokens
        batch.pos[:count] = positions
        batch.slot[:count] = slots
        batch.output[:count] = outputs
        context.decode(count)
        num_outputs = int(outputs.sum())
        if num_outputs:
            first += context.logits(num_outputs).argmax(axis=1).tolist()
    return first


def generate(
    context: LlamaContext, prompts: list[list[int]], max_tokens: int, step_tokens: int
) -> float:
    """Generate `max_tokens` for each prompt; how long it took."""
    count = len(prompts)
    for slot in range(count):
        context.truncate(slot, 0)
    started = time.monotonic()
    tokens = np.array(prefill(context, prompts, step_tokens), np.int32)
    batch = context.batch
    batch.slot[:count] = np.arange(count)
    batch.pos[:count] = [len(prompt) for prompt in prompts]
    batch.output[:count] = 1
    for _ in range(max_tokens - 1):
        batch.token[:count] = tokens
        context.decode(count)
        tokens = context.logits(count).argmax(axis=1)
        batch.pos[:count] += 1
    return time.monotonic() - started


def main() -> None:
    model_path, num_slots, slot_len, threads, step_tokens = sys.argv[1:]
    model = LlamaModel(Path(model_path))
    shape = ContextShape(
        num_slots=int(num_slots),
        slot_len=int(slot_len),
        batch_len=int(step_tokens) + int(num_slots),
        threads=int(threads),
        flash_attention="off",  # as the service chooses on a CPU
    )
    context = LlamaContext(model, shape)
    generate(context, [[1, 2, 3]], 4, int(step_tokens))
    print("{}", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        seconds = generate(context, job["prompts"], job["max_tokens"], int(step_tokens))
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
