"""What is kept of computed tokens, where, and what goes first."""

from service.core.plan import Archive, Cut, Drop, Erase, Load, Origin, Restore, Save, Split
from service.kvcache.store import SnapshotStore
from tests.kvcache.invariants import check_store
from tests.kvcache.test_tree import path


def store(host_tokens=100, disk_tokens=0):
    return SnapshotStore(host_bytes=host_tokens * 8, disk_bytes=disk_tokens * 8, bytes_per_token=8)


def keep(kept, run):
    """Keep a run of a slot; the operations for that."""
    kept.keep(run, 0, 0)
    kept.shrink()
    check_store(kept)
    return kept.take_operations()


def host_len(kept, run):
    return kept.host_len(kept.match(run))


def archived(kept, run):
    """How the run that leaves for another is written."""
    return next(each for each in keep(kept, run) if isinstance(each, Archive))


def on_disk(kept, run):
    """Keep a run that at once leaves for the disk; its file's id."""
    archive = archived(kept, run)
    kept.note_written(archive.file_id, is_good=True)
    check_store(kept)
    kept.take_operations()
    return archive.file_id


def loaded(kept):
    (load,) = (each for each in kept.take_operations() if isinstance(each, Load))
    return load


def test_run_is_saved_whole_the_first_time():
    kept = store()
    assert keep(kept, path(range(20))) == [Save(0, 0, (Cut(0, 20, 1),))]
    assert host_len(kept, path(range(20))) == 20


def test_of_a_run_that_continues_another_only_the_new_tokens_are_saved():
    kept = store()
    keep(kept, path(range(20)))
    assert keep(kept, path(range(30))) == [Save(0, 0, (Cut(20, 30, 2),))]
    assert kept.host_bytes == 30 * 8


def test_shared_prefix_is_kept_once():
    kept = store()
    keep(kept, path([*range(20), *range(50, 60)]))
    split, save = keep(kept, path([*range(20), *range(70, 80)]))
    assert isinstance(split, Split)
    assert save == Save(0, 0, (Cut(20, 30, 4),))
    assert kept.host_bytes == 40 * 8


def test_few_new_tokens_are_not_worth_reading_a_slot_for():
    kept = store()
    keep(kept, path(range(90)))
    assert not kept.keep(path(range(92)), 0, 0)


def test_run_that_is_all_there_needs_no_save():
    kept = store()
    keep(kept, path(range(20)))
    assert keep(kept, path(range(10))) == [Split(1, 10, 2, 3)]
    assert kept.keep(path(range(10)), 0, 0)


def test_run_larger_than_the_budget_is_not_kept():
    kept = store(host_tokens=10)
    assert not kept.keep(path(range(11)), 0, 0)
    assert kept.take_operations() == []


def test_prefix_is_restored_from_the_segments_on_its_way():
    kept = store()
    keep(kept, path(range(20)))
    keep(kept, path(range(30)))
    wanted = path([*range(25), 99])
    kept.restore(kept.match(wanted), 25, 1, 2)
    assert kept.take_operations() == [Restore(1, 2, (1, 2), 25)]


def test_least_recently_used_run_goes_first():
    kept = store(host_tokens=40)
    keep(kept, path(range(20)))
    keep(kept, path(range(100, 120)))
    kept.restore(kept.match(path(range(20))), 20, 0, 0)
    kept.take_operations()
    assert keep(kept, path(range(200, 220)))[-1] == Drop(2)
    assert host_len(kept, path(range(20))) == 20
    assert host_len(kept, path(range(100, 120))) == 0


def test_end_of_a_run_goes_before_its_beginning():
    kept = store(host_tokens=40)
    keep(kept, path(range(20)))
    keep(kept, path(range(40)))
    keep(kept, path(range(100, 120)))
    assert host_len(kept, path(range(40))) == 20


def test_what_leaves_in_a_step_may_still_be_restored_in_it():
    kept = store(host_tokens=20)
    keep(kept, path(range(20)))
    kept.keep(path(range(100, 120)), 0, 0)
    kept.restore(kept.match(path(range(20))), 20, 0, 1)
    kept.shrink()
    kinds = [type(operation) for operation in kept.take_operations()]
    assert kinds == [Save, Restore, Drop]


def test_what_leaves_host_memory_is_written_and_freed_when_it_is_on_disk():
    kept = store(host_tokens=20, disk_tokens=100)
    keep(kept, path(range(20)))
    archive = archived(kept, path(range(100, 120)))
    assert archive == Archive(1, archive.file_id, Origin("", 0, path(range(20)).tokens, 0, ()))
    assert host_len(kept, path(range(20))) == 20
    kept.note_written(archive.file_id, is_good=True)
    check_store(kept)
    assert kept.take_operations() == [Drop(1)]
    assert host_len(kept, path(range(20))) == 0
    assert kept.disk_len(kept.match(path(range(20)))) == 20


