"""A soak over time, as a picture."""

from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from loadtests.soak.faults import DEADLY, Struck
from loadtests.soak.samples import ProcessSample, Sample
from loadtests.soak.trend import split_lives

MIB = 1 << 20
_FAULT_COLOURS = {
    "kill worker": "tab:red",
    "hang worker": "tab:purple",
    "damage files": "tab:brown",
    "burst": "tab:orange",
    "silent connections": "tab:olive",
    "delete sessions": "tab:cyan",
}


def plot_soak(samples: Sequence[Sample], struck: Sequence[Struck], path: Path) -> None:
    figure, axes = pyplot.subplots(4, 1, figsize=(14, 14), sharex=True, layout="constrained")
    memory, descriptors, slots, store = axes
    _draw(memory, samples, "API process", lambda one: one.api.resident_bytes / MIB)
    _draw_workers(memory, samples, lambda worker: worker.resident_bytes / MIB)
    memory.set_ylabel("resident MiB")
    _draw(descriptors, samples, "API process: descriptors", lambda one: one.api.num_descriptors)
    _draw(descriptors, samples, "API process: threads", lambda one: one.api.num_threads)
    _draw_workers(descriptors, samples, lambda worker: worker.num_descriptors)
    descriptors.set_ylabel("descriptors, threads")
    _draw(slots, samples, "busy slots", lambda one: one.num_running)
    _draw(slots, samples, "waiting", lambda one: one.num_waiting)
    _draw(slots, samples, "sessions", lambda one: one.num_sessions)
    slots.set_ylabel("requests, sessions")
    _draw(store, samples, "host tier, MiB", lambda one: one.host_bytes / MIB)
    _draw(store, samples, "disk tier, MiB", lambda one: one.file_bytes / MIB)
    _draw(store, samples, "state folder, MiB", lambda one: one.state_bytes / MIB)
    _draw(store, samples, "files of the disk tier", lambda one: one.num_files)
    store.set_ylabel("store")
    store.set_xlabel("minutes")
    for panel in axes:
        _mark_faults(panel, struck)
        panel.set_ylim(bottom=0)
        panel.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _draw(
    axes: Axes, samples: Sequence[Sample], label: str, measure: Callable[[Sample], float]
) -> None:
    axes.plot([one.at / 60 for one in samples], [measure(one) for one in samples], label=label)


def _draw_workers(
    axes: Axes, samples: Sequence[Sample], measure: Callable[[ProcessSample], float]
) -> None:
    """A line for each life."""
    seen = [(worker, sample.at / 60) for sample in samples for worker in sample.workers]
    pids = [worker.pid for worker, _ in seen]
    times = split_lives(pids, [at for _, at in seen])
    values = split_lives(pids, [measure(worker) for worker, _ in seen])
    colours = cycle(("tab:green", "limegreen"))
    for number, (at, life, colour) in enumerate(zip(times, values, colours, strict=False)):
        axes.plot(at, life, color=colour, label="worker, each life" if number == 0 else None)


def _mark_faults(axes: Axes, struck: Sequence[Struck]) -> None:
    named: set[str] = set()
    for one in struck:
        label = None if one.name in named else one.name
        named.add(one.name)
        axes.axvline(
            one.at / 60,
            color=_FAULT_COLOURS[one.name],
            linestyle="-" if one.name in DEADLY else ":",
            linewidth=1,
            alpha=0.6,
            label=label,
        )
