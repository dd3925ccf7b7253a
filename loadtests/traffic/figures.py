"""Answers of a run to the figures that say how it went, and to a table of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from rich.table import Table

from loadtests.traffic.answer import Answer

ALL = "all"
NONE = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Of one quantity."""

    p50: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """None stands for what nothing was seen of."""

    num_whole: int
    num_failed: int
    num_refused: int
    num_left: int
    """Clients that went away, or were still reading when the run ended."""
    first_error: str | None
    """What the first that failed said."""
    tokens_per_second: float
    """Of all streams together, over the whole run."""
    tokens_per_answer: float | None
    ttft_ms: Spread | None
    itl_ms: Spread | None
    refusal_ms: Spread | None
    """Until a 429 was there."""
    stream_tokens_per_second: Spread | None
    """Of each answer, from its first piece to its last; here p99 is the fastest hundredth."""


def gather_figures(answers: Sequence[Answer], seconds: float) -> dict[str, Figures]:
    """By the name of what was asked, in the order of first appearance, behind `all`."""
    by_name: dict[str, list[Answer]] = {}
    for answer in answers:
        by_name.setdefault(answer.name, []).append(answer)
    groups = {ALL: list(answers)} | (by_name if len(by_name) > 1 else {})
    return {name: summarise(group, seconds) for name, group in groups.items()}


def summarise(answers: Sequence[Answer], seconds: float) -> Figures:
    """`seconds` is how long the run took."""
    whole = [answer for answer in answers if answer.is_whole]
    read = [answer for answer in answers if answer.error is None]
    refused = [answer for answer in answers if answer.is_refused]
    errors = [answer.error for answer in answers if answer.error is not None]
    rates = [answer.tokens_per_second for answer in read]
    return Figures(
        num_whole=len(whole),
        num_failed=len(errors),
        num_refused=len(refused),
        num_left=sum(answer.has_left for answer in answers),
        first_error=errors[0] if errors else None,
        tokens_per_second=sum(answer.num_tokens for answer in read) / seconds,
        tokens_per_answer=(
            sum(answer.num_tokens for answer in whole) / len(whole) if whole else None
        ),
        ttft_ms=_spread_ms(answer.ttft_seconds for answer in read),
        itl_ms=_spread_ms(gap for answer in read for gap in answer.gaps),
        refusal_ms=_spread_ms(answer.seconds for answer in refused),
        stream_tokens_per_second=measure_spread(rates),
    )


def measure_spread(values: Iterable[float | None], scale: float = 1.0) -> Spread | None:
    """Of those values that there are."""
    there = [value * scale for value in values if value is not None]
    if not there:
        return None
    p50, p99 = np.quantile(there, (0.5, 0.99)).tolist()
    return Spread(p50=p50, p99=p99, max=max(there))


def _spread_ms(seconds: Iterable[float | None]) -> Spread | None:
    return measure_spread(seconds, 1000)


def to_json(figures: Mapping[str, Figures]) -> dict[str, object]:
    return {name: asdict(each) for name, each in figures.items()}


def show_number(value: float | None) -> str:
    """With as many digits as are worth reading."""
    if value is None:
        return NONE
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def build_table(title: str, figures: Mapping[str, Figures]) -> Table:
    table = Table(title=title, caption="times in milliseconds")
    table.add_column("")
    for heading in (
        *("answers", "failed", "refused", "left", "TTFT p50", "p99", "max"),
        *("ITL p50", "p99", "max", "tok/s a stream", "tok/s all", "tokens each"),
    ):
        table.add_column(heading, justify="right")
    for name, each in figures.items():
        counts = (each.num_whole, each.num_failed, each.num_refused, each.num_left)
        stream = each.stream_tokens_per_second
        table.add_row(
            name,
            *map(str, counts),
            *_show_spread(each.ttft_ms),
            *_show_spread(each.itl_ms),
            show_number(stream.p50 if stream else None),
            show_number(each.tokens_per_second),
            show_number(each.tokens_per_answer),
        )
    return table


def _show_spread(spread: Spread | None) -> tuple[str, str, str]:
    if spread is None:
        return (NONE, NONE, NONE)
    return (show_number(spread.p50), show_number(spread.p99), show_number(spread.max))
