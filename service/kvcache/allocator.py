"""The slot allocator: who holds which slot, what idle slots still hold, and how to reuse it.

    class 0   [ run ][ run ][ run ][ idle: tokens kept ][ idle ]      slots are kept dense:
              |---- one pass -----|                                   a new owner gets the lowest

A slot's cells hold exactly the first `num_held` of its tokens. An idle slot keeps them until it is
needed; then they go to the store, if they are worth it. A prefix is reused from wherever it is: an
idle slot, a running one, the store.
"""

from dataclasses import dataclass, field

from service.core.plan import Drop, Restore, Save, SlotOperation, Tokens, Truncate, make_tokens
from service.kvcache.prefix import common_prefix_len
from service.kvcache.size_class import SizeClass
from service.kvcache.store import SnapshotStore, StoredRun

MIN_REUSE = 16
"""Tokens. A shorter prefix is not worth a copy; one in the slot itself always is."""
COPY_RATIO = 32
"""Copying a token's cells out and in again costs less than a thirty-second of computing it
(measured: 1/60 on SmolLM2-135M, 1/120 on SmolLM3-3B)."""


@dataclass(slots=True, kw_only=True)
class Slot:
    """A llama sequence id with cells of its own, which hold the first `num_held` of `tokens`.

    While it has an owner, `tokens` is the owner's own growing array.
    """

    class_index: int
    index: int
    length: int
    owner: int | None = None
    tenant: str = ""
    tokens: Tokens = field(default_factory=make_tokens)
    num_held: int = 0

    def clear(self) -> None:
        self.tokens, self.num_held = make_tokens(), 0

    def common_prefix_len(self, tokens: Tokens) -> int:
        """How many leading tokens its cells share with `tokens`."""
        return min(common_prefix_len(self.tokens, tokens), self.num_held)


@dataclass(frozen=True, slots=True)
class Acquired:
    """A slot whose cells hold the first `num_cached` tokens of what it was acquired for."""

    slot: Slot
    num_cached: int


