"""Plots of a comparison: a panel for each scenario, a bar for each server."""

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from loadtests.traffic.comparison import (
    ITL,
    ITL_P99,
    TOKENS,
    TTFT,
    TTFT_P99,
    Comparison,
    Group,
    Measure,
)

COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
"""Told apart by the colour-blind too."""
PANELS_A_ROW = 4
PANEL_INCHES = (3.2, 2.7)
BAR_WIDTH = 0.6
PLOTS = (
    ("ttft.png", "Time to first token", TTFT, TTFT_P99),
    ("itl.png", "Inter-token latency", ITL, ITL_P99),
    ("tokens_per_second.png", "Tokens per second, all streams together", TOKENS, None),
)


def draw_plots(comparison: Comparison, folder: Path) -> list[Path]:
    """Writes a PNG for each of PLOTS."""
    paths: list[Path] = []
    for name, title, middle, tail in PLOTS:
        figure = _draw(comparison, title, middle, tail)
        FigureCanvasAgg(figure).print_png(folder / name)
        paths.append(folder / name)
    return paths


def _draw(comparison: Comparison, title: str, middle: Measure, tail: Measure | None) -> Figure:
    groups = comparison.groups
    num_columns = min(PANELS_A_ROW, len(groups))
    num_rows = math.ceil(len(groups) / num_columns)
    width = max(PANEL_INCHES[0] * num_columns, 6.5)
    figure = Figure(figsize=(width, PANEL_INCHES[1] * num_rows + 1), dpi=110, layout="constrained")
    panels = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
    for group, axes in zip(groups, panels, strict=False):
        _draw_panel(axes, comparison, group, middle, tail)
    for axes in panels[len(groups) :]:
        axes.set_axis_off()
    bars = "bars: median of the rounds; dots: each round"
    tails = "" if tail is None else f"; pale bars and rings: {tail.title.split()[-1]}"
    figure.suptitle(f"{title}\n{bars}{tails}; each panel has its own scale, from 0", fontsize=10)
    handles = [
        Patch(color=_color(number), label=server)
        for number, server in enumerate(comparison.servers)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _draw_panel(
    axes: Axes, comparison: Comparison, group: Group, middle: Measure, tail: Measure | None
) -> None:
    highest = 0.0
    for number, server in enumerate(comparison.servers):
        for measure in (tail, middle):
            if measure is None:
                continue
            values = comparison.values(group, server, measure)
            median = comparison.median(group, server, measure)
            if median is None:
                continue
            highest = max(highest, *values)
            is_tail = measure is tail
            alpha = 0.35 if is_tail else 1
            axes.bar(number, median, BAR_WIDTH, color=_color(number), alpha=alpha, zorder=2)
            inside = "none" if is_tail else "black"
            axes.scatter(
                _spread(number, len(values)),
                values,
                s=16,
                facecolors=inside,
                edgecolors="black",
                linewidths=0.8,
                zorder=3,
            )
    axes.set_title(group.title, fontsize=9)
    axes.set_ylabel(middle.unit, fontsize=8)
    axes.set_ylim(0, highest * 1.08 or 1)
    axes.set_xlim(-0.6, len(comparison.servers) - 0.4)
    axes.set_xticks(range(len(comparison.servers)), comparison.servers, fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(axis="y", linewidth=0.4, zorder=0)
    if not highest:
        axes.text(0.5, 0.5, "nothing measured", transform=axes.transAxes, ha="center")


def _spread(center: int, count: int) -> list[float]:
    """Beside each other, in the order of the rounds."""
    step = BAR_WIDTH / (count + 1)
    return [center - BAR_WIDTH / 2 + step * (index + 1) for index in range(count)]


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]
