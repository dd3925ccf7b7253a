"""Whether a soak held: pure judgements over what was sampled and noted."""

import operator
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from loadtests.soak.ledger import Ledger
from loadtests.soak.samples import ProcessSample, Sample, add_up
from loadtests.soak.trend import MIN_SAMPLES, find_growth, split_lives

MIB = 1 << 20
API_MEMORY_MIB = 16
"""Growth over half of the soak that is no leak: a burst of large bodies leaves arenas of malloc
behind, and which quarter has it is chance. Over half an hour a leak of a KiB a request shows."""
WORKER_MEMORY_MIB = 24
"""The same beside the host tier, whose budget it may fill: segments are cut, joined and freed in
pieces of some MiB, and malloc keeps holes."""
FIRST_USE_MIB = 26
"""What a worker makes when the first answer is bound to a form: the vocabulary as a trie. In a life
shorter than LONG_LIFE samples that may come late; in a longer one it is in the first quarter."""
LONG_LIFE = 200
STATE_MIB = 16
"""A write-ahead log is cut at 4 MiB in each of the files, and batches that ended are remembered."""
DESCRIPTORS = 12
"""Each open connection is one, and guests have one or two at a time."""
THREADS = 4
"""Of pools that grow with the most that ever ran at once."""
SEGMENTS_PER_MIB = 2
"""How finely the same bytes are cut depends on who came; usually there are one or two in each."""
MAX_TEMPORARY_BYTES = 32 * MIB
"""Of files on disk over the store's account: those that wait to be erased."""
LEAVING = 1 / 4
"""Of the host budget: what may be on its way to disk besides, and one run more."""
_EXPECTED_ERRORS = {"worker_died"}


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    holds: bool
    found: str


def judge_answers(ledger: Ledger, num_otherwise: int) -> list[Check]:
    """`num_otherwise`: canaries that part from their reference not at a near-tie."""
    equal = ledger.num_canaries - len(ledger.partings)
    found = f"{ledger.num_canaries} asked, {equal} equal to the letter, {num_otherwise} wrong"
    return [
        Check(
            "every request ended as it should",
            not ledger.wrongs,
            f"{ledger.total('complete')} complete, {ledger.total('refused')} refused and sent "
            f"again, {ledger.total('rejected')} bad ones rejected, {ledger.total('left')} left, "
            f"{len(ledger.wrongs)} wrong",
        ),
        Check("canaries answer as on the idle service", equal > 0 and num_otherwise == 0, found),
        Check(
            "secrets are told in their own conversation only",
            ledger.num_echoes > 0,  # a foreign one is among the wrongs
            f"said {ledger.num_echoes} times in their own",
        ),
    ]


def judge_growth(samples: Sequence[Sample], num_workers: int) -> list[Check]:
    api = [sample.api for sample in samples]
    return [
        _flat("API: MiB", map(_mebibytes, api), API_MEMORY_MIB),
        _flat("API: descriptors", (one.num_descriptors for one in api), DESCRIPTORS),
        _flat("API: threads", (one.num_threads for one in api), THREADS),
        _flat("other children", (sample.num_other_children for sample in samples), 1),
        _flat("state folder: MiB", (sample.state_bytes / MIB for sample in samples), STATE_MIB),
        _flat(
            "host tier: segments in a MiB",
            (one.num_segments["host"] / max(1, one.host_bytes / MIB) for one in samples),
            SEGMENTS_PER_MIB,
        ),
        _flat(
            "disk tier: files in a MiB",
            (one.num_files / max(1, one.file_bytes / MIB) for one in samples),
            SEGMENTS_PER_MIB,
        ),
        *_judge_workers(samples, num_workers),
    ]


def _judge_workers(samples: Sequence[Sample], num_workers: int) -> list[Check]:
    """Each life for itself, from when the model is loaded: a new worker begins with nothing."""

    def memory(worker: ProcessSample, sample: Sample) -> float:
        return _mebibytes(worker) - sample.host_bytes / num_workers / MIB

    quantities: Mapping[str, tuple[Callable[[ProcessSample, Sample], float], float, float]] = {
        "MiB beside the host tier": (memory, WORKER_MEMORY_MIB, FIRST_USE_MIB),
        "descriptors": (lambda worker, _: worker.num_descriptors, DESCRIPTORS, 0),
        "threads": (lambda worker, _: worker.num_threads, THREADS, 0),
    }
    loaded = [sample for sample in samples if sample.num_up == num_workers]
    seen = [(worker, sample) for sample in loaded for worker in sample.workers]
    pids = [worker.pid for worker, _ in seen]
    checks: list[Check] = []
    for name, (measure, tolerance, first_use) in quantities.items():
        lives = split_lives(pids, [measure(*one) for one in seen])
        judged = [life for life in lives if len(life) >= MIN_SAMPLES]
        allowed = [tolerance + (first_use if len(life) < LONG_LIFE else 0) for life in judged]
        growths = [find_growth(life) for life in judged]
        found = ", ".join(
            f"{growth:+.1f} ({most:+})" for growth, most in zip(growths, allowed, strict=True)
        )
        holds = bool(judged) and all(map(operator.le, growths, allowed))
        checks.append(Check(f"worker: {name}", holds, f"growth of each life (allowed): {found}"))
    return checks


