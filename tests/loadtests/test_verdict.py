import random

import pytest

from loadtests.soak.ledger import Ledger, Wrong
from loadtests.soak.samples import add_up, find_fallen
from loadtests.soak.verdict import (
    API_MEMORY_MIB,
    FIRST_USE_MIB,
    LONG_LIFE,
    MIB,
    WORKER_MEMORY_MIB,
    Bounds,
    judge_answers,
    judge_bounds,
    judge_counters,
    judge_growth,
    judge_log,
    judge_rest,
)
from tests.loadtests.soaked import IDLE_METRICS, make_process, make_sample

NUM_SAMPLES = 2 * LONG_LIFE


def failed(checks):
    return {check.name for check in checks if not check.holds}


def good_ledger():
    ledger = Ledger(started=0)
    ledger.num_echoes = ledger.num_canaries = 1
    ledger.note("chat", "complete", num_texts=10)
    ledger.note("leaves", "left", num_texts=2)
    return ledger


def judge_metrics(metrics=IDLE_METRICS, *, ledger=None, kills=1, hangs=0):
    checks = judge_counters(
        metrics,
        ledger or good_ledger(),
        num_fallen=0,
        num_kills=kills,
        num_hangs=hangs,
    )
    return failed(checks)


def grow(make, per_sample):
    return [make_sample(at, **make(per_sample * at)) for at in range(NUM_SAMPLES)]


def test_a_level_service_holds():
    assert failed(judge_growth([make_sample(at) for at in range(NUM_SAMPLES)], 1)) == set()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("API: MiB", lambda more: {"api": make_process(1, mebibytes=100 + more)}),
        ("API: descriptors", lambda more: {"api": make_process(1, descriptors=20 + int(more))}),
        ("API: threads", lambda more: {"api": make_process(1, threads=4 + int(more))}),
        ("other children", lambda more: {"num_other_children": int(more)}),
        ("state folder: MiB", lambda more: {"state_bytes": int(more * MIB)}),
        ("disk tier: files in a MiB", lambda more: {"num_files": int(more)}),
        (
            "host tier: segments in a MiB",
            lambda more: {"num_segments": {"host": int(more), "disk": 1}},
        ),
        (
            "worker: MiB beside the host tier",
            lambda more: {"workers": (make_process(2, mebibytes=400 + more),)},
        ),
        (
            "worker: descriptors",
            lambda more: {"workers": (make_process(2, descriptors=20 + int(more)),)},
        ),
        ("worker: threads", lambda more: {"workers": (make_process(2, threads=4 + int(more)),)}),
    ],
)
def test_growth_of_any_quantity_is_found_by_its_name(name, make):
    assert failed(judge_growth(grow(make, 1.0), 1)) == {name}


def test_memory_may_grow_by_the_tolerance_and_not_by_more():
    def names(growth):
        per_sample = growth / (NUM_SAMPLES / 2)
        samples = grow(lambda more: {"api": make_process(1, mebibytes=100 + more)}, per_sample)
        return failed(judge_growth(samples, 1))

    assert names(0.9 * API_MEMORY_MIB) == set()
    assert names(1.1 * API_MEMORY_MIB) == {"API: MiB"}


