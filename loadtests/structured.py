"""What structured output costs its neighbours: `python -m loadtests.structured`.

A hundred free streams at once, then fifty of them beside fifty that a JSON schema binds, one whose
instances are about as long.
"""

import argparse
import json
import statistics
from pathlib import Path

import jsonschema

from loadtests.client import Client, Stream, chat_body, encode_request
from loadtests.results import show_results
from loadtests.server import running_service

NUM_STREAMS = 100
NUM_TOKENS = 40
SETTINGS = {"engine__contexts": f"{NUM_STREAMS}x256"}
SCHEMA = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "sku": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{2}$"},
            "name": {"type": "string", "minLength": 3, "maxLength": 12},
            "paid": {"type": ["boolean", "null"]},
            "size": {"enum": ["small", "medium", "large"]},
        },
        "required": ["sku", "name", "paid", "size"],
        "additionalProperties": False,
    },
    "minItems": 1,
    "maxItems": 1,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "order", "schema": SCHEMA}}


class Load:
    def __init__(self, address: tuple[str, int], model: str) -> None:
        self._host = address[0]
        self._model = model
        self._client = Client(address)

    def run(self, num_bound: int) -> tuple[list[Stream], list[Stream]]:
        """Free streams and bound ones, mixed; all of them start at once."""
        is_bound = [number % 2 == 1 and number < 2 * num_bound for number in range(NUM_STREAMS)]
        requests = [self._encode(number, bound=bound) for number, bound in enumerate(is_bound)]
        streams = self._client.stream_all(requests)
        free = [stream for stream, bound in zip(streams, is_bound, strict=True) if not bound]
        bound = [stream for stream, bound in zip(streams, is_bound, strict=True) if bound]
        return free, bound

    def _encode(self, number: int, *, bound: bool) -> bytes:
        body = chat_body(self._model, f"Write about order {number} of a shop.", NUM_TOKENS)
        if bound:
            body |= {"max_tokens": 4 * NUM_TOKENS, "response_format": FORMAT, "temperature": 1}
        return encode_request(self._host, "/v1/chat/completions", body)


def tokens_per_second(stream: Stream) -> float:
    """From its first token to its last."""
    times = stream.content_times()
    return (count_tokens(stream) - 1) / (times[-1] - times[0])


def count_tokens(stream: Stream) -> int:
    return stream.usage()["completion_tokens"]


def is_valid(stream: Stream) -> bool:
    try:
        jsonschema.validate(json.loads(stream.text()), SCHEMA)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def mean_rate(streams: list[Stream]) -> float:
    return statistics.mean(map(tokens_per_second, streams))


def measure(load: Load, num_rounds: int) -> dict[str, float]:
    load.run(0)  # prompts are cached from here on
    alone: list[float] = []
    mixed: list[float] = []
    valid: list[bool] = []
    lengths: list[int] = []
    for _ in range(num_rounds):
        free, _ = load.run(0)
        alone.append(mean_rate(free))
        free, bound = load.run(NUM_STREAMS // 2)
        mixed.append(mean_rate(free))
        valid += map(is_valid, bound)
        lengths += map(count_tokens, bound)
    return {
        "all free: tok/s of a stream": statistics.median(alone),
        "mixed: tok/s of a free stream": statistics.median(mixed),
        "mixed / all free": statistics.median(mixed) / statistics.median(alone),
        "bound: valid": statistics.mean(valid),
        "bound: tokens of an answer": statistics.mean(lengths),
        "free: tokens of an answer": NUM_TOKENS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="models/smollm2-135m-instruct.gguf")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with running_service(model=options.model, **SETTINGS) as address:
        results = measure(Load(address, Path(options.model).stem), options.rounds)
    show_results("Structured output", results, as_json=options.json)


if __name__ == "__main__":
    main()
