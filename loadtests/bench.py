"""The service over HTTP against the raw decode loop, in one run: `make bench`.

Each round measures both, one after the other, at every number of streams; the table shows medians
over the rounds. Tokens per second count from the first request sent to the last byte received,
prompts included, on both sides.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import psutil
from rich.console import Console
from rich.table import Table

from loadtests.client import Client, chat_body, encode_request
from loadtests.server import read_metrics, running_service
from service.chat.format import choose_format
from service.chat.messages import Conversation, Message
from service.chat.prompt import tokenize
from service.core.kv import FlashAttention
from service.llama.vocab import Vocab

SLOT_LEN = 512
STEP_TOKENS = 256
TOPICS = ("rivers", "bridges", "violins", "glaciers", "bakeries", "comets", "lighthouses", "maps")


@dataclass(frozen=True)
class Measurement:
    """Tokens per second of one round."""

    raw: float
    service: float


class RawLoop:
    """The raw loop's process."""

    def __init__(
        self,
        model: Path,
        num_slots: int,
        threads: int,
        *,
        step_tokens: int = STEP_TOKENS,
        options: Sequence[str] = (),
    ) -> None:
        """`options` are those of `loadtests.raw_loop`."""
        numbers = map(str, (num_slots, SLOT_LEN, threads, step_tokens))
        arguments = [str(model), *numbers, *options]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "loadtests.raw_loop", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def run(self, prompts: list[list[int]], max_tokens: int) -> dict[str, float]:
        """Seconds that the job took, and its prefill's."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompts": prompts, "max_tokens": max_tokens}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> dict:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


def make_prompts(round_number: int, count: int) -> list[str]:
    """Prompts that share no long prefix with those of other rounds."""
    return [
        f"{round_number}-{index}. Tell me about {TOPICS[index % len(TOPICS)]} and their history."
        for index in range(count)
    ]


def tokenize_prompt(vocab: Vocab, prompt: str) -> list[int]:
    conversation = Conversation(messages=(Message(role="user", content=prompt),))
    return tokenize(vocab, choose_format(vocab).render(conversation))


def measure_service(
    address: tuple[str, int], model: str, prompts: list[str], max_tokens: int
) -> float:
    requests = [
        encode_request(address[0], "/v1/chat/completions", chat_body(model, prompt, max_tokens))
        for prompt in prompts
    ]
    streams = Client(address).stream_all(requests)
    tokens = sum(stream.usage()["completion_tokens"] for stream in streams)
    assert tokens == max_tokens * len(prompts)
    seconds = max(stream.ended for stream in streams) - min(stream.started for stream in streams)
    return tokens / seconds


def measure(arguments: argparse.Namespace, console: Console) -> dict[int, list[Measurement]]:
    num_slots = max(arguments.streams)
    vocab = Vocab.load(arguments.model)
    attention = ("--flash-attention", arguments.flash_attention)
    raw = RawLoop(arguments.model, num_slots, arguments.threads, options=attention)
    results: dict[int, list[Measurement]] = {count: [] for count in arguments.streams}
    settings = {
        "model": str(arguments.model),
        "engine__contexts": f"{num_slots}x{SLOT_LEN}",
        "engine__threads": str(arguments.threads),
        "engine__flash_attention": arguments.flash_attention,
        "scheduler__step_tokens": str(STEP_TOKENS),
        "scheduler__max_drafts": "0",  # the raw loop guesses nothing either
    }
    with running_service(**settings) as address:
        for round_number in range(arguments.rounds + 1):
            for count in arguments.streams:
                prompts = make_prompts(round_number, count)
                ids = [tokenize_prompt(vocab, prompt) for prompt in prompts]
                service = measure_service(address, arguments.model.stem, prompts, arguments.tokens)
                seconds = raw.run(ids, arguments.tokens)["seconds"]
                if round_number == 0:
                    continue  # warm-up
                measured = Measurement(arguments.tokens * count / seconds, service)
                results[count].append(measured)
                console.print(
                    f"round {round_number}, {count:2} streams: raw {measured.raw:6.1f} tok/s, "
                    f"service {measured.service:6.1f} tok/s ({measured.service / measured.raw:.0%})"
                )
        show_worker_time(read_metrics(address), console)
    raw.close()
    return results


def show_worker_time(metrics: dict[str, float], console: Console) -> None:
    """Where the worker's steps spent their time."""
    llama = metrics['smolserve_step_seconds_total{where="llama"}']
    python = metrics['smolserve_step_seconds_total{where="python"}']
    console.print(f"steps: {llama:.1f} s inside llama.cpp, {python:.2f} s around it")


def summarise(results: dict[int, list[Measurement]]) -> dict[int, dict[str, float]]:
    return {
        count: {
            "raw": statistics.median(one.raw for one in measured),
            "service": statistics.median(one.service for one in measured),
            "ratio": statistics.median(one.service / one.raw for one in measured),
        }
        for count, measured in results.items()
    }


def show(summary: dict[int, dict[str, float]], console: Console) -> None:
    table = Table(title="Service over HTTP against the raw decode loop")
    for heading in ("streams", "raw tok/s", "service tok/s", "ratio"):
        table.add_column(heading, justify="right")
    for count, row in summary.items():
        table.add_row(
            str(count), f"{row['raw']:.1f}", f"{row['service']:.1f}", f"{row['ratio']:.1%}"
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m-instruct.gguf"))
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=128, help="generated for each stream")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument(
        "--flash-attention",
        choices=get_args(FlashAttention),
        default="off",
        help="on both sides; off is what the service chooses on a CPU",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    arguments = parser.parse_args()
    summary = summarise(measure(arguments, Console(stderr=True)))
    if arguments.json:
        print(json.dumps(summary, indent=2))
    else:
        show(summary, Console())


if __name__ == "__main__":
    main()
