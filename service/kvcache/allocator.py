"""The slot allocator: who holds which slot, what idle slots still hold, and how to reuse it.

    class 0   [ run ][ run ][ run ][ idle: tokens kept ][ idle ]      slots are kept dense:
              |---- one pass -----|                                   a new owner gets the lowest

A slot's tokens are exactly the tokens that its cells hold. An idle slot keeps them until the slot
is needed; then they go to the store, if they are worth it.
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
    """A llama sequence id with cells of its own; `tokens` are what the cells hold while idle."""

    class_index: int
    index: int
    length: int
    owner: int | None = None
    tenant: str = ""
    tokens: Tokens = field(default_factory=make_tokens)


@dataclass(frozen=True, slots=True)
class Acquired:
    """A slot whose cells hold the first `num_cached` tokens of what it was acquired for."""

    slot: Slot
    num_cached: int


class SlotAllocator:
    """Owns every slot of a worker. Operations pile up in order until `take_operations`."""

    def __init__(self, classes: tuple[SizeClass, ...], store: SnapshotStore) -> None:
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

    @property
    def max_len(self) -> int:
        return self.classes[-1][0].length

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
        wanted = tokens[:-1]
        source, length = self._find_prefix(slot, tenant, wanted)
        if source is slot:
            self._reuse_in_place(slot, length)
        else:
            self._fill_from(source, slot, length)
        slot.owner, slot.tenant, slot.tokens = owner, tenant, make_tokens()
        self._num_idle[class_index] -= 1
        return Acquired(slot, length)

    def release(self, slot: Slot, tokens: Tokens) -> None:
        """Take a slot back; its cells hold exactly `tokens`, which stay reusable."""
        slot.owner = None
        slot.tokens = tokens
        self._num_idle[slot.class_index] += 1

    def find_hole(self, class_index: int) -> tuple[Slot, Slot] | None:
        """The lowest idle slot and the highest running one, if the first is below the second."""
        slots = self.classes[class_index]
        hole = next((slot for slot in slots if slot.owner is None), None)
        last = next((slot for slot in reversed(slots) if slot.owner is not None), None)
        if hole is None or last is None or last.index < hole.index:
            return None
        return hole, last

    def move(self, source: Slot, target: Slot, num_tokens: int) -> None:
        """Move a running sequence of `num_tokens` computed tokens into an idle slot."""
        dropped = self._displace(target)
        self._copy(source, target, num_tokens)
        self._operations += [Truncate(source.class_index, source.index, 0), *dropped]
        target.owner, target.tenant, target.tokens = source.owner, source.tenant, make_tokens()
        source.owner, source.tokens = None, make_tokens()

    def make_room(self, slot: Slot) -> int:
        """Where a filler row of an idle slot goes; a full slot gives up its last token for it."""
        if len(slot.tokens) == slot.length:
            slot.tokens = slot.tokens[:-1]
            self._operations.append(Truncate(slot.class_index, slot.index, len(slot.tokens)))
        return len(slot.tokens)

    def take_operations(self) -> list[SlotOperation]:
        operations, self._operations = self._operations, []
        return operations

    def _find_prefix(
        self, target: Slot, tenant: str, tokens: Tokens
    ) -> tuple[Slot | StoredRun | None, int]:
        own = common_prefix_len(target.tokens, tokens) if target.tenant == tenant else 0
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
                if slot is not target and _can_fill(slot, target, tenant):
                    length = common_prefix_len(slot.tokens, tokens)
                    if length > best_len:
                        best, best_len = slot, length
        return best, best_len

    def _reuse_in_place(self, slot: Slot, length: int) -> None:
        if length == len(slot.tokens):
            return
        dropped = self._displace(slot) if len(slot.tokens) - length >= MIN_REUSE else []
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
        snapshot_id = self.store.new_id()
        self._operations += [
            Save(source.class_index, source.index, snapshot_id),
            Restore(target.class_index, target.index, snapshot_id, num_tokens),
            Drop(snapshot_id),
        ]

    def _displace(self, slot: Slot) -> list[Drop]:
        """Save what an idle slot holds, if it is worth it; what the store gives up for it."""
        if len(slot.tokens) < MIN_REUSE:
            return []
        snapshot_id, dropped = self.store.put(slot.tenant, slot.tokens)
        if snapshot_id is not None:
            self._operations.append(Save(slot.class_index, slot.index, snapshot_id))
        return [Drop(dropped_id) for dropped_id in dropped]


def _can_fill(source: Slot, target: Slot, tenant: str) -> bool:
    """A snapshot is restored whole and then truncated, so all of it must fit."""
    return source.owner is None and source.tenant == tenant and len(source.tokens) <= target.length


def _is_worth_copying(source: Slot | StoredRun, length: int, own: int) -> bool:
    gain = length - own
    return gain >= MIN_REUSE and gain * COPY_RATIO >= len(source.tokens)
