"""What clients notice when the worker is killed (`kill -9`) again and again.

Each of a number of clients streams one greedy answer after another. The same prompts are answered
twice before, undisturbed: once for the texts to compare with, and once more to see how many texts
differ anyway, because llama.cpp rounds by the shape of the batch. Where answers part, their logits
are computed again: a near-tie is rounding, anything else is a fault. A 503 while no worker lives is
sent again after a moment, as OpenAI's clients do; it is counted apart.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from loadtests.client import Client, Stream, chat_body, encode_request
from loadtests.judge import Judge
from loadtests.server import read_metrics, running_service

RETRY_SECONDS = 0.25
SOCKET_SECONDS = 0.2
WORKER = "service.engine.worker"
TOPICS = ("rivers", "bridges", "violins", "glaciers", "bakeries", "comets", "lighthouses", "maps")
QUESTIONS = ("Tell me about {}.", "Why do people like {}?", "Write a poem about {}.")


def make_prompts(num_clients: int) -> list[str]:
    """Three for each client, all different."""
    return [
        f"I am guest {client}. {question.format(TOPICS[client % len(TOPICS)])}"
        for client in range(num_clients)
        for question in QUESTIONS
    ]


def find_worker() -> psutil.Process | None:
    for process in psutil.Process().children(recursive=True):
        try:
            if WORKER in process.cmdline():
                return process
        except psutil.Error:  # it ended while we looked
            continue
    return None


@dataclass
class Killer:
    """Kills the worker every so many seconds, if there is one then."""

    interval: float
    last: float
    kills: list[float] = field(default_factory=list)

    def look(self) -> None:
        now = time.monotonic()
        if now - self.last < self.interval:
            return
        worker = find_worker()
        if worker is not None:
            worker.kill()
            self.kills.append(time.monotonic())
            self.last = now


@dataclass
class Outcome:
    streams: list[tuple[int, Stream]] = field(default_factory=list)
    """Prompt number and answer, of the answers that ended well."""
    failures: list[str] = field(default_factory=list)
    num_refused: int = 0
    kills: list[float] = field(default_factory=list)


class Run:
    """Clients that ask their own prompts in turn, until the time is over and the last has ended."""

    def __init__(self, address: tuple[str, int], requests: list[bytes], num_clients: int) -> None:
        self.outcome = Outcome()
        self._client = Client(address)
        self._requests = requests
        self._num_clients = num_clients
        self._turns = [0] * num_clients
        self._open: dict[int, tuple[int, int]] = {}
        self._retries: list[tuple[float, int]] = []

    def once(self) -> Outcome:
        """Every prompt once."""
        return self._go(lambda turn: turn < len(QUESTIONS), None)

    def under_kills(self, seconds: float, interval: float) -> Outcome:
        started = time.monotonic()
        killer = Killer(interval, started)
        outcome = self._go(lambda _: time.monotonic() - started < seconds, killer)
        outcome.kills = killer.kills
        return outcome

    def _go(self, goes_on: Callable[[int], bool], killer: Killer | None) -> Outcome:
        for number in range(self._num_clients):
            self._ask(number)
        while self._open or self._retries:
            if killer is not None and goes_on(0):
                killer.look()
            now = time.monotonic()
            for due, number in [retry for retry in self._retries if retry[0] <= now]:
                self._retries.remove((due, number))
                self._ask(number)
            for stream in self._client.receive(0.02):
                number, prompt = self._open.pop(id(stream))
                if self._settle(number, prompt, stream) and goes_on(self._turns[number]):
                    self._ask(number)
        return self.outcome

    def _ask(self, number: int) -> None:
        prompt = number * len(QUESTIONS) + self._turns[number] % len(QUESTIONS)
        stream = self._client.start(self._requests[prompt])
        self._open[id(stream)] = number, prompt

    def _settle(self, number: int, prompt: int, stream: Stream) -> bool:
        """Whether the client has an answer or an error, and does not ask again."""
        if stream.body.startswith(b"HTTP/1.1 503"):
            self.outcome.num_refused += 1
            self._retries.append((time.monotonic() + RETRY_SECONDS, number))
            return False
        try:
            stream.events()
        except RuntimeError as error:
            self.outcome.failures.append(str(error))
        else:
            self.outcome.streams.append((prompt, stream))
        self._turns[number] += 1
        return True


def compare(
    streams: list[tuple[int, Stream]], texts: dict[int, str], prompts: list[str], judge: Judge
) -> dict[str, int]:
    """How many answers are the undisturbed ones, and where the others part from them."""
    counts = {"answers": len(streams), "equal": 0, "part_at_a_near_tie": 0, "part_otherwise": 0}
    for prompt, stream in streams:
        expected, actual = texts[prompt], stream.text()
        if expected == actual:
            counts["equal"] += 1
        elif judge.is_near_tie(prompts[prompt], expected, actual):
            counts["part_at_a_near_tie"] += 1
        else:
            counts["part_otherwise"] += 1
    return counts


def find_pauses(outcome: Outcome) -> list[float]:
    """For each kill, and each stream that it interrupted, the silence around it."""
    pauses: list[float] = []
    for kill in outcome.kills:
        for _, stream in outcome.streams:
            if is_interrupted(stream, kill):
                gaps = itertools.pairwise(stream.content_times())
                # What the socket still held arrives just after the kill.
                pauses.append(max(b - a for a, b in gaps if b > kill and a < kill + SOCKET_SECONDS))
    return pauses


def is_interrupted(stream: Stream, kill: float) -> bool:
    times = stream.content_times()
    return bool(times) and times[0] <= kill < times[-1]


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    prompts = make_prompts(arguments.clients)
    settings = {
        "model": str(arguments.model),
        "engine__contexts": f"{arguments.clients}x512",
        "engine__threads": str(arguments.threads),
        "engine__flash_attention": arguments.flash_attention,
    }
    with running_service(**settings) as address:
        requests = [
            encode_request(
                address[0],
                "/v1/chat/completions",
                chat_body(arguments.model.stem, prompt, arguments.tokens),
            )
            for prompt in prompts
        ]
        calm = Run(address, requests, arguments.clients).once()
        texts = {prompt: stream.text() for prompt, stream in calm.streams}
        again = Run(address, requests, arguments.clients).once()
        outcome = Run(address, requests, arguments.clients).under_kills(
            arguments.seconds, arguments.interval
        )
        metrics = read_metrics(address)
    judge = Judge(
        arguments.model,
        flash_attention="on" if arguments.flash_attention == "on" else "off",
        threads=arguments.threads,
    )
    pauses = find_pauses(outcome)
    interrupted = [
        (prompt, stream)
        for prompt, stream in outcome.streams
        if any(is_interrupted(stream, kill) for kill in outcome.kills)
    ]
    spared = [each for each in outcome.streams if each not in interrupted]
    num_tokens = {stream.usage()["completion_tokens"] for _, stream in outcome.streams}
    return {
        "kills": len(outcome.kills),
        "requests": len(outcome.streams) + len(outcome.failures),
        "failed": len(outcome.failures),
        "failures": sorted(set(outcome.failures)),
        "refused_and_asked_again": outcome.num_refused,
        "all_of_the_asked_length": num_tokens <= {arguments.tokens},
        "undisturbed_again": compare(again.streams, texts, prompts, judge),
        "between_kills": compare(spared, texts, prompts, judge),
        "interrupted": compare(interrupted, texts, prompts, judge),
        "streams_interrupted": len(pauses),
        "pause_median_s": round(statistics.median(pauses), 2) if pauses else None,
        "pause_max_s": round(max(pauses), 2) if pauses else None,
        "resubmissions": metrics["smolserve_resubmissions_total"],
        "quarantines": metrics["smolserve_quarantines_total"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m-instruct.gguf"))
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=96, help="generated for each request")
    parser.add_argument("--seconds", type=float, default=60, help="how long workers are killed")
    parser.add_argument("--interval", type=float, default=10, help="seconds between kills")
    parser.add_argument("--flash-attention", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    print(json.dumps(measure(parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()
