"""Mixed load with faults, and whether the service holds: `python -m loadtests.soak --minutes 60`.

Starts a service of its own on the embedded model. Guests of two tenants chat, keep sessions and
responses, call tools, ask for vectors, leave in the middle, read slowly and send nonsense, and one
runs batches. Meanwhile workers are killed and stopped, files of the disk tier are cut and changed,
bursts fill the queue, connections stay silent and sessions are deleted. All answers are judged, and
what the processes hold is sampled; the exit status is 1 if anything was lost or grew.
"""

import argparse
import asyncio
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from loadtests.judge import Judge
from loadtests.soak.ledger import Ledger
from loadtests.soak.plot import plot_soak
from loadtests.soak.run import Course, Plan, run_soak
from loadtests.soak.samples import Sample
from loadtests.soak.site import DISK_BYTES, HOST_BYTES, MAX_SESSIONS, RUN_BYTES, running_site
from loadtests.soak.verdict import (
    MIB,
    Bounds,
    Check,
    judge_answers,
    judge_bounds,
    judge_counters,
    judge_growth,
    judge_log,
    judge_rest,
)

PROGRESS_SECONDS = 5
NUM_SAMPLES = 1800
"""At most, roughly: enough for a picture."""
EXIT_SECONDS = 10
LAST_LINES = 20


