"""Sequences that start from the disk, sessions that are freed, and time that passes."""

from tests.scheduler.builders import Bench, submit
from tests.scheduler.files import MemoryFiles


def prompt(number, length=40):
    return list(range(1000 * number, 1000 * number + length))


def bench_with_disk(**options):
    return Bench("1x128", host_cache_tokens=60, disk_cache_tokens=1000, **options)


def fill(bench, *numbers):
    """Conversations one after the other, of which host memory holds one; the disk the others."""
    for number in numbers:
        bench.add(submit(100 + number, prompt(number), max_tokens=4))
        bench.run()
        bench.settle()
    bench.files.settle(bench.scheduler, bench.store, bench.engine)


def test_prefix_on_disk_is_loaded_and_the_sequence_starts_from_it():
    bench = bench_with_disk()
    fill(bench, 1, 2, 3)
    request = submit(1, [*prompt(1), 7], max_tokens=8)
    bench.add(request)
    bench.step()
    assert (bench.scheduler.num_waiting, bench.scheduler.has_work) == (1, False)
    bench.run()
    assert bench.outcomes[1].num_cached == 40
    assert bench.outcomes[1].tokens == bench.undisturbed(request, 128).tokens
    assert bench.store.counters.hit_tokens["disk"] == 40


def test_others_run_while_the_disk_is_read():
    bench = Bench("2x128", host_cache_tokens=60, disk_cache_tokens=1000)
    fill(bench, 1, 2, 3, 4)
    bench.add(submit(1, [*prompt(1), 7], max_tokens=8))
    bench.add(submit(2, prompt(9), max_tokens=8))
    bench.step()
    assert {sequence.id for sequence in bench.scheduler.running} == {2}
    bench.run()
    assert bench.outcomes[1].num_cached == 40


def test_file_that_is_broken_is_computed_again():
    bench = bench_with_disk()
    fill(bench, 1, 2, 3)
    bench.files.broken = set(bench.files.stored)
    request = submit(1, [*prompt(1), 7], max_tokens=8)
    bench.add(request)
    bench.run()
    assert bench.outcomes[1].num_cached == 0
    assert bench.outcomes[1].tokens == bench.undisturbed(request, 128).tokens


def test_disk_that_is_slower_than_computing_is_not_waited_for():
    bench = bench_with_disk()
    fill(bench, 1, 2, 3)
    bench.store.costs.load_seconds = 1.0
    bench.add(submit(1, [*prompt(1), 7], max_tokens=8))
    bench.step()
    assert bench.scheduler.num_running == 1


def test_sequence_that_waits_for_the_disk_can_be_aborted():
    bench = bench_with_disk()
    fill(bench, 1, 2, 3)
    bench.add(submit(1, [*prompt(1), 7], max_tokens=8))
    bench.step()
    assert bench.scheduler.abort(1)
    bench.settle()
    assert bench.scheduler.num_waiting == 0


def test_conversations_outlive_the_worker_on_disk():
    files = MemoryFiles()
    before = bench_with_disk(files=files)
    fill(before, 1, 2, 3)
    before.add(submit(9, prompt(4), max_tokens=4, tenant="a", session="talk"))
    before.run()
    before.allocator.flush()
    before.operate()
    before.settle()
    after = bench_with_disk(files=files)
    for file_id, (origin, _) in sorted(files.stored.items()):
        after.store.adopt(file_id, origin, used_at=-1)
    history = [*prompt(4), *before.outcomes[9].tokens]
    assert dict(after.store.sessions) == {("a", "talk"): len(history) - 1}
    request = submit(1, [*history, 7], max_tokens=8, tenant="a")
    after.add(request)
    after.run()
    assert after.outcomes[1].num_cached == len(history) - 1
    assert after.outcomes[1].tokens == after.undisturbed(request, 128).tokens


def test_session_that_still_runs_is_freed_when_it_ends():
    bench = Bench("2x128")
    bench.add(submit(1, prompt(1), max_tokens=8, tenant="a", session="x"))
    bench.step()
    assert bench.forget("a", "x") == 0
    bench.run()
    bench.operate()
    bench.add(submit(2, [*prompt(1), 7], max_tokens=2, tenant="a", session="x"))
    bench.run()
    assert bench.outcomes[2].num_cached == 0


def test_copies_beside_running_streams_take_no_longer_than_a_token_should():
    bench = Bench("4x128", host_cache_tokens=1000)
    for number in (1, 2, 3, 4, 5, 6, 7, 8):
        bench.add(submit(100 + number, prompt(number, 60), max_tokens=2))
        bench.run()
    bench.add(submit(1, prompt(20, 4), max_tokens=60))
    for _ in range(3):
        bench.step()
    bench.store.costs.save_seconds = bench.store.costs.restore_seconds = 1e-4
    bench.store.costs.prefill_seconds = 1.0
    for number in (1, 2, 3):
        bench.add(submit(number + 1, [*prompt(number, 60), 7], max_tokens=4))
    bench.step()
    assert bench.scheduler.num_running == 2
    bench.step()
    assert bench.scheduler.num_running == 3


def test_sequence_waits_for_a_slow_disk_for_a_while_only():
    bench = bench_with_disk()
    fill(bench, 1, 2, 3)
    request = submit(1, [*prompt(1), 7], max_tokens=8)
    bench.add(request)
    bench.step()
    assert not bench.scheduler.has_work
    bench.store.now = bench.scheduler.next_timeout
    assert bench.scheduler.has_work
    while bench.scheduler.has_work:
        bench.step()
    assert bench.outcomes[1].tokens == bench.undisturbed(request, 128).tokens
    bench.settle()  # the disk answers at last, and nobody waits


def test_session_that_is_forgotten_and_then_aborted_while_it_waits_leaves_nothing():
    bench = Bench("1x128")
    bench.add(submit(1, prompt(1), max_tokens=30, tenant="a", session="x", priority=5))
    for _ in range(6):
        bench.step()
    bench.add(submit(2, prompt(2), max_tokens=4))
    bench.step()
    bench.forget("a", "x")
    assert bench.scheduler.abort(1)
    bench.run()
    bench.operate()
    bench.add(submit(3, [*prompt(1), 7], max_tokens=2, tenant="a"))
    bench.run()
    assert bench.outcomes[3].num_cached == 0
