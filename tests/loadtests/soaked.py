"""Small ways to make what a soak would have seen."""

from loadtests.soak.samples import ProcessSample, Sample
from loadtests.soak.verdict import MIB

IDLE_METRICS = {
    "smolserve_requests_total": 12.0,
    'smolserve_requests_finished_total{reason="stop"}': 4.0,
    'smolserve_requests_finished_total{reason="length"}': 6.0,
    'smolserve_requests_finished_total{reason="error"}': 0.0,
    'smolserve_aborts_total{stage="queued"}': 0.0,
    'smolserve_aborts_total{stage="decode"}': 2.0,
    'smolserve_worker_restarts_total{worker="0"}': 1.0,
    'smolserve_watchdog_kills_total{worker="0"}': 0.0,
}


def make_process(pid=1, *, mebibytes=100.0, descriptors=20, threads=4):
    return ProcessSample(
        pid=pid,
        resident_bytes=int(mebibytes * MIB),
        num_descriptors=descriptors,
        num_threads=threads,
    )


def make_sample(at=0.0, **fields):
    values = {
        "api": make_process(1),
        "workers": (make_process(2, mebibytes=400),),
        "num_up": 1,
        "num_other_children": 0,
        "num_running": 0,
        "num_waiting": 0,
        "num_sessions": 10,
        "host_bytes": 0,
        "disk_bytes": 0,
        "num_segments": {"host": 5, "disk": 5},
        "num_files": 5,
        "file_bytes": 0,
        "state_bytes": MIB,
    }
    return Sample(at=at, **(values | fields))
