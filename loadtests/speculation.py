"""What guessing saves, and costs: one stream with guesses against one without, in one run.

    python -m loadtests.speculation

Two services of the same model, one of which guesses nothing, get the same greedy prompts in
alternation: such as ask for a text to be given back with a change, which the answer mostly copies,
and such as have little to copy. The texts must be equal, or part at a near-tie, where llama.cpp's
rounding by batch shape decides.
"""

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from loadtests.client import Client, Stream, chat_body, encode_request
from loadtests.judge import Judge
from loadtests.server import read_metrics, running_service

Address = tuple[str, int]
NUM_TOKENS = 160
TEXTS = {
    "a note": """\
The committee met on Tuesday to discuss the new library. The architect, Maria Alvarez, showed
three designs and explained the cost of each. After a long debate the members chose the second
design, because it keeps the old oak trees and leaves room for a reading garden. Construction
begins in April and should be finished before the winter of next year.""",
    "code": """\
def total_price(items, tax_rate):
    subtotal = 0
    for item in items:
        subtotal += item.price * item.quantity
    tax = subtotal * tax_rate
    return subtotal + tax


def print_receipt(items, tax_rate):
    for item in items:
        print(item.name, item.price, item.quantity)
    print('Total:', total_price(items, tax_rate))""",
    "a list": """\
1. Apples, 3 kg, from the market in Lyon
2. Pears, 2 kg, from the garden
3. Walnuts, 500 g, from the farm near Grenoble
4. Honey, 1 jar, from the neighbour
5. Flour, 4 kg, from the mill in Annecy
6. Butter, 750 g, from the dairy
7. Eggs, 12, from the farm near Grenoble
8. Sugar, 1 kg, from the shop""",
}
EDITS = {
    "a note": "Repeat this text exactly, but write Wednesday instead of Tuesday:\n\n",
    "code": "Give me this Python code again, with the variable tax renamed to vat:\n\n",
    "a list": "Copy this list and change the honey to 2 jars:\n\n",
}
OPEN_QUESTIONS = (
    "Write a short story about a lighthouse keeper who finds a bottle.",
    "Explain how a violin makes its sound.",
    "What should one know before visiting Iceland in winter?",
    "Describe the taste of bread to someone who never ate any.",
)


@dataclass(frozen=True)
class Run:
    """One answer: its text, and its tokens a second from the first to the last."""

    text: str
    tokens_per_second: float


def prompts() -> dict[str, list[str]]:
    return {
        "copying": [EDITS[name] + text for name, text in TEXTS.items()],
        "open": list(OPEN_QUESTIONS),
    }


def ask(address: Address, model: str, prompt: str) -> Run:
    body = chat_body(model, prompt, NUM_TOKENS, ignore_eos=False)
    request = encode_request(address[0], "/v1/chat/completions", body)
    [stream] = Client(address).stream_all([request])
    return Run(stream.text(), _decode_rate(stream))


def _decode_rate(stream: Stream) -> float:
    times = stream.content_times()
    return (stream.usage()["completion_tokens"] - 1) / (times[-1] - times[0])


def measure(
    arguments: argparse.Namespace, console: Console
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Ratios by kind of prompt; and the guesses that were right, and texts that part otherwise."""
    model = arguments.model.stem
    settings = {
        "model": str(arguments.model),
        "engine__contexts": "2x2048",
        "engine__threads": str(arguments.threads),
    }
    ratios: dict[str, list[float]] = {kind: [] for kind in prompts()}
    parted: list[tuple[str, str, str]] = []
    with (
        running_service(**settings) as guessing,
        running_service(**settings, scheduler__max_drafts="0") as plain,
    ):
        for round_number in range(arguments.rounds + 1):
            for kind, texts in prompts().items():
                for prompt in texts:
                    expected, actual = (ask(each, model, prompt) for each in (plain, guessing))
                    if round_number == 0:
                        continue  # warm-up; the prompts are cached from here on
                    ratio = actual.tokens_per_second / expected.tokens_per_second
                    ratios[kind].append(ratio)
                    if actual.text != expected.text:
                        parted.append((prompt, expected.text, actual.text))
                    console.print(
                        f"round {round_number}, {kind}: {expected.tokens_per_second:6.1f} → "
                        f"{actual.tokens_per_second:6.1f} tok/s ({ratio:.2f} times)"
                    )
        metrics = read_metrics(guessing)
    judge = Judge(arguments.model, flash_attention="off", threads=arguments.threads)
    unexplained = [texts for texts in set(parted) if not judge.is_near_tie(*texts)]
    return ratios, {
        "drafted": metrics["smolserve_draft_tokens_total"],
        "accepted": metrics["smolserve_accepted_draft_tokens_total"],
        "texts": sum(map(len, ratios.values())),
        "texts that part at near-ties": len(parted),
        "texts that part otherwise": len(unexplained),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m-instruct.gguf"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    ratios, counts = measure(arguments, Console(stderr=True))
    summary = {kind: statistics.median(values) for kind, values in ratios.items()}
    if arguments.json:
        print(json.dumps(summary | counts, indent=2))
        return
    table = Table(title="Tokens per second of one stream: with guesses / without")
    for heading in ("prompts", "median", "lowest", "highest"):
        table.add_column(heading, justify="right")
    for kind, values in ratios.items():
        row = (statistics.median(values), min(values), max(values))
        table.add_row(kind, *(f"{value:.2f}" for value in row))
    Console().print(table)
    for name, count in counts.items():
        print(f"{name}: {count:.0f}")


if __name__ == "__main__":
    main()
