"""A view as a screen: what is wrong comes first, and in colour."""

from collections.abc import Iterable, Sequence

from rich.console import ConsoleDimensions, Group, RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from service.cli.top.cells import NOTHING, STYLES, alarm, bar, write_bytes, write_seconds
from service.cli.top.troubles import FULL, LIMITS, Level, Trouble, grade, list_troubles
from service.cli.top.view import Incidents, Latency, Rates, SizeClass, View
from service.cli.top.watcher import Look

WIDE = 140
"""Columns from which sections stand beside each other."""
ROOMY = 34
"""Lines from which sections have space between them; without it the usual ones fit 24."""
_MAX_TROUBLES = 3


def draw(look: Look, *, url: str, size: ConsoleDimensions) -> RenderableType:
    sections = [_draw_head(look, url), *_draw_body(look.view, size.width)]
    return _stack(sections, is_roomy=size.height >= ROOMY)


def _stack(sections: Sequence[RenderableType], *, is_roomy: bool = True) -> Group:
    return Group(*(Padding(section, (0, 0, int(is_roomy), 0)) for section in sections))


def _draw_head(look: Look, url: str) -> RenderableType:
    head = Text.assemble(("smolserve ", "bold"), url)
    view = look.view
    if view is not None and view.interval_seconds is not None:
        head.append(f"  over {view.interval_seconds:.1f} s", "dim")
    if look.problem is not None:
        stale = "" if view is None else " What is below is old."
        return Group(head, Text(f"✗ {look.problem}.{stale} Trying again …", STYLES["bad"]))
    return Group(head, _draw_troubles([] if view is None else list_troubles(view)))


def _draw_troubles(troubles: Sequence[Trouble]) -> Text:
    if not troubles:
        return Text("● all is well", STYLES["good"])
    line = Text(no_wrap=True, overflow="ellipsis")
    for trouble in troubles[:_MAX_TROUBLES]:
        line.append(f"▲ {trouble.text}  ", STYLES[trouble.level])
    if len(troubles) > _MAX_TROUBLES:
        line.append(f"and {len(troubles) - _MAX_TROUBLES} more", "dim")
    return line


def _draw_body(view: View | None, width: int) -> Sequence[RenderableType]:
    if view is None:
        return []
    left = [_draw_load(view), _draw_latencies(view.latencies), _draw_slots(view.size_classes)]
    right = [_draw_workers(view), _draw_cache(view)]
    last = [_draw_memory_and_incidents(view)]
    if width < WIDE:
        return [*left, *right, *last]
    grid = Table.grid(padding=(0, 4))
    grid.add_row(_stack(left), _stack(right))
    return [grid, *last]


def _section(name: str, *columns: str) -> Table:
    """A table whose first column's heading is what it is about."""
    return Table(
        Column(name, header_style="bold cyan", no_wrap=True, min_width=15),
        *(Column(column, header_style="dim", justify="right", no_wrap=True) for column in columns),
        box=None,
        pad_edge=False,
    )


def _lines() -> Table:
    """What needs no headings."""
    table = Table.grid(Column(style="bold cyan", min_width=15, no_wrap=True), padding=(0, 2, 0, 0))
    table.add_column()
    return table


def _draw_load(view: View) -> Table:
    share = view.num_running / view.num_slots if view.num_slots else 0.0
    waiting = Text(f"{view.num_waiting} waiting", "yellow" if view.num_waiting else "dim")
    running = Text.assemble(bar([(share, "█")], grade(share, FULL)), f" {view.num_running}")
    running.append(f" of {view.num_slots} slots run, ").append(waiting)
    running.append(f", {view.num_sessions:,} sessions", "dim")
    table = _lines()
    table.add_row("requests", running)
    for name, text in _describe_rates(view.rates):
        table.add_row(name, text)
    return table


def _describe_rates(rates: Rates | None) -> Iterable[tuple[str, str]]:
    if rates is None:
        yield "tokens/s", "at the next look"
        return
    cached = "" if rates.cached_ratio is None else f", {rates.cached_ratio:.0%} of it cached"
    yield "tokens/s", f"{rates.generated_tokens:,.1f} out, {rates.prompt_tokens:,.0f} in{cached}"
    if rates.embedding_tokens:
        yield "embedded", f"{rates.embedding_tokens:,.0f} tokens/s"
    yield (
        "requests/s",
        f"{rates.requests:.1f} in, {rates.finished:.1f} done, {rates.aborted:.1f} aborted",
    )


