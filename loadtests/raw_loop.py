"""The ceiling: the same prompts and batch shapes driven straight through llama.cpp, greedily.

A process of its own, as the worker is. It reads a JSON line per job on standard input,
{"prompts": [[token, …], …], "max_tokens": n}, and answers {"seconds": s, "prefill_seconds": p} on
standard output; `seconds` has the prefill in it. `loadtests.ceiling` turns the options.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from service.core.kv import FlashAttention, KvType
from service.llama.context import ContextShape, LlamaContext
from service.llama.model import LlamaModel


def prefill(
    context: LlamaContext, prompts: list[list[int]], step_tokens: int, *, in_turn: bool = False
) -> list[int]:
    """Compute all prompts in batches of at most `step_tokens`; the first token of each.

    `in_turn` takes a token of each prompt in turn, not one prompt after the other.
    """
    first = [0] * len(prompts)
    rows: list[tuple[int, int, int, bool]] = [
        (token, pos, slot, pos == len(prompt) - 1)
        for slot, prompt in enumerate(prompts)
        for pos, token in enumerate(prompt)
    ]
    if in_turn:
        rows.sort(key=lambda row: row[1])
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
        ended = slots[outputs]
        if len(ended):
            for slot, token in zip(ended, context.logits(len(ended)).argmax(axis=1), strict=True):
                first[slot] = int(token)
    return first


def decode(
    context: LlamaContext,
    tokens: npt.NDArray[np.int64],
    positions: npt.NDArray[np.int64],
    *,
    num_steps: int,
    pass_rows: int,
) -> None:
    """A token more for every slot in each step, in passes of at most `pass_rows` slots."""
    count = len(tokens)
    slots = np.arange(count)
    batch = context.batch
    batch.output[:count] = 1
    passes = [slice(start, start + pass_rows) for start in range(0, count, pass_rows)]
    for _ in range(num_steps):
        for part in passes:
            rows = len(slots[part])
            batch.slot[:rows] = slots[part]
            batch.token[:rows] = tokens[part]
            batch.pos[:rows] = positions[part]
            context.decode(rows)
            tokens[part] = context.logits(rows).argmax(axis=1)
        positions += 1


def generate(
    context: LlamaContext, prompts: list[list[int]], max_tokens: int, options: argparse.Namespace
) -> dict[str, float]:
    """Generate `max_tokens` for each prompt; how long it took."""
    for slot in range(len(prompts)):
        context.truncate(slot, 0)
    started = time.monotonic()
    first = prefill(context, prompts, options.step_tokens, in_turn=options.in_turn)
    prefilled = time.monotonic()
    decode(
        context,
        np.array(first),
        np.array([len(prompt) for prompt in prompts]),
        num_steps=max_tokens - 1,
        pass_rows=options.pass_rows or len(prompts),
    )
    return {"seconds": time.monotonic() - started, "prefill_seconds": prefilled - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("num_slots", type=int)
    parser.add_argument("slot_len", type=int)
    parser.add_argument("threads", type=int)
    parser.add_argument("step_tokens", type=int)
    parser.add_argument("--kv-type", choices=get_args(KvType), default="f16")
    parser.add_argument(
        "--flash-attention",
        choices=get_args(FlashAttention),
        default="off",
        help="off is what the service chooses on a CPU",
    )
    parser.add_argument("--plain-weights", action="store_true", help="do not repack them")
    parser.add_argument("--pass-rows", type=int, help="slots that decode in one pass; default all")
    parser.add_argument("--in-turn", action="store_true", help="a token of each prompt in turn")
    options = parser.parse_args()
    model = LlamaModel(options.model, extra_buffers=not options.plain_weights)
    shape = ContextShape(
        num_slots=options.num_slots,
        slot_len=options.slot_len,
        batch_len=options.step_tokens + options.num_slots,
        threads=options.threads,
        kv_type=options.kv_type,
        flash_attention=options.flash_attention,
    )
    context = LlamaContext(model, shape)
    generate(context, [[1, 2, 3]], 4, options)
    print("{}", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(generate(context, job["prompts"], job["max_tokens"], options)), flush=True)


if __name__ == "__main__":
    main()