def test_run_that_is_used_while_it_is_written_stays():
    kept = store(host_tokens=20, disk_tokens=100)
    keep(kept, path(range(20)))
    archive = archived(kept, path(range(100, 120)))
    kept.restore(kept.match(path(range(20))), 20, 0, 0)
    kept.note_written(archive.file_id, is_good=True)
    check_store(kept)
    assert host_len(kept, path(range(20))) == 20


def test_run_that_could_not_be_written_is_gone():
    kept = store(host_tokens=20, disk_tokens=100)
    keep(kept, path(range(20)))
    archive = archived(kept, path(range(100, 120)))
    kept.note_written(archive.file_id, is_good=False)
    check_store(kept)
    assert kept.take_operations() == [Drop(1)]
    assert kept.disk_len(kept.match(path(range(20)))) == 0
    assert kept.disk_bytes == 0


def test_file_is_loaded_once_for_all_who_wait_for_it():
    kept = store(host_tokens=20, disk_tokens=100)
    keep(kept, path(range(20)))
    file_id = on_disk(kept, path(range(100, 120)))
    wanted = kept.match(path(range(20)))
    assert kept.load(wanted, 20) == kept.load(wanted, 20) == {file_id}
    load = loaded(kept)
    kept.note_read(file_id, load.segment_id, is_good=True)
    check_store(kept)
    assert host_len(kept, path(range(20))) == 20


def test_file_that_cannot_be_read_is_forgotten():
    kept = store(host_tokens=20, disk_tokens=100)
    keep(kept, path(range(20)))
    file_id = on_disk(kept, path(range(100, 120)))
    kept.load(kept.match(path(range(20))), 20)
    load = loaded(kept)
    kept.note_read(file_id, load.segment_id, is_good=False)
    check_store(kept)
    assert kept.disk_len(kept.match(path(range(20)))) == 0


def test_loaded_run_leaves_host_memory_again_without_being_written():
    kept = store(host_tokens=20, disk_tokens=100)
    keep(kept, path(range(20)))
    file_id = on_disk(kept, path(range(100, 120)))
    kept.load(kept.match(path(range(20))), 20)
    load = loaded(kept)
    kept.note_read(file_id, load.segment_id, is_good=True)
    kept.take_operations()
    kinds = [type(operation) for operation in keep(kept, path(range(300, 320)))]
    assert Archive not in kinds
    assert kept.disk_len(kept.match(path(range(20)))) == 20


def test_file_of_a_run_that_was_split_since_fills_both_parts():
    kept = store(host_tokens=20, disk_tokens=100)
    keep(kept, path(range(20)))
    file_id = on_disk(kept, path(range(100, 120)))
    keep(kept, path([*range(8), *range(50, 60)]))
    kept.load(kept.match(path(range(20))), 20)
    load = loaded(kept)
    kept.note_read(file_id, load.segment_id, is_good=True)
    check_store(kept)
    assert host_len(kept, path(range(20))) == 20


def test_least_recently_used_file_goes_first():
    kept = store(host_tokens=20, disk_tokens=40)
    first = 0
    keep(kept, path(range(20)))
    for number in (1, 2, 3):
        file_id = on_disk(kept, path(range(100 * number, 100 * number + 20)))
        first = first or file_id
    assert kept.disk_len(kept.match(path(range(20)))) == 0
    assert kept.disk_bytes <= 40 * 8
    assert first not in kept._files


def test_files_of_an_earlier_process_are_found():
    kept = store(disk_tokens=100)
    whole = path(range(30)).tokens
    kept.adopt(7, Origin("a", 0, whole[:20], 0, ()), used_at=-20)
    kept.adopt(9, Origin("a", 0, whole, 20, (("a", "talk"),)), used_at=-10)
    check_store(kept)
    assert kept.disk_len(kept.match(path(range(30), label="a"))) == 30
    assert kept.disk_len(kept.match(path(range(30), label="b"))) == 0
    assert list(kept.sessions) == [(("a", "talk"), 30)]
    assert kept.new_segment() > 9


def test_second_file_of_the_same_tokens_is_erased():
    kept = store(disk_tokens=100)
    tokens = path(range(20)).tokens
    kept.adopt(1, Origin("", 0, tokens, 0, ()), used_at=-2)
    kept.adopt(2, Origin("", 0, tokens, 0, ()), used_at=-1)
    check_store(kept)
    assert kept.take_operations() == [Erase(2)]


def test_everything_that_is_in_memory_only_is_written_at_the_end():
    kept = store(disk_tokens=100)
    keep(kept, path(range(20)))
    keep(kept, path(range(100, 120)))
    kept.flush()
    archived = [each.segment_id for each in kept.take_operations() if isinstance(each, Archive)]
    assert sorted(archived) == [1, 2]
    check_store(kept)