class Progress:
    """A line every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0

    def show(self, ledger: Ledger, sample: Sample) -> None:
        if sample.at < self._next:
            return
        self._next = sample.at + PROGRESS_SECONDS
        workers = "+".join(f"{one.resident_bytes / MIB:.0f}" for one in sample.workers) or "none"
        wrong = len(ledger.wrongs)
        self._console.print(
            f"{sample.at // 60:02.0f}:{sample.at % 60:02.0f}  "
            f"{ledger.total('complete')} complete, {ledger.total('refused')} refused, "
            f"{ledger.total('left')} left, [{'red' if wrong else 'green'}]{wrong} wrong[/]  "
            f"slots {sample.num_running:.0f}, queue {sample.num_waiting:.0f}  "
            f"API {sample.api.resident_bytes / MIB:.0f} MiB, "
            f"{sample.api.num_descriptors} descriptors; worker {workers} MiB; "
            f"host {sample.host_bytes / MIB:.0f}, disk {sample.file_bytes / MIB:.0f} MiB"
        )


def soak(arguments: argparse.Namespace, console: Console) -> tuple[Course, list[Check]]:
    seconds = arguments.minutes * 60
    plan = Plan(
        seconds=seconds,
        num_guests=arguments.guests,
        sample_seconds=max(1.0, seconds / NUM_SAMPLES),
    )
    with running_site(
        arguments.model, threads=arguments.threads, num_workers=arguments.workers
    ) as site:
        try:
            course = asyncio.run(run_soak(site, plan, Progress(console).show))
        except ExceptionGroup:
            if site.has_ended:
                last = "".join(list(_read_log(site.log_path))[-LAST_LINES:])
                raise SystemExit(
                    f"the service ended in the middle; its last lines:\n{last}"
                ) from None
            raise
        finally:
            if arguments.log is not None:
                shutil.copy(site.log_path, arguments.log)
        children = site.children()
        log = list(_read_log(site.log_path))
    left_behind = psutil.wait_procs(children, timeout=EXIT_SECONDS)[1]
    return course, _judge(arguments, course, log, num_left_behind=len(left_behind))


def _judge(
    arguments: argparse.Namespace,
    course: Course,
    log: list[str],
    *,
    num_left_behind: int,
) -> list[Check]:
    names = [one.name for one in course.struck]
    bounds = Bounds(
        host_bytes=HOST_BYTES * arguments.workers,
        disk_bytes=DISK_BYTES * arguments.workers,
        num_sessions=MAX_SESSIONS,
        run_bytes=RUN_BYTES,
    )
    lines = [line for line in log if line.startswith("{")]
    events: list[Mapping[str, object]] = [json.loads(line) for line in lines]
    return [
        *judge_answers(course.ledger, _count_otherwise(arguments, course.ledger)),
        *judge_counters(
            course.metrics,
            course.ledger,
            num_fallen=len(course.fallen),
            num_kills=names.count("kill worker"),
            num_hangs=names.count("hang worker"),
        ),
        *judge_rest(course.before, course.after),
        *judge_bounds(course.samples, bounds),
        *judge_growth(course.samples, arguments.workers),
        judge_log(events, sum("Traceback" in line for line in log)),
        Check("processes left behind", num_left_behind == 0, f"{num_left_behind}"),
    ]


def _count_otherwise(arguments: argparse.Namespace, ledger: Ledger) -> int:
    """Canaries that part from their reference where no rounding explains it."""
    if not ledger.partings:
        return 0
    judge = Judge(arguments.model, flash_attention="on", threads=arguments.threads)
    return sum(
        not judge.is_near_tie(one.prompt, one.expected, one.actual) for one in ledger.partings
    )


def _read_log(path: Path) -> Iterator[str]:
    with path.open(errors="replace") as file:
        yield from file


def summarise(course: Course, checks: list[Check]) -> dict[str, object]:
    kinds = sorted({kind for kind, _ in course.ledger.counts})
    outcomes = ("complete", "refused", "rejected", "left")
    return {
        "held": all(check.holds for check in checks),
        "seconds": round(course.ledger.elapsed),
        "checks": [
            {"name": check.name, "holds": check.holds, "found": check.found} for check in checks
        ],
        "wrongs": course.ledger.wrongs,
        "partings": list(map(asdict, course.ledger.partings)),
        "requests": {
            kind: {
                outcome: course.ledger.counts[kind, outcome]
                for outcome in outcomes
                if course.ledger.counts[kind, outcome]
            }
            for kind in kinds
        },
        "faults": [
            {"at": round(one.at), "name": one.name, "outcome": one.outcome} for one in course.struck
        ],
        "files_damaged": course.num_damaged,
        "files_found_damaged": course.metrics["smolserve_cache_disk_errors_total"],
        "preemptions": course.metrics.get('smolserve_preemptions_total{worker="0"}', 0),
        "resubmissions": course.metrics["smolserve_resubmissions_total"],
    }


def show(course: Course, checks: list[Check], console: Console) -> None:
    faults = Table(title="Faults")
    for heading in ("at", "fault", "what came of it"):
        faults.add_column(heading)
    for one in course.struck:
        faults.add_row(f"{one.at:.0f} s", one.name, one.outcome)
    console.print(faults)
    for wrong in course.ledger.wrongs:
        console.print(wrong, style="red", markup=False)
    for one in course.ledger.partings:
        console.print(
            f"{one.at:.0f} s: {one.prompt!r} was answered {one.actual!r}, not {one.expected!r}",
            markup=False,
        )
    table = Table(title="Soak")
    for heading in ("", "what has to hold", "found"):
        table.add_column(heading)
    for check in checks:
        mark = "[green]yes[/]" if check.holds else "[bold red]NO[/]"
        table.add_row(mark, check.name, check.found)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m-instruct.gguf"))
    parser.add_argument("--guests", type=int, default=6, help="that ask at a time")
    parser.add_argument(
        "--threads",
        type=int,
        default=max(1, (psutil.cpu_count(logical=False) or 1) // 2),
        help="of each worker; default: half of the cores",
    )
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--plot", type=Path, default=Path("soak.png"), help="PNG to write")
    parser.add_argument("--log", type=Path, help="where to keep the service's log")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    arguments = parser.parse_args()
    progress = Console(stderr=True, highlight=False)
    course, checks = soak(arguments, progress)
    plot_soak(course.samples, course.struck, arguments.plot)
    if arguments.json:
        print(json.dumps(summarise(course, checks), indent=2))
    else:
        show(course, checks, Console())
    sys.exit(not all(check.holds for check in checks))


if __name__ == "__main__":
    main()
