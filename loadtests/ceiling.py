"""The best that llama.cpp gives on this machine: `python -m loadtests.ceiling`.

The raw loop (`loadtests.raw_loop`) in a process for each way to run it, one thing changed from the
service's defaults: threads, tokens of a step, shapes of a batch, KV types, fused attention and
repacked weights. All ways take turns, round after round while there is time, and each is compared
with the defaults of its round; the defaults run twice, which shows the noise. Prints a Markdown
table of medians.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console

from loadtests.bench import STEP_TOKENS, RawLoop

NUM_SLOTS = 32
FIRST_TOKEN, END_TOKEN = 100, 40_000
"""Of the vocabulary's plain tokens."""
DEFAULTS = "defaults"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to run the raw loop."""

    name: str
    threads: int
    step_tokens: int = STEP_TOKENS
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """What tokens per second are measured of: decoding, or the prompts where nothing is decoded."""

    name: str
    num_prompts: int
    prompt_len: int
    max_tokens: int


JOBS = (
    Job("decode, 1 stream", 1, 24, 49),
    Job("decode, 8 streams", 8, 24, 25),
    Job("decode, 32 streams", 32, 24, 13),
    Job("prefill, 1 prompt of 480", 1, 480, 1),
    Job("prefill, 8 prompts of 60", 8, 60, 1),
)


def list_ways(cores: int) -> Iterator[Way]:
    """The defaults first."""
    yield Way(name=DEFAULTS, threads=cores)
    yield Way(name="defaults, again", threads=cores)
    for threads in _count_up(cores):
        yield Way(name=f"threads {threads}", threads=threads)
    for tokens in (64, 128, 512):
        yield Way(name=f"step of {tokens} tokens", threads=cores, step_tokens=tokens)
    options: dict[str, tuple[str, ...]] = {
        "decode in passes of 16": ("--pass-rows", "16"),
        "decode in passes of 4": ("--pass-rows", "4"),
        "prompts in turn, token by token": ("--in-turn",),
        "weights not repacked": ("--plain-weights",),
        "KV bf16": ("--kv-type", "bf16"),
        "KV f32": ("--kv-type", "f32"),
        "fused attention": ("--flash-attention", "on"),
        "fused, KV q8_0": ("--flash-attention", "on", "--kv-type", "q8_0"),
        "fused, KV q4_0": ("--flash-attention", "on", "--kv-type", "q4_0"),
        "fused, not repacked": ("--flash-attention", "on", "--plain-weights"),
    }
    for name, chosen in options.items():
        yield Way(name=name, threads=cores, options=chosen)
    for tokens in (64, 512):
        fused = ("--flash-attention", "on")
        name = f"fused, step of {tokens} tokens"
        yield Way(name=name, threads=cores, step_tokens=tokens, options=fused)


def _count_up(cores: int) -> list[int]:
    """Fewer threads than cores: all numbers of them, or powers of two where there are many."""
    numbers = range(1, cores) if cores <= 4 else (2**n for n in range(cores.bit_length()))
    return [number for number in numbers if number < cores]


def measure(model: Path, way: Way) -> dict[str, float]:
    """Tokens per second of each job, in a process that then ends."""
    raw = RawLoop(model, NUM_SLOTS, way.threads, step_tokens=way.step_tokens, options=way.options)
    try:
        return {job.name: _tokens_per_second(raw, job) for job in JOBS}
    finally:
        raw.close()


def _tokens_per_second(raw: RawLoop, job: Job) -> float:
    chance = random.Random(job.name)
    prompts = [
        [chance.randrange(FIRST_TOKEN, END_TOKEN) for _ in range(job.prompt_len)]
        for _ in range(job.num_prompts)
    ]
    took = raw.run(prompts, job.max_tokens)
    if job.max_tokens == 1:
        return job.num_prompts * job.prompt_len / took["prefill_seconds"]
    seconds = took["seconds"] - took["prefill_seconds"]
    return job.num_prompts * (job.max_tokens - 1) / seconds


Round = dict[str, dict[str, float]]
"""By way and job."""


def measure_rounds(arguments: argparse.Namespace, ways: list[Way], console: Console) -> list[Round]:
    """At least one; another only if it is likely to end in time."""
    started = time.monotonic()
    rounds: list[Round] = []
    longest = 0.0
    while len(rounds) < arguments.rounds and (
        not rounds or time.monotonic() + longest < started + arguments.seconds
    ):
        began = time.monotonic()
        rates: Round = {}
        for way in ways:
            rates[way.name] = measure(arguments.model, way)
            speeds = "  ".join(f"{rate:6.0f}" for rate in rates[way.name].values())
            console.print(
                f"{time.monotonic() - started:4.0f} s, round {len(rounds) + 1}: "
                f"{way.name:32} {speeds} tok/s"
            )
        rounds.append(rates)
        longest = max(longest, time.monotonic() - began)
    return rounds


def summarise(rounds: list[Round]) -> dict[str, dict[str, dict[str, float]]]:
    """By way and job: the median, and that of its ratios to the defaults of the same round."""
    return {
        way: {
            job: {
                "tokens_per_second": statistics.median(each[way][job] for each in rounds),
                "ratio": statistics.median(each[way][job] / each[DEFAULTS][job] for each in rounds),
            }
            for job in rounds[0][way]
        }
        for way in rounds[0]
    }


def write_table(summary: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown."""
    jobs = list(summary[DEFAULTS])
    lines = [f"| tokens per second | {' | '.join(jobs)} |", f"|---|{'---:|' * len(jobs)}"]
    for way, rates in summary.items():
        cells = [f"{rates[job]['tokens_per_second']:,.0f}" for job in jobs]
        if way != DEFAULTS:
            cells = [
                f"{cell} ({rates[job]['ratio']:.0%})" for cell, job in zip(cells, jobs, strict=True)
            ]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m-instruct.gguf"))
    parser.add_argument("--rounds", type=int, default=5, help="at most")
    parser.add_argument(
        "--seconds", type=float, default=330, help="after which no further round should end"
    )
    parser.add_argument("--cores", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="ways whose names have a word")
    parser.add_argument("--json", action="store_true", help="print the medians as JSON")
    arguments = parser.parse_args()
    ways = [
        way
        for way in list_ways(arguments.cores)
        if way.name == DEFAULTS
        or arguments.only is None
        or any(word in way.name for word in arguments.only)
    ]
    rounds = measure_rounds(arguments, ways, Console(stderr=True, highlight=False))
    summary = summarise(rounds)
    if arguments.json:
        print(json.dumps({"rounds": len(rounds), "ways": summary}, indent=2))
    else:
        print(f"{write_table(summary)}\n\nMedians of {len(rounds)} rounds.")


if __name__ == "__main__":
    main()
