"""Runs of several servers, side by side."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from loadtests.traffic.figures import ALL, show_number

Document = Mapping[str, Any]
"""The figures of one run, as `loadtests.locustfile` writes them."""


@dataclass(frozen=True, slots=True)
class Run:
    scenario: str
    server: str
    round_number: int
    figures: Mapping[str, Document]
    """By the name of what was asked."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure that is compared, by where it is in a document."""

    title: str
    unit: str
    path: tuple[str, ...]

    def read(self, figures: Document) -> float | None:
        value: Any = figures
        for step in self.path:
            value = None if value is None else value[step]
        return value


TTFT = Measure("TTFT p50", "ms", ("ttft_ms", "p50"))
TTFT_P99 = Measure("TTFT p99", "ms", ("ttft_ms", "p99"))
ITL = Measure("ITL p50", "ms", ("itl_ms", "p50"))
ITL_P99 = Measure("ITL p99", "ms", ("itl_ms", "p99"))
TOKENS = Measure("tokens per second", "tokens/s", ("tokens_per_second",))
COUNTS = (
    Measure("answers", "", ("num_whole",)),
    Measure("failed", "", ("num_failed",)),
    Measure("refused", "", ("num_refused",)),
)
MEASURES = (TTFT, TTFT_P99, ITL, ITL_P99, TOKENS)


@dataclass(frozen=True, slots=True)
class Group:
    """What is compared: a scenario, or one kind of request in it."""

    scenario: str
    name: str

    @property
    def title(self) -> str:
        return self.scenario if self.name == ALL else f"{self.scenario}: {self.name}"


class Comparison:
    """Every run of every server."""

    def __init__(self, servers: Sequence[str], runs: Sequence[Run]) -> None:
        self.servers = list(servers)
        self._runs = list(runs)

    @property
    def groups(self) -> list[Group]:
        """Where a scenario has several kinds of requests each stands for itself."""
        found: dict[Group, None] = {}
        for run in self._runs:
            names = [name for name in run.figures if name != ALL] or [ALL]
            found |= dict.fromkeys(Group(run.scenario, name) for name in names)
        order = list(dict.fromkeys(run.scenario for run in self._runs))
        return sorted(found, key=lambda group: order.index(group.scenario))

    def values(self, group: Group, server: str, measure: Measure) -> list[float]:
        """One for each round in which there was something to measure."""
        read = [
            measure.read(run.figures[group.name])
            for run in self._runs
            if (run.scenario, run.server) == (group.scenario, server) and group.name in run.figures
        ]
        return [value for value in read if value is not None]

    def median(self, group: Group, server: str, measure: Measure) -> float | None:
        values = self.values(group, server, measure)
        return statistics.median(values) if values else None

    def total(self, group: Group, server: str, measure: Measure) -> int:
        return round(sum(self.values(group, server, measure)))

    def headings(self) -> list[str]:
        counts = [measure.title for measure in COUNTS]
        return ["scenario", "server", *counts, *(f"{m.title}, {m.unit}" for m in MEASURES)]

    def rows(self) -> list[list[str]]:
        """Counts of all rounds together, medians over the rounds."""
        return [
            [
                group.title,
                server,
                *(str(self.total(group, server, measure)) for measure in COUNTS),
                *(show_number(self.median(group, server, measure)) for measure in MEASURES),
            ]
            for group in self.groups
            for server in self.servers
        ]

    def build_table(self) -> Table:
        table = Table(title="medians over the rounds")
        for number, heading in enumerate(self.headings()):
            table.add_column(heading, justify="left" if number < 2 else "right")
        last = ""
        for row in self.rows():
            if last and row[0] != last:
                table.add_section()
            table.add_row("" if row[0] == last else row[0], *row[1:])
            last = row[0]
        return table

    def to_markdown(self) -> str:
        headings = self.headings()
        lines = [headings, ["---", "---", *["---:"] * (len(headings) - 2)], *self.rows()]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def to_json(self) -> list[dict[str, object]]:
        """The medians, and the value of each round behind them."""
        return [
            {
                "scenario": group.scenario,
                "requests": group.name,
                "server": server,
                **{measure.title: self.total(group, server, measure) for measure in COUNTS},
                **{
                    f"{measure.title}, {measure.unit}": {
                        "median": self.median(group, server, measure),
                        "rounds": self.values(group, server, measure),
                    }
                    for measure in MEASURES
                },
            }
            for group in self.groups
            for server in self.servers
        ]