def test_a_short_life_may_use_structured_output_late_and_a_long_one_not():
    def names(num_samples):
        late = num_samples // 2
        extra = WORKER_MEMORY_MIB + FIRST_USE_MIB - 1
        samples = [
            make_sample(at, workers=(make_process(2, mebibytes=400 + extra * (at > late)),))
            for at in range(num_samples)
        ]
        return failed(judge_growth(samples, 1))

    assert names(LONG_LIFE // 2) == set()
    assert names(LONG_LIFE) == {"worker: MiB beside the host tier"}


def test_the_host_tier_may_fill_its_budget():
    def filling(more):
        host = int(2 * more * MIB)
        worker = make_process(2, mebibytes=400 + host / MIB)
        return {"host_bytes": host, "workers": (worker,)}

    assert failed(judge_growth(grow(filling, 1.0), 1)) == set()


def test_a_new_worker_is_not_growth_of_the_one_before():
    samples = [
        make_sample(at, workers=(make_process(2 + at // 40, mebibytes=300 + 100 * (at // 40)),))
        for at in range(NUM_SAMPLES)
    ]
    assert failed(judge_growth(samples, 1)) == set()


def test_loading_the_model_is_not_growth():
    loading = [
        make_sample(at, num_up=0, workers=(make_process(2, mebibytes=10 * at, descriptors=7),))
        for at in range(30)
    ]
    running = [make_sample(at) for at in range(30, 60)]
    assert failed(judge_growth([*loading, *running], 1)) == set()


def test_workers_that_all_died_young_prove_nothing():
    samples = [make_sample(at, workers=(make_process(2 + at // 8),)) for at in range(NUM_SAMPLES)]
    assert {"worker: threads", "worker: descriptors"} <= failed(judge_growth(samples, 1))


def test_a_bound_that_is_passed_once_is_passed():
    bounds = Bounds(host_bytes=64 * MIB, disk_bytes=128 * MIB, num_sessions=40, run_bytes=16 * MIB)
    samples = [make_sample(at) for at in range(4)]
    assert failed(judge_bounds(samples, bounds)) == set()
    samples.insert(2, make_sample(host_bytes=97 * MIB, file_bytes=200 * MIB, num_sessions=41))
    assert failed(judge_bounds(samples, bounds)) == {
        "host tier: MiB",
        "disk tier: MiB in files",
        "sessions",
    }


def test_after_the_load_nothing_runs_waits_or_is_open():
    before = make_sample()
    assert failed(judge_rest(before, make_sample())) == set()
    busy = make_sample(
        num_running=1, num_waiting=1, num_files=6, api=make_process(1, descriptors=60)
    )
    assert failed(judge_rest(before, busy)) == {
        "busy slots after the load",
        "queue after the load",
        "API: descriptors after the load",
        "disk tier: files after the load are those it knows",
    }


def test_the_services_account_agrees_with_the_clients():
    assert judge_metrics() == set()


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"smolserve_requests_total": 13.0}, {"admitted = finished + aborted"}),
        (
            {
                "smolserve_requests_total": 13.0,
                'smolserve_requests_finished_total{reason="error"}': 1.0,
            },
            {"requests failed by the engine"},
        ),
        (
            {
                "smolserve_requests_total": 9.0,
                'smolserve_requests_finished_total{reason="stop"}': 1.0,
            },
            {"finished as the clients count"},
        ),
        (
            {
                "smolserve_requests_total": 13.0,
                'smolserve_aborts_total{stage="decode"}': 3.0,
            },
            {"aborted, of those who left"},
        ),
        (
            {'smolserve_worker_restarts_total{worker="0"}': 2.0},
            {"restarts are those that were forced"},
        ),
    ],
)
def test_each_disagreement_has_its_name(changed, names):
    assert judge_metrics(IDLE_METRICS | changed) == names


def test_a_hang_that_the_watchdog_did_not_end_is_found():
    assert judge_metrics(kills=0, hangs=1) == {"restarts are those that were forced"}


def test_counters_may_rise_and_gauges_may_fall():
    before = {"a_total": 1.0, 'b_bucket{le="1"}': 2.0, "c": 5.0}
    assert find_fallen(before, {"a_total": 1.0, 'b_bucket{le="1"}': 3.0, "c": 1.0}) == []
    assert find_fallen(before, {"a_total": 0.0, "c": 5.0}) == ["a_total", 'b_bucket{le="1"}']


def test_a_metric_is_added_up_over_its_labels_and_no_others():
    metrics = {'a_total{x="1"}': 1.0, 'a_total{x="2"}': 2.0, "a_total_more": 4.0, "a_total": 8.0}
    assert add_up(metrics, "a_total") == 11


def test_the_log_may_tell_of_dead_workers_and_of_no_other_error():
    died = {"level": "error", "event": "worker_died"}
    assert judge_log([died, {"level": "info", "event": "request"}], 0).holds
    assert not judge_log([died, {"level": "error", "event": "request failed"}], 0).holds
    assert not judge_log([died], 1).holds


def test_one_wrong_answer_fails_the_soak():
    ledger = good_ledger()
    assert failed(judge_answers(ledger, 0)) == set()
    ledger.note_wrong("chat", "no end")
    assert failed(judge_answers(ledger, 0)) == {"every request ended as it should"}


def test_a_canary_that_parts_without_a_near_tie_fails_it():
    ledger = good_ledger()
    ledger.note_canary("Hello?", "Yes.", "No.")
    assert failed(judge_answers(ledger, 0)) == set()
    assert failed(judge_answers(ledger, 1)) == {"canaries answer as on the idle service"}


def test_secrets_that_nobody_says_prove_nothing():
    ledger = good_ledger()
    ledger.num_echoes = 0
    assert len(failed(judge_answers(ledger, 0))) == 1


def test_a_secret_may_be_said_in_its_own_conversation_only():
    ledger = Ledger(started=0)
    chance = random.Random(1)
    mine, other = (ledger.make_secret(chance) for _ in range(2))
    ledger.check_secrets(f"The word is {mine}, not ABCDEF-1234.", mine)
    assert ledger.num_echoes == 1
    with pytest.raises(Wrong, match=other):
        ledger.check_secrets(f"The word is {other}.", mine)
    with pytest.raises(Wrong, match=mine):
        ledger.check_secrets(f"The word is {mine}.", None)
