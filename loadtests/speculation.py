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
TEXTS = (
    """
The committee met on Tuesday to discuss the new library. The architect, Maria Alvarez, showed three
designs and explained the cost of each. After a long debate the members chose the second design,
because it keeps the old oak trees and leaves room for a reading garden. Construction begins in
April and should be finished before the winter of next year.""",
    """
The old town lies on a hill above the river. Its walls were built in the twelfth century, and most
of them still stand. Every Saturday farmers from the valley sell cheese, honey and vegetables in
the square in front of the church. In summer the streets are full of visitors, but in winter only
the people who live there walk through the snow to the bakery. The last train leaves at nine in the
evening, and after that the town is quiet until the bells ring in the morning.""",
    """
Preheat the oven to 180 degrees. Mix the flour, the sugar and the salt in a large bowl. Add the
butter and the eggs and stir until the dough is smooth. Cover the bowl with a towel and let the
dough rest for one hour. Cut the apples into thin slices and mix them with cinnamon and lemon
juice. Roll out the dough, lay it into the form and spread the apples on it. Bake the cake for forty
minutes and let it cool down before you cut it.""",
)
SPELLINGS = {
    "discuss": "discus",
    "explained": "explaned",
    "twelfth": "twelvth",
    "vegetables": "vegtables",
    "cinnamon": "cinamon",
    "minutes": "minuts",
}
"""Right, and as the text to be corrected has it."""
CORRECT = "Correct the spelling mistakes in the following text and return the whole text:\n\n"
REPEAT = "Repeat this text word for word:\n\n"
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


def prompts() -> dict[str, list[tuple[str, str | None]]]:
    """By kind: questions, each with a prediction or none."""
    texts = [text.strip().replace("\n", " ") for text in TEXTS]
    edits = [(CORRECT + _misspell(text), text) for text in texts]
    edits += [(REPEAT + text, text) for text in texts]
    return {
        "copying": [(question, None) for question, _ in edits],
        "copying, predicted": [*edits],
        "open": [(question, None) for question in OPEN_QUESTIONS],
    }


def _misspell(text: str) -> str:
    for right, wrong in SPELLINGS.items():
        text = text.replace(right, wrong)
    return text


def ask(address: Address, model: str, prompt: str, prediction: str | None) -> Run:
    body = chat_body(model, prompt, NUM_TOKENS, ignore_eos=False)
    if prediction is not None:
        body["prediction"] = {"type": "content", "content": prediction}
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
                for prompt, prediction in texts:
                    expected, actual = (
                        ask(each, model, prompt, prediction) for each in (plain, guessing)
                    )
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
