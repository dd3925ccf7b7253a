"""What requests do to each other: `python -m loadtests.interference`.

- Four streams run while a prompt of 3,000 tokens is prefilled: gaps between their tokens, and how
  long the prompt takes beside them and alone.
- The same, and a short prompt comes at each quarter of the time that the long one took alone: how
  long each waits for its first token.
- Every client of 32 running streams goes away at once: how long until no slot is busy.
"""

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from loadtests.client import Client, Stream, chat_body, encode_request
from loadtests.results import show_results
from loadtests.server import read_metrics, running_service

NUM_STREAMS = 4
NUM_LEAVING = 32
NUM_SHORT = 3
FILLER = "The river ran past the old mill and the children counted the boats. "


def encode_chat(address: tuple[str, int], model: str, prompt: str, max_tokens: int) -> bytes:
    body = chat_body(model, prompt, max_tokens)
    return encode_request(address[0], "/v1/chat/completions", body)


def make_long_prompt(number: int, num_tokens: int) -> str:
    """About `num_tokens` tokens that no earlier prompt began with."""
    return f"Text {number}. " + FILLER * (num_tokens // 15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """One long prompt, alone and then beside streams."""

    alone_seconds: float
    beside_seconds: float
    num_tokens: int
    gaps: list[float]
    """Between tokens of the streams, while the prompt was computed."""
    calm_gaps: list[float]


def measure_long_prompt(
    address: tuple[str, int], model: str, num_tokens: int, round_number: int
) -> Beside:
    client = Client(address)
    numbers = (2 * round_number, 2 * round_number + 1)
    first_prompt, second_prompt = (make_long_prompt(number, num_tokens) for number in numbers)
    (alone,) = client.stream_all([encode_chat(address, model, first_prompt, 2)])
    streams = [
        client.start(encode_chat(address, model, f"Count from {n}.", 1500))
        for n in range(NUM_STREAMS)
    ]
    while any(len(stream.arrivals) < 20 for stream in streams):
        client.receive()
    long = client.start(encode_chat(address, model, second_prompt, 2))
    while not any(stream is long for stream in client.receive()):
        pass
    began, first = long.started, long.content_times()[0]
    calm_from = first + 0.5
    while time.monotonic() < calm_from + 2:
        client.receive(0.5)
    client.leave_all()
    return Beside(
        alone_seconds=alone.first_token_seconds(),
        beside_seconds=long.first_token_seconds(),
        num_tokens=long.usage()["prompt_tokens"],
        gaps=gaps_between(streams, began, first),
        calm_gaps=gaps_between(streams, calm_from, calm_from + 2),
    )


def summarise(rounds: list[Beside]) -> dict[str, float]:
    """Gaps of all rounds together; medians of the prompts' times."""
    gaps = [gap for each in rounds for gap in each.gaps]
    calm_gaps = [gap for each in rounds for gap in each.calm_gaps]
    return {
        "prompt_tokens": rounds[0].num_tokens,
        "gap_p50_ms": statistics.median(gaps) * 1000,
        "gap_p99_ms": statistics.quantiles(gaps, n=100)[98] * 1000,
        "gap_max_ms": max(gaps) * 1000,
        "calm_gap_p50_ms": statistics.median(calm_gaps) * 1000,
        "prompt_alone_s": statistics.median(each.alone_seconds for each in rounds),
        "prompt_s": statistics.median(each.beside_seconds for each in rounds),
        "prompt_over_alone": statistics.median(
            each.beside_seconds / each.alone_seconds for each in rounds
        ),
    }


def measure_short_behind_long(
    address: tuple[str, int], model: str, num_tokens: int, alone_seconds: float
) -> dict[str, float]:
    """First tokens of short prompts beside four streams, before a long prompt and behind it."""
    client = Client(address)
    streams = [
        client.start(encode_chat(address, model, f"Count down from {n}.", 1500))
        for n in range(NUM_STREAMS)
    ]
    while any(len(stream.arrivals) < 20 for stream in streams):
        client.receive()
    before = client.start(encode_short(address, model, 0))
    wait_for(client, before)
    long = client.start(encode_chat(address, model, make_long_prompt(0, num_tokens), 2))
    shorts: list[Stream] = []
    while not long.ended_well:
        client.receive(0.05)
        due = long.started + alone_seconds * (len(shorts) + 1) / 4
        if len(shorts) < NUM_SHORT and time.monotonic() > due:
            shorts.append(client.start(encode_short(address, model, len(shorts) + 1)))
    for short in shorts:
        wait_for(client, short)
    busy = gaps_between(streams, long.started, long.ended)
    client.leave_all()
    waits = [short.first_token_seconds() for short in shorts]
    return {
        "short_before_s": before.first_token_seconds(),
        "short_behind_median_s": statistics.median(waits),
        "short_behind_max_s": max(waits),
        "prompt_with_shorts_s": long.first_token_seconds(),
        "gap_p99_with_shorts_ms": statistics.quantiles(busy, n=100)[98] * 1000,
    }


def encode_short(address: tuple[str, int], model: str, number: int) -> bytes:
    return encode_chat(address, model, f"{number} boats: {FILLER * 2}", 2)


def wait_for(client: Client, stream: Stream) -> None:
    while not stream.ended_well:
        client.receive()


def gaps_between(streams: list[Stream], start: float, end: float) -> list[float]:
    """Gaps between tokens of all streams within a span of time."""
    gaps: list[float] = []
    for stream in streams:
        times = [at for at in stream.content_times() if start <= at <= end]
        gaps += [later - earlier for earlier, later in pairwise(times)]
    return gaps


def measure_leaving(address: tuple[str, int], model: str) -> dict[str, float]:
    client = Client(address)
    streams = [
        client.start(encode_chat(address, model, f"Tell story {n}.", 1500))
        for n in range(NUM_LEAVING)
    ]
    while any(len(stream.content_times()) < 3 for stream in streams):
        client.receive()
    running = count_running(address)
    client.leave_all()
    left = time.monotonic()
    while count_running(address):
        time.sleep(0.005)
    return {"running": running, "freed_after_ms": (time.monotonic() - left) * 1000}


def count_running(address: tuple[str, int]) -> float:
    return read_metrics(address)['smolserve_requests_running{worker="0"}']


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m-instruct.gguf"))
    parser.add_argument("--prompt-tokens", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    name = arguments.model.stem
    model = str(arguments.model)
    with running_service(model=model, engine__contexts="8x2048,1x8192") as address:
        num_tokens = arguments.prompt_tokens
        rounds: list[Beside] = []
        for number in range(1, arguments.rounds + 1):
            took = measure_long_prompt(address, name, num_tokens, number)
            rounds.append(took)
            print(
                f"round {number}: {took.alone_seconds:.1f} s alone, "
                f"{took.beside_seconds:.1f} s beside",
                file=sys.stderr,
            )
        results = summarise(rounds)
        results |= measure_short_behind_long(address, name, num_tokens, results["prompt_alone_s"])
    with running_service(model=model, engine__contexts="32x2048") as address:
        results |= measure_leaving(address, name)
    show_results("Requests beside each other", results, as_json=arguments.json)


if __name__ == "__main__":
    main()