def _flat(name: str, values: Iterable[float], tolerance: float) -> Check:
    series = list(values)
    growth = find_growth(series)
    found = f"median {statistics.median(series):.1f}, growth {growth:+.1f}"
    return Check(name, growth <= tolerance, f"{found}, allowed {tolerance:+}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    host_bytes: int
    disk_bytes: int
    num_sessions: int
    run_bytes: int
    """Of the longest run of tokens."""


def judge_bounds(samples: Sequence[Sample], bounds: Bounds) -> list[Check]:
    """In every sample, not at the end only."""
    host = max(sample.host_bytes for sample in samples)
    disk = max(sample.disk_bytes for sample in samples)
    files = max(sample.file_bytes for sample in samples)
    sessions = max(sample.num_sessions for sample in samples)
    return [
        _at_most(
            "host tier: MiB",
            host / MIB,
            (bounds.host_bytes * (1 + LEAVING) + bounds.run_bytes) / MIB,
        ),
        _at_most("disk tier: MiB", disk / MIB, bounds.disk_bytes / MIB),
        _at_most(
            "disk tier: MiB in files",
            files / MIB,
            (bounds.disk_bytes + MAX_TEMPORARY_BYTES) / MIB,
        ),
        _at_most("sessions", sessions, bounds.num_sessions),
    ]


def judge_rest(before: Sample, after: Sample) -> list[Check]:
    """The service after the load against the same before it."""
    descriptors = before.api.num_descriptors, after.api.num_descriptors
    return [
        _at_most("busy slots after the load", after.num_running, 0),
        _at_most("queue after the load", after.num_waiting, 0),
        _at_most("API: descriptors after the load", descriptors[1], descriptors[0] + DESCRIPTORS),
        Check(
            "disk tier: files after the load are those it knows",
            after.num_files == after.num_segments["disk"],
            f"{after.num_files} of {after.num_segments['disk']:.0f}",
        ),
    ]


def judge_counters(
    metrics: Mapping[str, float],
    ledger: Ledger,
    *,
    num_fallen: int,
    num_kills: int,
    num_hangs: int,
) -> list[Check]:
    """The service's account of the requests against the clients'."""
    admitted = metrics["smolserve_requests_total"]
    finished = add_up(metrics, "smolserve_requests_finished_total")
    aborted = add_up(metrics, "smolserve_aborts_total")
    failed = metrics['smolserve_requests_finished_total{reason="error"}']
    restarts = add_up(metrics, "smolserve_worker_restarts_total")
    hangs = add_up(metrics, "smolserve_watchdog_kills_total")
    least, most = ledger.num_texts, ledger.num_texts + ledger.num_left
    return [
        _at_most("counters that fell", num_fallen, 0),
        _at_most("requests failed by the engine", failed, 0),
        Check(
            "admitted = finished + aborted",
            admitted == finished + aborted,
            f"{admitted:.0f} = {finished:.0f} + {aborted:.0f}",
        ),
        Check(
            "finished as the clients count",
            least <= finished <= most,
            f"{finished:.0f}; clients had {least}, and left {ledger.num_left} more",
        ),
        _at_most("aborted, of those who left", aborted, ledger.num_left),
        Check(
            "restarts are those that were forced",
            restarts == num_kills + num_hangs and hangs == num_hangs,
            f"{restarts:.0f} for {num_kills} kills and {num_hangs} hangs, {hangs:.0f} by watchdog",
        ),
    ]


def judge_log(lines: Iterable[Mapping[str, object]], num_tracebacks: int) -> Check:
    errors = [
        str(line.get("event"))
        for line in lines
        if line.get("level") in {"error", "critical"} and line.get("event") not in _EXPECTED_ERRORS
    ]
    found = f"{len(errors)} errors {sorted(set(errors))[:5]}, {num_tracebacks} tracebacks"
    return Check("log without errors of its own", not errors and not num_tracebacks, found)


def _at_most(name: str, found: float, limit: float) -> Check:
    return Check(name, found <= limit, f"{found:.0f}, at most {limit:.0f}")


def _mebibytes(process: ProcessSample) -> float:
    return process.resident_bytes / MIB
