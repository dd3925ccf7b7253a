from service.core.plan import Drop, Restore, Save, Tokens, Truncate, make_tokens
from service.kvcache.allocator import Slot, SlotAllocator
from service.kvcache.size_class import parse_size_classes
from service.kvcache.store import SnapshotStore


def allocator(classes: str = "3x64,1x128", *, budget: int = 1000) -> SlotAllocator:
    store = SnapshotStore(budget_bytes=budget, bytes_per_token=1)
    return SlotAllocator(parse_size_classes(classes), store)


def run(start: int, length: int) -> Tokens:
    return make_tokens(list(range(start, start + length)))


def finish(slots: SlotAllocator, slot: Slot, tokens: Tokens) -> None:
    """Release a slot whose owner has computed `tokens`."""
    slot.tokens, slot.num_held = tokens, len(tokens)
    slots.release(slot)


def test_new_owner_gets_the_lowest_idle_slot():
    slots = allocator()
    first, second = (slots.acquire(owner, 0, "", run(owner, 4)).slot for owner in (100, 200))
    finish(slots, first, run(100, 4))
    assert slots.acquire(300, 0, "", run(300, 4)).slot is first
    assert second.index == 1


def test_smallest_class_that_fits_is_chosen_and_the_largest_takes_the_rest():
    slots = allocator()
    assert [slots.smallest_class(length) for length in (1, 64, 65, 128, 999)] == [0, 0, 1, 1, 1]


def test_slot_that_still_holds_the_prefix_is_truncated_to_it():
    slots = allocator()
    slot = slots.acquire(1, 0, "", run(0, 30)).slot
    finish(slots, slot, run(0, 30))
    slots.take_operations()
    acquired = slots.acquire(2, 0, "", run(0, 20) + run(500, 5))
    assert acquired.num_cached == 20
    assert slots.take_operations() == [Truncate(0, 0, 20)]


def test_last_token_is_always_left_to_compute():
    slots = allocator()
    slot = slots.acquire(1, 0, "", run(0, 30)).slot
    finish(slots, slot, run(0, 30))
    assert slots.acquire(2, 0, "", run(0, 30)).num_cached == 29


def test_prefix_in_another_idle_slot_is_copied():
    slots = allocator()
    held = [slots.acquire(owner, 0, "", run(1000 * owner, 40)).slot for owner in (0, 1)]
    for owner, slot in enumerate(held):
        finish(slots, slot, run(1000 * owner, 40))
    slots.take_operations()
    acquired = slots.acquire(2, 0, "", run(1000, 40) + run(7000, 4))
    assert (acquired.slot.index, acquired.num_cached) == (0, 40)
    assert slots.take_operations() == [Save(0, 0, 1), Save(0, 1, 2), Restore(0, 0, 2, 40), Drop(2)]


def test_what_an_idle_slot_held_goes_to_the_store_and_comes_back():
    slots = allocator("1x64")
    slot = slots.acquire(1, 0, "", run(0, 40)).slot
    finish(slots, slot, run(0, 40))
    slot = slots.acquire(2, 0, "", run(500, 40)).slot
    finish(slots, slot, run(500, 40))
    slots.take_operations()
    assert slots.acquire(3, 0, "", run(0, 41)).num_cached == 40
    assert isinstance(slots.take_operations()[-1], Restore)


def test_without_copies_only_the_slot_itself_is_reused():
    store = SnapshotStore(budget_bytes=1000, bytes_per_token=1)
    slots = SlotAllocator(parse_size_classes("2x64"), store, can_copy=False)
    for owner in (0, 1):
        slots.acquire(owner, 0, "", run(1000 * owner, 40))
    finish(slots, slots.classes[0][0], run(0, 40))
    slots.take_operations()
    assert slots.find_hole(0) is None
    assert slots.acquire(2, 0, "", run(1000, 41)).num_cached == 0
    assert slots.take_operations() == [Truncate(0, 0, 0)]
    finish(slots, slots.classes[0][0], run(0, 40))
    assert slots.acquire(3, 0, "", run(0, 41)).num_cached == 40


def test_short_prefix_elsewhere_is_not_worth_a_copy():
    slots = allocator()
    for owner in (0, 1):
        slots.acquire(owner, 0, "", run(1000 * owner, 8))
    finish(slots, slots.classes[0][1], run(1000, 8))
    assert slots.acquire(2, 0, "", run(1000, 9)).num_cached == 8  # in place
    finish(slots, slots.classes[0][0], run(0, 8))
    finish(slots, slots.classes[0][1], run(1000, 8))
    assert slots.acquire(3, 0, "", run(1000, 9)).num_cached == 0


def test_another_tenants_slot_is_cleared_and_never_reused():
    slots = allocator("1x64")
    slot = slots.acquire(1, 0, "a", run(0, 40)).slot
    finish(slots, slot, run(0, 40))
    slots.take_operations()
    assert slots.acquire(2, 0, "b", run(0, 40)).num_cached == 0
    assert slots.take_operations()[-1] == Truncate(0, 0, 0)


def test_restored_run_may_be_the_one_that_is_evicted_for_its_place():
    slots = allocator("1x64", budget=40)
    for owner in (0, 1):
        slot = slots.acquire(owner, 0, "", run(1000 * owner, 40)).slot
        finish(slots, slot, run(1000 * owner, 40))
    slots.take_operations()
    assert slots.acquire(2, 0, "", run(0, 41)).num_cached == 40
    save, restore, drop = slots.take_operations()
    assert isinstance(save, Save)
    assert isinstance(restore, Restore)
    assert drop == Drop(restore.snapshot_id)


def test_moving_down_fills_the_hole_and_empties_the_old_slot():
    slots = allocator()
    first, second = (slots.acquire(owner, 0, "", run(100 * owner, 20)).slot for owner in (1, 2))
    finish(slots, first, make_tokens())
    assert slots.find_hole(0) == (first, second)
    second.num_held = 20
    slots.move(second, first)
    assert (first.owner, second.owner) == (2, None)
    assert slots.find_hole(0) is None
    copied, emptied, dropped = slots.take_operations()[-3:]
    assert isinstance(copied, Restore)
    assert (copied.slot, copied.num_tokens) == (0, 20)
    assert emptied == Truncate(0, 1, 0)
    assert dropped == Drop(copied.snapshot_id)
