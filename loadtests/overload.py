"""What overload does: `python -m loadtests.overload`.

The peak first: as many clients as slots, each asking again as soon as it has its answer. Then for a
minute requests at four times the rate that was answered at the peak, with a queue as long as there
are slots; then the peak again, which shows how much the machine itself drifted.

Requests of the overload are sent at random moments that were fixed before (an open loop), as by
many people who do not know of each other. A closed loop of so many clients would either ask again
the moment it is refused, which is an attack and not a load, or wait for the server, which hides how
late answers are. Latency counts from the moment at which a request was due, so a client that is
late itself makes it worse and not better; how late it was is in the table.
"""

import argparse
import itertools
import math
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from loadtests.client import Client, Stream, chat_body, encode_request
from loadtests.results import show_results
from loadtests.server import read_metrics, running_service
from loadtests.traffic.figures import Spread, measure_spread
from loadtests.traffic.target import find_model

SLOT_LEN = 512
SETTLE_SECONDS = 2.0
"""At the beginning of each phase, which do not count."""
HOST_BYTES = 16 << 20
"""For computed tokens; small, so that it is full before memory is first looked at."""
PIECE = re.compile(rb'"content":"[^"]')
"""Of text; a role comes with an empty one."""
REFUSED = b"HTTP/1.1 429"