def _draw_latencies(latencies: Sequence[Latency]) -> Table:
    table = _section("latency", "p50", "p95", "p99")
    for column in table.columns[1:]:
        column.min_width = 8
    for latency in latencies:
        limits = LIMITS[latency.name]
        values = (latency.p50, latency.p95, latency.p99)
        table.add_row(latency.name, *(write_seconds(value, limits) for value in values))
    return table


def _draw_slots(classes: Sequence[SizeClass]) -> Table:
    table = _section("slots of", "run █, cached ▒", "run", "cached", "free", "KV cells", "full")
    for size in classes:
        cells = size.running_cells + size.cached_cells
        table.add_row(
            f"{size.slot_len:,} tokens",
            bar(
                [
                    (size.num_running / size.num_slots, "█"),
                    (size.num_cached / size.num_slots, "▒"),
                ]
                if size.num_slots
                else [],
                grade(size.num_running / (size.num_slots or 1), FULL),
            ),
            str(size.num_running),
            str(size.num_cached),
            str(size.num_free),
            f"{cells:,}",
            f"{cells / size.num_cells:.0%}" if size.num_cells else NOTHING,
        )
    return table


def _draw_workers(view: View) -> Table:
    table = _section("worker", "state", "run", "wait", "full", "resident", "preempted", "restarts")
    table.columns[0].min_width = 8
    for worker in view.workers:
        level: Level = "good" if worker.is_up else "bad"
        table.add_row(
            worker.number,
            Text("up" if worker.is_up else "down", STYLES[level]),
            str(worker.num_running),
            str(worker.num_waiting),
            Text(f"{worker.occupancy:.0%}", STYLES[grade(worker.occupancy, FULL)]),
            write_bytes(worker.resident_bytes),
            str(worker.num_preemptions),
            alarm(worker.num_restarts),
        )
    return table


def _draw_cache(view: View) -> Table:
    table = _section("cache", "held", "runs", "evicted", "found/s")
    sources = {} if view.rates is None else view.rates.cached_sources
    of_tier = {
        "slot": sum(sources.get(source, 0.0) for source in ("slot", "session", "shared")),
        "host": sources.get("host", 0.0),
        "disk": sources.get("disk", 0.0),
    }
    for tier in view.tiers:
        found = NOTHING if view.rates is None else f"{of_tier.get(tier.name, 0.0):,.0f} tokens"
        table.add_row(
            tier.name,
            write_bytes(tier.num_bytes),
            f"{tier.num_segments:,}",
            f"{tier.num_evictions:,}",
            found,
        )
    return table


def _draw_memory_and_incidents(view: View) -> Table:
    table = _lines()
    parts = {
        "memory": view.memory_bytes,
        "processes": view.process_bytes,
        "GPUs": view.vram_bytes,
    }
    for name, sizes in parts.items():
        if sizes:
            told = ", ".join(f"{part} {write_bytes(size)}" for part, size in sizes.items())
            table.add_row(name, told)
    table.add_row("went wrong", _list_incidents(view))
    return table


def _list_incidents(view: View) -> Text:
    """Since the service's start; red is what came since the last look."""
    line = Text()
    for name, count in _name_incidents(view.total).items():
        fresh = 0 if view.fresh is None else _name_incidents(view.fresh).get(name, 0)
        style = STYLES["bad"] if fresh else "default" if count else "dim"
        line.append(f"{name} {count:,}", style).append("  ")
    return line


def _name_incidents(incidents: Incidents) -> dict[str, int]:
    return {
        "restarts": incidents.restarts,
        "hangs": incidents.hangs,
        "resubmitted": incidents.resubmissions,
        "quarantined": incidents.quarantines,
        "errors": incidents.errors,
        "disk": incidents.disk_errors,
        **{f"refused:{code}": count for code, count in incidents.rejections.items()},
    }