def test_unused_tokens_expire():
    kept = store(disk_tokens=100)
    keep(kept, path(range(20)))
    kept.now = 10
    keep(kept, path(range(100, 120)))
    kept.expire(5)
    check_store(kept)
    assert kept.take_operations() == [Drop(1)]
    assert host_len(kept, path(range(100, 120))) == 20


def test_session_is_freed_but_for_what_others_share():
    kept = store()
    for session, own in (("x", 50), ("y", 70)):
        run = path([*range(20), *range(own, own + 10)])
        keep(kept, run)
        node = kept.note_slot(run)
        assert node is not None
        kept.sessions.add(("a", session), node)
        kept.forget_slot(node)
    assert kept.forget(("a", "x")) == 10
    check_store(kept)
    assert host_len(kept, path([*range(20), *range(50, 60)])) == 20
    assert host_len(kept, path([*range(20), *range(70, 80)])) == 30
    assert kept.forget(("a", "y")) == 30
    assert kept.host_bytes == 0


def test_unknown_session_frees_nothing():
    assert store().forget(("a", "x")) == 0


def test_session_on_disk_is_erased():
    kept = store(disk_tokens=100)
    kept.adopt(1, Origin("a", 0, path(range(20)).tokens, 0, (("a", "talk"),)), used_at=-1)
    assert kept.forget(("a", "talk")) == 20
    check_store(kept)
    assert kept.take_operations() == [Erase(1)]


def test_session_whose_end_left_still_owns_its_beginning():
    kept = store(host_tokens=40)
    keep(kept, path(range(20)))
    run = path(range(40))
    keep(kept, run)
    node = kept.note_slot(run)
    assert node is not None
    kept.sessions.add(("a", "x"), node)
    kept.forget_slot(node)
    keep(kept, path(range(100, 120)))
    assert host_len(kept, run) == 20
    assert kept.forget(("a", "x")) == 20
    assert host_len(kept, run) == 0


def test_session_of_two_runs_in_one_file_is_freed_whole():
    kept = store(disk_tokens=100)
    kept.adopt(1, Origin("a", 0, path(range(30)).tokens, 0, (("a", "x"),)), used_at=-1)
    for run in (path(range(10), label="a"), path(range(20), label="a")):
        node = kept.note_slot(run)
        assert node is not None
        kept.sessions._put(("a", "x"), node)
        kept.forget_slot(node)
    check_store(kept)
    kept.forget(("a", "x"))
    check_store(kept)
    assert len(kept.sessions) == 0
    assert kept.disk_bytes == 0


def test_slots_run_stays_what_it_is_when_the_file_of_its_beginning_is_gone():
    kept = store(disk_tokens=100)
    kept.adopt(1, Origin("", 0, path(range(20)).tokens, 0, ()), used_at=-1)
    run = path([*range(8), *range(50, 60)])
    node = kept.note_slot(run)
    kept.load(kept.match(path(range(20))), 20)
    kept.note_read(1, loaded(kept).segment_id, is_good=False)
    check_store(kept)
    assert node is not None
    assert (node.start, node.tokens) == (0, run.tokens)


def test_names_of_sessions_whose_ends_left_do_not_pile_up_at_what_they_shared():
    kept = store(host_tokens=60)
    for number in range(50):
        run = path([*range(20), *range(1000 * (number + 1), 1000 * (number + 1) + 10)])
        keep(kept, run)
        node = kept.note_slot(run)
        assert node is not None
        kept.sessions.add(("a", str(number)), node)
        kept.forget_slot(node)
        check_store(kept)
    assert len(kept.sessions) <= 5


def test_file_of_a_beginning_names_the_sessions_that_go_on_from_it():
    kept = store(host_tokens=40, disk_tokens=100)
    keep(kept, path(range(20)))
    run = path(range(40))
    keep(kept, run)
    node = kept.note_slot(run)
    assert node is not None
    kept.sessions.add(("a", "x"), node)
    kept.forget_slot(node)
    kept.flush()
    archives = [each for each in kept.take_operations() if isinstance(each, Archive)]
    assert [each.origin.sessions for each in archives] == [(("a", "x"),)] * 2


def test_files_make_room_for_what_is_written_at_the_end():
    kept = store(host_tokens=100, disk_tokens=60)
    for number in (1, 2, 3):
        run = path(range(100 * number, 100 * number + 20))
        kept.adopt(number, Origin("", 0, run.tokens, 0, ()), used_at=-9)
    keep(kept, path(range(20)))
    keep(kept, path(range(2000, 2020)))
    kept.flush()
    check_store(kept)
    assert kept.disk_bytes <= 60 * 8
    assert kept.disk_len(kept.match(path(range(100, 120)))) == 0