class SlotAllocator:
    """Owns every slot of a worker. Operations pile up in order until `take_operations`."""

    def __init__(
        self, classes: tuple[SizeClass, ...], store: SnapshotStore, *, can_copy: bool = True
    ) -> None:
        """Without `can_copy`, tokens are reused only in the slot that holds them."""
        self._can_copy = can_copy
        self.store = store
        self.classes = [
            [
                Slot(class_index=class_index, index=index, length=size.slot_len)
                for index in range(size.num_slots)
            ]
            for class_index, size in enumerate(classes)
        ]
        self._num_idle = [size.num_slots for size in classes]
        self._operations: list[SlotOperation] = []
        self._copies: dict[tuple[int, int], int] = {}
        """Snapshots that live as long as these operations, by class and index of their slot."""

    @property
    def max_len(self) -> int:
        return self.classes[-1][0].length

    @property
    def num_slots(self) -> int:
        return sum(map(len, self.classes))

    def smallest_class(self, num_tokens: int) -> int:
        """The class whose slots hold `num_tokens` with the least to spare."""
        for class_index, slots in enumerate(self.classes):
            if slots[0].length >= num_tokens:
                return class_index
        return len(self.classes) - 1

    def has_idle(self, class_index: int) -> bool:
        return self._num_idle[class_index] > 0

    def num_running(self, class_index: int) -> int:
        return len(self.classes[class_index]) - self._num_idle[class_index]

    def acquire(self, owner: int, class_index: int, tenant: str, tokens: Tokens) -> Acquired:
        """Give `owner` the lowest idle slot of a class, with the longest usable prefix in it.

        At least one of `tokens` is left to compute, so that there are logits to draw from.
        """
        slot = next(slot for slot in self.classes[class_index] if slot.owner is None)
        source, length = self._find_prefix(slot, tenant, tokens[:-1])
        if source is slot:
            self._reuse_in_place(slot, length)
        else:
            self._fill_from(source, slot, length)
        self._forget_copy(slot)
        slot.owner, slot.tenant, slot.tokens, slot.num_held = owner, tenant, tokens, length
        self._num_idle[class_index] -= 1
        return Acquired(slot, length)

    def release(self, slot: Slot) -> None:
        """Take a slot back; what its cells hold stays reusable."""
        slot.owner = None
        self._num_idle[slot.class_index] += 1

    def find_cached_len(self, tenant: str, tokens: Tokens) -> int:
        """The longest prefix of `tokens` that some slot or the store holds."""
        longest = self.classes[-1][0].length
        _, stored = self.store.find_longest(tenant, tokens, max_len=longest)
        held = (
            slot.common_prefix_len(tokens)
            for slots in self.classes
            for slot in slots
            if slot.tenant == tenant
        )
        return max(stored, *held)

    def find_hole(self, class_index: int) -> tuple[Slot, Slot] | None:
        """The lowest idle slot and the highest running one, if the first is below the second.

        None as well when the running one could not be moved.
        """
        if not self._can_copy:
            return None
        slots = self.classes[class_index]
        hole = next((slot for slot in slots if slot.owner is None), None)
        last = next((slot for slot in reversed(slots) if slot.owner is not None), None)
        if hole is None or last is None or last.index < hole.index:
            return None
        return hole, last

    def move(self, source: Slot, target: Slot) -> None:
        """Move a running sequence into an idle slot."""
        dropped = self._displace(target)
        self._copy(source, target, source.num_held)
        self._operations += [Truncate(source.class_index, source.index, 0), *dropped]
        self._forget_copy(source)
        self._forget_copy(target)
        target.owner, target.tenant = source.owner, source.tenant
        target.tokens, target.num_held = source.tokens, source.num_held
        source.owner = None
        source.clear()

    def make_room(self, slot: Slot) -> int:
        """Where a filler row of an idle slot goes; a full slot gives up its last token for it."""
        if slot.num_held == slot.length:
            slot.num_held -= 1
            self._operations.append(Truncate(slot.class_index, slot.index, slot.num_held))
        return slot.num_held

    def take_operations(self) -> list[SlotOperation]:
        self._operations += [Drop(snapshot_id) for snapshot_id in self._copies.values()]
        self._copies.clear()
        operations, self._operations = self._operations, []
        return operations

    def _find_prefix(
        self, target: Slot, tenant: str, tokens: Tokens
    ) -> tuple[Slot | StoredRun | None, int]:
        own = target.common_prefix_len(tokens) if target.tenant == tenant else 0
        if not self._can_copy:
            return (target, own) if own else (None, 0)
        source, length = self._find_elsewhere(target, tenant, tokens)
        if source is not None and length > own and _is_worth_copying(source, length, own):
            return source, length
        return (target, own) if own else (None, 0)

    def _find_elsewhere(
        self, target: Slot, tenant: str, tokens: Tokens
    ) -> tuple[Slot | StoredRun | None, int]:
        best: Slot | StoredRun | None
        best, best_len = self.store.find_longest(tenant, tokens, max_len=target.length)
        for slots in self.classes:
            for slot in slots:
                # A snapshot is restored whole and then truncated, so all of it must fit.
                if slot is not target and slot.tenant == tenant and slot.num_held <= target.length:
                    length = slot.common_prefix_len(tokens)
                    if length > best_len:
                        best, best_len = slot, length
        return best, best_len

    def _reuse_in_place(self, slot: Slot, length: int) -> None:
        if length == slot.num_held:
            return
        dropped = self._displace(slot) if slot.num_held - length >= MIN_REUSE else []
        self._operations += [Truncate(slot.class_index, slot.index, length), *dropped]

    def _fill_from(self, source: Slot | StoredRun | None, slot: Slot, length: int) -> None:
        if isinstance(source, StoredRun):
            self.store.touch(source.snapshot_id)
        dropped = self._displace(slot)
        if source is None:
            self._operations.append(Truncate(slot.class_index, slot.index, 0))
        elif isinstance(source, Slot):
            self._copy(source, slot, length)
        else:
            self._operations.append(
                Restore(slot.class_index, slot.index, source.snapshot_id, length)
            )
        # Dropped last: the run that was just restored may be among the evicted.
        self._operations += dropped

    def _copy(self, source: Slot, target: Slot, num_tokens: int) -> None:
        """Copy a slot's first tokens; several copies of one slot in a step share a snapshot."""
        snapshot_id = self._copies.get((source.class_index, source.index))
        if snapshot_id is None:
            snapshot_id = self.store.new_id()
            self._copies[source.class_index, source.index] = snapshot_id
            self._operations.append(Save(source.class_index, source.index, snapshot_id))
        self._operations.append(Restore(target.class_index, target.index, snapshot_id, num_tokens))

    def _forget_copy(self, slot: Slot) -> None:
        """What a slot holds changes, so that a copy of it is no longer one."""
        snapshot_id = self._copies.pop((slot.class_index, slot.index), None)
        if snapshot_id is not None:
            self._operations.append(Drop(snapshot_id))

    def _displace(self, slot: Slot) -> list[Drop]:
        """Save what an idle slot holds, if it is worth it; what the store gives up for it."""
        if slot.num_held < MIN_REUSE or not self._can_copy:
            return []
        snapshot_id, dropped = self.store.put(slot.tenant, slot.tokens[: slot.num_held])
        if snapshot_id is not None:
            self._operations.append(Save(slot.class_index, slot.index, snapshot_id))
        return [Drop(dropped_id) for dropped_id in dropped]


def _is_worth_copying(source: Slot | StoredRun, length: int, own: int) -> bool:
    num_copied = source.num_held if isinstance(source, Slot) else len(source.tokens)
    gain = length - own
    return gain >= MIN_REUSE and gain * COPY_RATIO >= num_copied