@dataclass(frozen=True, slots=True)
class Sent:
    """A request of an open loop."""

    due: float
    stream: Stream

    @property
    def is_refused(self) -> bool:
        return self.stream.body.startswith(REFUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What was sent within a span of time, of which all answers have come."""

    start: float
    end: float
    sent: list[Sent]

    @property
    def admitted(self) -> list[Stream]:
        return [each.stream for each in self.sent if not each.is_refused]

    @property
    def goodput(self) -> float:
        """Tokens per second of answers that came to their end."""
        return sum(map(self._count_tokens, self.admitted)) / (self.end - self.start)

    def _count_tokens(self, stream: Stream) -> float:
        """Those that came within the phase; several that came together share their number."""
        num_inside = num_pieces = 0
        for at, received in stream.arrivals:
            num = len(PIECE.findall(received))
            num_pieces += num
            num_inside += num if self.start <= at < self.end else 0
        return stream.usage()["completion_tokens"] * num_inside / num_pieces


class Requests:
    """Prompts that share no long beginning."""

    def __init__(self, address: tuple[str, int], max_tokens: int) -> None:
        self._host = address[0]
        self._model = find_model(f"http://{address[0]}:{address[1]}", None)
        self._max_tokens = max_tokens
        self._numbers = itertools.count(1)

    def make(self) -> bytes:
        number = next(self._numbers)
        prompt = f"{number}. Tell me a long story about {number} birds that crossed the sea."
        body = chat_body(self._model, prompt, self._max_tokens)
        return encode_request(self._host, "/v1/chat/completions", body)


def run_closed(client: Client, requests: Requests, num_clients: int, seconds: float) -> Phase:
    """So many clients, each asking again at once."""
    sent: list[Sent] = []

    def send() -> None:
        sent.append(_send(client, requests.make(), time.monotonic()))

    began = time.monotonic()
    for _ in range(num_clients):
        send()
    num_open = num_clients
    while num_open:
        for _ in client.receive():
            num_open -= 1
            if time.monotonic() < began + seconds:
                send()
                num_open += 1
    return Phase(start=began + SETTLE_SECONDS, end=began + seconds, sent=sent)


def run_open(client: Client, requests: Requests, rate: float, seconds: float) -> Phase:
    """So many requests a second, at random moments, whatever is answered."""
    began = time.monotonic()
    dues = _draw_times(began, began + seconds, rate)
    due = next(dues, None)
    sent: list[Sent] = []
    num_open = 0
    while due is not None or num_open:
        wait = None if due is None else max(0.0, due - time.monotonic())
        num_open -= len(client.receive(wait))
        while due is not None and due <= time.monotonic():
            sent.append(_send(client, requests.make(), due))
            num_open += 1
            due = next(dues, None)
    return Phase(start=began + SETTLE_SECONDS, end=began + seconds, sent=sent)


def _send(client: Client, request: bytes, due: float) -> Sent:
    return Sent(due, client.start(request))


def _draw_times(start: float, end: float, rate: float) -> Iterator[float]:
    chance = random.Random(1)
    at = start
    while (at := at + chance.expovariate(rate)) < end:
        yield at


def read_memory(address: tuple[str, int]) -> dict[str, float]:
    """MiB of each process, and of the computed tokens that the worker keeps in its own."""
    samples = read_metrics(address)
    named = {
        name.split('"')[1]: value / 2**20
        for name, value in samples.items()
        if name.startswith("smolserve_process_resident_bytes")
    }
    return named | {"cache": samples['smolserve_cache_bytes{tier="host"}'] / 2**20}


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    settings = {
        "engine__contexts": f"{arguments.slots}x{SLOT_LEN}",
        "engine__embedding_len": "0",
        "scheduler__max_queued": str(arguments.queued),
        "cache__host_bytes": str(HOST_BYTES),
        **({"engine__threads": str(arguments.threads)} if arguments.threads else {}),
    }
    with running_service(**settings) as address:
        client, requests = Client(address), Requests(address, arguments.tokens)

        def run_peak() -> Phase:
            say(f"peak: {arguments.slots} clients for {arguments.peak_seconds} s")
            phase = run_closed(client, requests, arguments.slots, arguments.peak_seconds)
            say(f"{phase.goodput:.1f} tokens/s")
            return phase

        before = run_peak()
        memory_before = read_memory(address)
        rate = arguments.times * before.goodput / arguments.tokens
        say(f"overload: {rate:.1f} requests a second for {arguments.seconds} s")
        overload = run_open(client, requests, rate, arguments.seconds)
        say(f"{overload.goodput:.1f} tokens/s")
        memory_after = read_memory(address)
        after = run_peak()
    return {
        **describe(before, overload, after, rate=rate),
        **describe_waiting(before, overload, slots=arguments.slots, queued=arguments.queued),
        **{
            f"{name}: MiB {when}": memory[name]
            for name in memory_before
            for when, memory in (("before", memory_before), ("after", memory_after))
        },
    }


def describe(before: Phase, overload: Phase, after: Phase, *, rate: float) -> dict[str, float]:
    peak = (before.goodput + after.goodput) / 2
    refused = [each for each in overload.sent if each.is_refused]
    return {
        "peak before: tok/s": before.goodput,
        "peak after: tok/s": after.goodput,
        "overload: tok/s": overload.goodput,
        "overload / mean of the peaks": overload.goodput / peak,
        "offered: requests a second": rate,
        "admitted": len(overload.admitted),
        "refused": len(refused),
        **_name("429 ms", refused, lambda each: each.stream.ended - each.due),
        **_name("client late ms", overload.sent, lambda each: each.stream.started - each.due),
    }


def describe_waiting(
    before: Phase, overload: Phase, *, slots: int, queued: int
) -> dict[str, float]:
    """TTFT of admitted requests, and how late it can be: when whoever is ahead stays longest.

    The last of a full queue waits until `queued` requests have left their slots, and the slots are
    left as often as there are slots in the time that the longest stay takes.
    """
    alone = max(stream.first_token_seconds() for stream in before.admitted)
    stays = [stream.ended - stream.content_times()[0] for stream in overload.admitted]
    longest = max(stays) + alone
    admitted = [each for each in overload.sent if not each.is_refused]
    return {
        **_name("TTFT ms", admitted, lambda each: each.stream.content_times()[0] - each.due),
        "TTFT ms without a queue, max": alone * 1000,
        "TTFT ms that the queue allows": (math.ceil(queued / slots) * longest + alone) * 1000,
    }


def _name(title: str, sent: list[Sent], seconds: Callable[[Sent], float]) -> dict[str, float]:
    spread = measure_spread(map(seconds, sent), 1000) or Spread(p50=0, p99=0, max=0)
    return {
        f"{title}: p50": spread.p50,
        f"{title}: p99": spread.p99,
        f"{title}: max": spread.max,
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--queued", type=int, default=8, help="requests that may wait")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--times", type=float, default=4, help="the peak rate that is offered")
    parser.add_argument("--seconds", type=int, default=60, help="of overload")
    parser.add_argument("--peak-seconds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=0, help="of the engine; 0: its default")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = measure(arguments)
    title = f"Overload at {arguments.times:g} times the peak"
    show_results(title, results, as_json=arguments.json)


if __name__ == "__main__":
    main()
