"""Who gets which slot, and with what in it."""

from service.core.plan import Cut, Drop, Restore, Save, Truncate
from service.kvcache.allocator import SlotAllocator
from service.kvcache.size_class import parse_size_classes
from service.kvcache.store import SnapshotStore
from tests.kvcache.invariants import check_store
from tests.kvcache.test_tree import path


def allocator(classes="3x64,1x128", *, budget=1000, can_copy=True):
    store = SnapshotStore(host_bytes=budget, bytes_per_token=1)
    return SlotAllocator(parse_size_classes(classes), store, can_copy=can_copy)


def start(slots, owner, run, class_index=0, **options):
    acquired = slots.acquire(owner, class_index, run, **options)
    check_store(slots.store)
    return acquired


def compute(slots, owner, run, class_index=0, **options):
    """A sequence that has computed all of `run` and still runs."""
    slot = start(slots, owner, run, class_index, **options).slot
    slot.num_held = len(run.tokens)
    return slot


def finish(slots, owner, run, **options):
    """A sequence that has computed `run` and ended."""
    slot = compute(slots, owner, run, **options)
    slots.release(slot)
    check_store(slots.store)
    slots.take_operations()
    return slot


def talk(number, length=40, label=""):
    return path(range(1000 * number, 1000 * number + length), label=label)


def more(run, *tokens):
    return path([*run.tokens, *tokens], label=run.label)


def test_smallest_class_that_fits_is_chosen_and_the_largest_takes_the_rest():
    slots = allocator()
    assert [slots.smallest_class(length) for length in (1, 64, 65, 128, 999)] == [0, 0, 1, 1, 1]


def test_running_slots_stand_together():
    slots = allocator("5x64")
    first, middle, last = (compute(slots, owner, talk(owner)) for owner in (1, 2, 3))
    slots.release(middle)
    assert [first.index, last.index] == [0, 2]
    assert start(slots, 4, talk(4)).slot is middle


def test_empty_slot_is_taken_before_one_that_holds_tokens():
    slots = allocator()
    finish(slots, 1, talk(1))
    assert start(slots, 2, talk(2)).slot.index == 1
    assert slots.take_operations() == []


def test_slot_with_the_oldest_content_is_taken_first():
    slots = allocator("2x64")
    held = []
    for owner in (1, 2):
        slots.store.now = owner
        held.append(finish(slots, owner, talk(owner)))
    assert start(slots, 3, talk(3)).slot is held[0]


def test_slot_that_still_holds_the_prefix_is_taken_and_nothing_is_copied():
    slots = allocator()
    finish(slots, 1, talk(1))
    held = finish(slots, 2, talk(2))
    acquired = start(slots, 3, more(talk(2), 5))
    assert (acquired.slot, acquired.num_cached) == (held, 40)
    assert slots.take_operations() == []


def test_of_a_slot_that_holds_more_the_rest_is_kept_in_the_store():
    slots = allocator("1x64")
    finish(slots, 1, talk(1))
    acquired = start(slots, 2, path([*talk(1, 20).tokens, 7, 8]))
    assert acquired.num_cached == 20
    assert slots.take_operations()[:2] == [Save(0, 0, (Cut(0, 40, 1),)), Truncate(0, 0, 20)]


def test_last_token_is_always_left_to_compute():
    slots = allocator()
    finish(slots, 1, talk(1))
    assert start(slots, 2, talk(1)).num_cached == 39


def test_what_an_idle_slot_held_goes_to_the_store_and_comes_back():
    slots = allocator("1x64")
    finish(slots, 1, talk(1))
    finish(slots, 2, talk(2))
    assert start(slots, 3, more(talk(1), 5)).num_cached == 40
    assert slots.take_operations()[-1] == Restore(0, 0, (1,), 40)


def test_longer_run_in_the_store_is_cropped_into_a_shorter_slot():
    slots = allocator("1x64,1x128")
    finish(slots, 1, talk(1, 100), class_index=1)
    finish(slots, 2, talk(2, 100), class_index=1)
    assert start(slots, 3, path([*talk(1, 50).tokens, 7])).num_cached == 50


def test_prefix_that_a_running_sequence_has_computed_is_copied_and_kept():
    slots = allocator()
    compute(slots, 1, talk(1))
    acquired = start(slots, 2, more(talk(1), 5))
    assert acquired.num_cached == 40
    save, restore = slots.take_operations()
    assert isinstance(save, Save)
    assert isinstance(restore, Restore)
    assert slots.store.host_bytes == 40
    assert acquired.source == "shared"


def test_several_who_share_a_running_prefix_need_one_save():
    slots = allocator("4x64")
    compute(slots, 1, talk(1))
    for owner in (2, 3, 4):
        start(slots, owner, more(talk(1), owner))
    kinds = [type(operation) for operation in slots.take_operations()]
    assert kinds == [Save, Restore, Restore, Restore]


def test_without_a_store_a_running_prefix_is_copied_for_the_step_only():
    slots = allocator("4x64", budget=0)
    compute(slots, 1, talk(1))
    for owner in (2, 3):
        assert start(slots, owner, more(talk(1), owner)).num_cached == 40
    kinds = [type(operation) for operation in slots.take_operations()]
    assert kinds == [Save, Restore, Restore, Drop]


