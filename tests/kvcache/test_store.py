from service.core.plan import Tokens, make_tokens
from service.kvcache.store import SnapshotStore


def store(budget_tokens: int = 100) -> SnapshotStore:
    return SnapshotStore(budget_bytes=budget_tokens * 8, bytes_per_token=8)


def run(*values: int) -> Tokens:
    return make_tokens(list(values))


def test_longest_common_prefix_is_found():
    kept = store()
    kept.put("", run(1, 2, 3, 4))
    best, _ = kept.put("", run(1, 2, 9, 9, 9))
    found, length = kept.find_longest("", run(1, 2, 9, 9, 5), max_len=100)
    assert found is not None
    assert (found.snapshot_id, length) == (best, 4)


def test_another_tenants_run_is_never_found():
    kept = store()
    kept.put("a", run(1, 2, 3))
    assert kept.find_longest("b", run(1, 2, 3), max_len=100) == (None, 0)


def test_run_too_long_for_the_slot_is_not_found():
    kept = store()
    kept.put("", run(1, 2, 3, 4))
    assert kept.find_longest("", run(1, 2), max_len=3) == (None, 0)


def test_run_replaces_its_own_prefixes():
    kept = store()
    short, _ = kept.put("", run(1, 2))
    _, dropped = kept.put("", run(1, 2, 3))
    assert dropped == [short]
    assert kept.num_bytes == 3 * 8


def test_run_that_another_continues_is_not_kept_again():
    kept = store()
    kept.put("", run(1, 2, 3))
    assert kept.put("", run(1, 2)) == (None, [])


def test_same_run_of_two_tenants_is_kept_twice():
    kept = store()
    kept.put("a", run(1, 2))
    kept.put("b", run(1, 2))
    assert len(kept) == 2


def test_least_recently_used_run_goes_first():
    kept = store(budget_tokens=4)
    first, _ = kept.put("", run(1, 1))
    second, _ = kept.put("", run(2, 2))
    assert first is not None
    kept.touch(first)
    _, dropped = kept.put("", run(3, 3))
    assert dropped == [second]
    assert kept.num_bytes == 4 * 8


def test_run_larger_than_the_budget_is_not_kept():
    kept = store(budget_tokens=2)
    kept.put("", run(1, 1))
    assert kept.put("", run(2, 2, 2)) == (None, [])
    assert len(kept) == 1
