"""What the KV cache saves: `python -m loadtests.cache`.

- Eight requests at once share an uncached system prompt of 800 words.
- Sixty-four conversations of about 600 tokens take turns on eight slots.
- The service restarts with a disk tier, and the conversations go on.
- Four streams run beside forty idle conversations, and without them.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from loadtests.client import Client, Stream, encode_request
from loadtests.results import show_results
from loadtests.server import running_service

Message = dict[str, str]

WORDS = [
    *("stone", "river", "lamp", "window", "paper", "cloud"),
    *("ladder", "garden", "bottle", "mirror", "forest", "candle"),
]


def make_text(seed: int, num_words: int) -> str:
    """Words in an order of the seed's own."""
    words: list[str] = []
    state = seed * 2654435761 % 2**32
    for _ in range(num_words):
        state = (state * 1664525 + 1013904223) % 2**32
        words.append(WORDS[(state >> 16) % len(WORDS)])
    return " ".join(words)


class Chats:
    """Sends conversations to a service, all at once or one after the other."""

    def __init__(self, address: tuple[str, int], model: str) -> None:
        self._address = address
        self._model = model
        self.client = Client(address)

    def encode(self, messages: list[Message], max_tokens: int) -> bytes:
        body = {
            "model": self._model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return encode_request(self._address[0], "/v1/chat/completions", body)

    def ask(self, conversations: list[list[Message]], max_tokens: int) -> list[Stream]:
        requests = [self.encode(messages, max_tokens) for messages in conversations]
        return self.client.stream_all(requests)


def cached(stream: Stream) -> int:
    return stream.usage()["prompt_tokens_details"]["cached_tokens"]


def median_ttft(streams: list[Stream]) -> float:
    return statistics.median(stream.first_token_seconds() for stream in streams)


def measure_shared_prompt(chats: Chats) -> dict[str, float]:
    def conversation(system: str, number: int) -> list[Message]:
        question = f"Question {number}: what comes next?"
        return [{"role": "system", "content": system}, {"role": "user", "content": question}]

    alone = chats.ask([conversation(make_text(1, 800), 0)], 8)
    together = chats.ask([conversation(make_text(2, 800), number) for number in range(8)], 8)
    prompt = together[0].usage()["prompt_tokens"]
    return {
        "shared: prompt tokens": prompt,
        "shared: cached of seven": sum(map(cached, together)) / 7,
        "shared: TTFT alone s": median_ttft(alone),
        "shared: TTFT p50 of eight s": median_ttft(together),
        "shared: ratio": median_ttft(together) / median_ttft(alone),
    }


def start_sessions(chats: Chats, count: int) -> tuple[list[list[Message]], list[Stream]]:
    """First turns, one after the other; the conversations and their answers."""
    conversations = [
        [{"role": "user", "content": make_text(100 + number, 550)}] for number in range(count)
    ]
    return conversations, [chats.ask([messages], 16)[0] for messages in conversations]


def go_on(chats: Chats, conversations: list[list[Message]], answers: list[Stream]) -> list[Stream]:
    """The next turn of each conversation."""
    later: list[Stream] = []
    for messages, answer in zip(conversations, answers, strict=True):
        messages.append({"role": "assistant", "content": answer.text()})
        messages.append({"role": "user", "content": "Go on."})
        later += chats.ask([messages], 16)
    return later


def count_tokens(streams: list[Stream]) -> int:
    return sum(stream.usage()["total_tokens"] for stream in streams)


def measure_sessions(chats: Chats, count: int = 64) -> dict[str, float]:
    conversations, first = start_sessions(chats, count)
    later = go_on(chats, conversations, first)
    return {
        "sessions: tokens of a first turn": count_tokens(first) / count,
        "sessions: history cached": sum(map(cached, later)) / count_tokens(first),
        "sessions: TTFT p50 first turn s": median_ttft(first),
        "sessions: TTFT p50 later turns s": median_ttft(later),
        "sessions: ratio": median_ttft(later) / median_ttft(first),
    }


def measure_restart(settings: dict[str, str], model: str, count: int = 64) -> dict[str, float]:
    """Between the turns the service ends, as SIGTERM ends it, and starts again."""
    with tempfile.TemporaryDirectory() as folder:
        disk = {"cache__disk_bytes": str(4 << 30), "cache__disk_dir": folder}
        with running_service(**settings, **disk) as address:
            conversations, first = start_sessions(Chats(address, model), count)
            stopped = time.monotonic()
        stop_seconds = time.monotonic() - stopped
        files = [path.stat().st_size for path in Path(folder).rglob("*.kv")]
        with running_service(**settings, **disk) as address:
            later = go_on(Chats(address, model), conversations, first)
    return {
        "restart: MiB on disk": sum(files) / 2**20,
        "restart: s to stop": stop_seconds,
        "restart: history cached": sum(map(cached, later)) / count_tokens(first),
        "restart: TTFT p50 first turn s": median_ttft(first),
        "restart: TTFT p50 later turns s": median_ttft(later),
    }


def measure_throughput(chats: Chats, num_tokens: int = 200) -> float:
    """Tokens per second of four streams."""
    conversations = [[{"role": "user", "content": f"Count from {n}."}] for n in range(4)]
    streams = chats.ask(conversations, num_tokens)
    seconds = max(stream.ended for stream in streams) - min(stream.started for stream in streams)
    return 4 * num_tokens / seconds


def measure_idle_sessions(chats: Chats) -> dict[str, float]:
    without = measure_throughput(chats)
    conversations = [[{"role": "user", "content": make_text(500 + n, 300)}] for n in range(40)]
    for start in range(0, 40, 8):
        chats.ask(conversations[start : start + 8], 4)
    beside = measure_throughput(chats)
    return {
        "idle: tok/s without": without,
        "idle: tok/s beside forty": beside,
        "idle: ratio": beside / without,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m-instruct.gguf"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results: dict[str, float] = {}
    settings = {"model": str(arguments.model), "engine__contexts": "8x2048,1x8192"}
    for measure in (measure_shared_prompt, measure_sessions, measure_idle_sessions):
        with running_service(**settings) as address:
            results |= measure(Chats(address, arguments.model.stem))
    results |= measure_restart(settings, arguments.model.stem)
    show_results("What the KV cache saves", results, as_json=arguments.json)


if __name__ == "__main__":
    main()
