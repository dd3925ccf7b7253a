"""What drawing a step's tokens costs: `python -m loadtests.sampling`.

The logits are made up, but spread as SmolLM2's are: most tokens within some 4 of the mean, the best
about 20 above it, with four tenths of the probability.
"""

import argparse
import json
import statistics
import sys
import time

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from service.core.plan import Draw, make_tokens
from service.core.sampling import SamplingParams
from service.engine.logprobs import KeptLogits
from service.engine.sampling import draw_tokens

VOCABULARIES = (49_152, 128_256)
ROWS = (1, 8, 32)
NUM_PROMPT_TOKENS = 500
NUM_GENERATED = 500

GREEDY = SamplingParams(temperature=0)
SMOLLM3 = SamplingParams(temperature=0.6, top_p=0.95)
"""What SmolLM3's authors recommend."""
MIXES: dict[str, tuple[SamplingParams, ...]] = {
    "greedy": (GREEDY,),
    "temperature 1": (SamplingParams(temperature=1),),
    "temperature 0.6": (SamplingParams(temperature=0.6),),
    "temperature 0.6, top_p 0.95": (SMOLLM3,),
    "temperature 1, top_p 0.95": (SamplingParams(temperature=1, top_p=0.95),),
    "top_k 40, top_p 0.95": (SamplingParams(temperature=0.8, top_k=40, top_p=0.95),),
    "min_p 0.05": (SamplingParams(temperature=1, min_p=0.05),),
    "greedy, penalties": (
        SamplingParams(temperature=0, repetition_penalty=1.1, frequency_penalty=0.5),
    ),
    "greedy beside sampled": (GREEDY, SMOLLM3),
    "greedy, 5 logprobs": (GREEDY,),
}
"""Rows take these in turn."""


def measure(name: str, num_rows: int, num_vocab: int, repetitions: int) -> float:
    """Median seconds of a step's draws, of this thread's time: other load counts little."""
    rng = np.random.default_rng(0)
    fresh = np.stack([make_logits(rng, num_vocab) for _ in range(num_rows)])
    logits = np.empty_like(fresh)
    mix = MIXES[name]
    num_logprobs = 5 if "logprobs" in name else None
    tokens = make_tokens(rng.integers(0, num_vocab, NUM_PROMPT_TOKENS + NUM_GENERATED).tolist())
    draws = [
        Draw(mix[row % len(mix)], tokens, NUM_PROMPT_TOKENS, num_logprobs)
        for row in range(num_rows)
    ]
    costs: list[float] = []
    for repetition in range(repetitions):
        np.copyto(logits, fresh)
        positions = [len(tokens) + repetition] * num_rows
        started = time.thread_time()
        kept = KeptLogits(logits, draws)
        kept.measure(draw_tokens(logits, draws, positions, [2]))
        costs.append(time.thread_time() - started)
    return statistics.median(costs)


def make_logits(rng: np.random.Generator, num_vocab: int) -> npt.NDArray[np.float32]:
    logits = rng.normal(scale=3.7, size=num_vocab)
    best = rng.choice(num_vocab, 300, replace=False)
    logits[best] = 20 - np.cumsum(rng.exponential(0.06, 300)) - (np.arange(300) > 0)
    return logits.astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = [
        {
            "draws": name,
            "vocabulary": num_vocab,
            "milliseconds": {
                rows: measure(name, rows, num_vocab, arguments.repetitions) * 1e3 for rows in ROWS
            },
        }
        for num_vocab in VOCABULARIES
        for name in MIXES
    ]
    if arguments.json:
        json.dump(results, sys.stdout, indent=2)
        return
    table = Table(title="A step's draws, milliseconds (median)")
    table.add_column("draws")
    for heading in ("vocabulary", *(f"{rows} rows" for rows in ROWS)):
        table.add_column(heading, justify="right")
    for result in results:
        milliseconds = [f"{value:.2f}" for value in result["milliseconds"].values()]
        table.add_row(result["draws"], f"{result['vocabulary']:,}", *milliseconds)
    Console().print(table)


if __name__ == "__main__":
    main()