def test_who_is_about_to_compute_a_shared_prefix_is_found():
    slots = allocator()
    run = talk(1)
    start(slots, 1, run)
    wanted = more(talk(1, 30), 7, 8)
    assert slots.find_provider(wanted, 20) == (1, 30)
    assert slots.find_provider(wanted, 31) is None
    assert slots.find_provider(talk(2), 1) is None


def test_nobody_provides_what_is_there_already():
    slots = allocator()
    compute(slots, 1, talk(1))
    assert slots.find_provider(more(talk(1), 7), 1) is None


def test_another_labels_tokens_are_never_reused():
    slots = allocator("1x64")
    finish(slots, 1, talk(1, label="a"))
    assert start(slots, 2, talk(1, label="b")).num_cached == 0
    assert slots.take_operations()[-1] == Truncate(0, 0, 0)
    assert slots.find_provider(talk(1, label="a"), 1) is None


def test_public_prefix_of_another_label_is_reused_and_nothing_after_it():
    slots = allocator("2x64")
    tokens = range(40)
    finish(slots, 1, path(tokens, "a", num_public=25))
    assert start(slots, 2, path(tokens, "b", num_public=25)).num_cached == 25


def test_restored_run_may_be_the_one_that_leaves_for_its_place():
    slots = allocator("1x64", budget=40)
    finish(slots, 1, talk(1))
    finish(slots, 2, talk(2))
    assert start(slots, 3, more(talk(1), 5)).num_cached == 40
    kinds = [type(operation) for operation in slots.take_operations()]
    assert kinds.index(Restore) < kinds.index(Drop)


def test_without_copies_only_the_slot_itself_is_reused():
    slots = allocator("2x64", can_copy=False)
    first = compute(slots, 1, talk(1))
    compute(slots, 2, talk(2))
    slots.release(first)
    assert slots.close_hole(0, lambda _: 100) is None
    assert slots.find_provider(talk(2), 1) is None
    assert start(slots, 3, more(talk(2), 1)).num_cached == 0
    assert slots.take_operations() == [Truncate(0, 0, 0)]


def test_moving_into_a_hole_takes_the_tokens_along_and_empties_the_old_slot():
    slots = allocator()
    first, middle, last = (compute(slots, owner, talk(owner, 20)) for owner in (1, 2, 3))
    slots.release(middle)
    slots.take_operations()
    move = slots.close_hole(0, lambda _: 100)
    assert move is not None
    source, target = move
    assert {source, target} <= {first, middle, last}
    assert target is middle
    assert (source.owner, source.num_held, target.num_held) == (None, 0, 20)
    assert Truncate(0, source.index, 0) in slots.take_operations()
    assert slots.close_hole(0, lambda _: 100) is None
    check_store(slots.store)


def test_sequence_that_has_computed_nothing_is_moved_without_a_copy():
    slots = allocator()
    _, middle, _ = (start(slots, owner, talk(owner, 20)).slot for owner in (1, 2, 3))
    slots.release(middle)
    assert slots.close_hole(0, lambda _: 100) is not None
    assert slots.take_operations() == []


def test_sequence_that_ends_soon_is_not_moved():
    slots = allocator()
    slots.costs.save_seconds = 10 * slots.costs.row_seconds
    _, middle, _ = (compute(slots, owner, talk(owner, 20)) for owner in (1, 2, 3))
    slots.release(middle)
    assert slots.close_hole(0, lambda _: 3) is None


def test_session_finds_its_own_tokens_and_is_freed():
    slots = allocator()
    finish(slots, 1, talk(1, label="a"), session=("a", "x"))
    again = start(slots, 2, more(talk(1, label="a"), 5), session=("a", "x"))
    assert (again.num_cached, again.source) == (40, "session")
    slots.release(slots.classes[0][0])
    assert slots.forget(("a", "x")) == 40
    check_store(slots.store)
    assert start(slots, 3, more(talk(1, label="a"), 5)).num_cached == 0


def test_session_of_the_same_name_of_another_tenant_stays():
    slots = allocator()
    finish(slots, 1, talk(1, label="a"), session=("a", "x"))
    assert slots.forget(("b", "x")) == 0
    assert start(slots, 2, more(talk(1, label="a"), 5)).num_cached == 40


def test_unused_slots_are_emptied_and_the_next_time_to_look_is_known():
    slots = allocator()
    slots.store.ttl_seconds = 10
    finish(slots, 1, talk(1))
    slots.store.now = 5
    finish(slots, 2, talk(2))
    slots.store.now = 12
    assert slots.expire() == 15
    assert slots.take_operations() == [Truncate(0, 0, 0)]


def test_idle_slots_are_saved_at_the_end():
    store = SnapshotStore(host_bytes=1000, disk_bytes=1000, bytes_per_token=1)
    slots = SlotAllocator(parse_size_classes("3x64"), store)
    finish(slots, 1, talk(1))
    slots.flush()
    kinds = [type(operation).__name__ for operation in slots.take_operations()]
    assert kinds == ["Save", "Archive"]
