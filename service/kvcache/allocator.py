"""The slot allocator: who holds which slot, what idle slots still hold, and how to reuse it.

    class 0   [ idle ][ run ][ run ][ run ][ idle: tokens kept ]      running slots stand together:
                      |---- one pass -----|                           each gap costs every step

A slot's cells hold exactly the first `num_held` of its tokens. An idle slot keeps them until it is
needed; then they go to the store, if they are worth it. A prefix is reused from wherever it costs
least: the slot itself, the store, another slot, also one whose sequence still runs.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from service.core.plan import (
    CopyTime,
    Cut,
    Drop,
    Restore,
    Save,
    SlotOperation,
    Tokens,
    Truncate,
    make_tokens,
)
from service.kvcache.counters import Source
from service.kvcache.density import added_bridging, bridging, find_holes
from service.kvcache.size_class import SizeClass
from service.kvcache.store import SnapshotStore
from service.kvcache.tree import Match, Node, Path, SessionKey


@dataclass(slots=True, kw_only=True, eq=False)
class Slot:
    """A llama sequence id with cells of its own, which hold the first `num_held` of `tokens`.

    While it has an owner, `tokens` is the owner's own growing array.
    """

    class_index: int
    index: int
    length: int
    owner: int | None = None
    label: str = ""
    num_public: int = 0
    tokens: Tokens = field(default_factory=make_tokens)
    num_held: int = 0
    node: Node | None = None
    """Where the tree has its run; a running one's prompt."""
    session: SessionKey | None = None
    used_at: float = 0.0

    @property
    def held(self) -> Path:
        return Path(self.label, self.tokens[: self.num_held], self.num_public)


@dataclass(frozen=True, slots=True)
class Acquired:
    """A slot whose cells hold the first `num_cached` tokens of what it was acquired for."""

    slot: Slot
    num_cached: int
    source: Source
    """Where they were."""


@dataclass(frozen=True, slots=True)
class Filling:
    """A way to fill a slot: with so many tokens of `source`, the store where it is None."""

    seconds: float
    """Of copying, and of computing the rest."""
    num_tokens: int
    source: Slot | None


@dataclass(frozen=True, slots=True)
class Copy:
    """A slot's first tokens, as a segment that lives as long as the step's operations."""

    segment_id: int
    num_tokens: int


class SlotAllocator:
    """Owns every slot of a worker. Operations pile up in order until `take_operations`."""

    def __init__(
        self, classes: tuple[SizeClass, ...], store: SnapshotStore, *, can_copy: bool = True
    ) -> None:
        """Without `can_copy`, tokens are reused only in the slot that holds them."""
        self._can_copy = can_copy
        self.store = store
        self.costs = store.costs
        self.classes = [
            [
                Slot(class_index=class_index, index=index, length=size.slot_len)
                for index in range(size.num_slots)
            ]
            for class_index, size in enumerate(classes)
        ]
        self._num_idle = [size.num_slots for size in classes]
        self._is_changed = [False for _ in classes]
        """Whether slots of a class were taken or given back since holes were last looked for."""
        self._copies: dict[Slot, Copy] = {}

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

    @property
    def has_any_idle(self) -> bool:
        return any(self._num_idle)

    def has_idle(self, class_index: int) -> bool:
        return self._num_idle[class_index] > 0

    def num_running(self, class_index: int) -> int:
        return len(self.classes[class_index]) - self._num_idle[class_index]

    def acquire(
        self,
        owner: int,
        class_index: int,
        path: Path,
        *,
        session: SessionKey | None = None,
        num_steps: int = 1,
    ) -> Acquired:
        """Give `owner` the idle slot of a class that costs least, with a usable prefix in it.

        `num_steps` is how long it will probably run. At least one token of `path` is left to
        compute, so that there are logits to draw from.
        """
        wanted = path.cut(len(path.tokens) - 1)
        slot, filling = self._choose_slot(class_index, wanted, num_steps)
        if filling.source is slot:
            source: Source = "session" if slot.session == session else "slot"
            self._cut_back(slot, filling.num_tokens)
        else:
            self._empty(slot)
            # Emptying may have added to the store; nothing leaves it before `shrink`.
            match = self.store.match(wanted)
            filling = self._choose_filling(wanted, match)
            source = self._fill(slot, wanted, match, filling, session)
        before, slot.node = slot.node, self.store.note_slot(path)
        self.store.forget_slot(before)
        slot.owner, slot.session = owner, session
        slot.label, slot.num_public, slot.tokens = path.label, path.num_public, path.tokens
        slot.num_held = filling.num_tokens
        self._num_idle[class_index] -= 1
        self._is_changed[class_index] = True
        self.store.num_changes += 1
        self.store.shrink()
        return Acquired(slot, filling.num_tokens, source)

    def release(self, slot: Slot) -> None:
        """Take a slot back; what its cells hold stays reusable."""
        slot.owner, slot.used_at = None, self.store.now
        self._num_idle[slot.class_index] += 1
        self._is_changed[slot.class_index] = True
        before = slot.node
        slot.node = self.store.note_slot(slot.held)
        self.store.forget_slot(before)
        if slot.session is not None and slot.node is not None:
            self.store.sessions.add(slot.session, slot.node)
        self.store.num_changes += 1
        self.store.shrink()

    def find_provider(self, path: Path, min_tokens: int) -> tuple[int, int] | None:
        """Who is about to compute at least `min_tokens` of `path` that nobody has; how much of it.

        An owner, and the length of the prefix that it shares.
        """
        if not self._can_copy:
            return None
        match = self.store.match(path)
        provider: int | None = None
        longest, cached = 0, self.store.disk_len(match)
        for slot in self._slots():
            shared = match.shared_len(slot.node)
            cached = max(cached, min(shared, slot.num_held))
            if slot.owner is not None and shared > max(longest, slot.num_held):
                provider, longest = slot.owner, shared
        return (
            (provider, longest) if provider is not None and longest - cached >= min_tokens else None
        )

    def load(self, path: Path) -> set[int]:
        """Begin to load what disk has of `path`, if that pays; the files that are waited for."""
        if not self._can_copy or not self.store.has_disk:
            return set()
        match = self.store.match(path)
        in_reach = max(
            self.store.host_len(match),
            max((self._shared(match, slot) for slot in self._slots()), default=0),
        )
        length = self.store.disk_len(match)
        if not self.store.has_room_for(length):
            return set()
        num_loaded = length - self.store.host_len(match)
        copying = num_loaded * self.costs.load_seconds + length * self.costs.restore_seconds
        if copying >= (length - in_reach) * self.costs.prefill_seconds:
            return set()
        return self.store.load(match, length)

    def close_hole(
        self, class_index: int, num_steps: Callable[[int], int]
    ) -> tuple[Slot, Slot] | None:
        """Move a running sequence into a hole, if that pays; from where to where.

        `num_steps(owner)` is how long a sequence will probably run. Call until None.
        """
        if not self._is_changed[class_index] or not self._can_copy:
            return None
        slots = self.classes[class_index]
        running = [slot.index for slot in slots if slot.owner is not None]
        before, holes = bridging(running, self.costs), find_holes(running)
        best: tuple[float, Slot, Slot] | None = None
        for index, hole in ((running[-1], holes[0]), (running[0], holes[-1])) if holes else ():
            source = slots[index]
            assert source.owner is not None
            after = bridging(sorted({*running, hole} - {index}), self.costs)
            copying = source.num_held * (self.costs.save_seconds + self.costs.restore_seconds)
            copying += self._saving_seconds(slots[hole])
            gain = (before - after) * num_steps(source.owner) - copying
            if gain > 0 and (best is None or gain > best[0]):
                best = gain, source, slots[hole]
        if best is None:
            self._is_changed[class_index] = False
            return None
        _, source, target = best
        self._move(source, target)
        return source, target

    def make_room(self, slot: Slot) -> int:
        """Where a filler row of an idle slot goes; a full slot gives up its last token for it."""
        if slot.num_held == slot.length:
            self._truncate(slot, slot.length - 1)
        return slot.num_held

    def forget(self, session: SessionKey) -> int:
        """Free what only this session has and is not running; how many tokens that was."""
        freed = 0
        for slot in self._slots():
            if slot.session == session and slot.owner is None:
                freed += slot.num_held
                self._clear(slot)
        return freed + self.store.forget(session)

    def expire(self) -> float:
        """Free what nobody used for the time to live; when to look again."""
        limit = self.store.now - self.store.ttl_seconds
        expiry = self.store.now + self.store.ttl_seconds
        for slot in self._slots():
            if slot.owner is None and slot.num_held:
                if slot.used_at <= limit:
                    self._clear(slot)
                else:
                    expiry = min(expiry, slot.used_at + self.store.ttl_seconds)
        self.store.expire(limit)
        return min(expiry, self.store.next_expiry())

    def flush(self) -> None:
        """Save what idle slots hold, and begin to write all that is saved to disk."""
        for slot in sorted(self._slots(), key=lambda slot: slot.used_at):
            if slot.owner is None and slot.num_held:
                self._save(slot)
        self.store.flush()

    def note_copies(self, copies: Iterable[CopyTime]) -> None:
        """What copies of an executed plan took."""
        for copy in copies:
            self.costs.observe_copy(copy)
            self.store.counters.note_copy(copy)

    def take_operations(self) -> list[SlotOperation]:
        for slot in list(self._copies):
            self._drop_copy(slot)
        return self.store.take_operations()

    def _slots(self) -> list[Slot]:
        return [slot for slots in self.classes for slot in slots]

    def _shared(self, match: Match, slot: Slot) -> int:
        return min(match.shared_len(slot.node), slot.num_held)

    def _choose_slot(self, class_index: int, wanted: Path, num_steps: int) -> tuple[Slot, Filling]:
        """The idle slot that costs least to empty, to fill, and to have running for a while.

        Among equals the one with the oldest content, then the lowest.
        """
        slots = self.classes[class_index]
        match = self.store.match(wanted)
        running = [slot.index for slot in slots if slot.owner is not None]
        elsewhere = self._choose_filling(wanted, match)
        best: tuple[float, float, int] | None = None
        chosen: tuple[Slot, Filling] | None = None
        for slot in slots:
            if slot.owner is not None:
                continue
            filling = self._choose_in_place(slot, wanted, match, elsewhere)
            seconds = filling.seconds
            is_whole = filling.source is slot and filling.num_tokens == slot.num_held
            if not is_whole:
                seconds += self._saving_seconds(slot)
            seconds += num_steps * added_bridging(running, slot.index, self.costs)
            rank = (seconds, slot.used_at, slot.index)
            if best is None or rank < best:
                best, chosen = rank, (slot, filling)
        assert chosen is not None
        return chosen

    def _choose_in_place(
        self, slot: Slot, wanted: Path, match: Match, elsewhere: Filling
    ) -> Filling:
        own = self._shared(match, slot) if slot.num_held else 0
        seconds = (len(wanted.tokens) - own) * self.costs.prefill_seconds
        return Filling(seconds, own, slot) if own and seconds <= elsewhere.seconds else elsewhere

    def _choose_filling(self, wanted: Path, match: Match) -> Filling:
        """How an empty slot gets a prefix of `wanted` for the least time."""
        costs, total = self.costs, len(wanted.tokens)
        best = Filling(total * costs.prefill_seconds, 0, None)
        if not self._can_copy:
            return best
        stored = self.store.host_len(match)
        seconds = stored * costs.restore_seconds + (total - stored) * costs.prefill_seconds
        if seconds < best.seconds:
            best = Filling(seconds, stored, None)
        for slot in self._slots():
            length = self._shared(match, slot)
            if length > best.num_tokens:
                copying = slot.num_held * costs.save_seconds + length * costs.restore_seconds
                seconds = copying + (total - length) * costs.prefill_seconds
                if seconds < best.seconds:
                    best = Filling(seconds, length, slot)
        return best

    def _fill(
        self, slot: Slot, wanted: Path, match: Match, filling: Filling, session: SessionKey | None
    ) -> Source:
        """Put a prefix into an empty slot; where it came from."""
        source, num_tokens = filling.source, filling.num_tokens
        if source is None:
            if num_tokens:
                self.store.restore(match, num_tokens, slot.class_index, slot.index)
            return "host"
        if source.owner is None:
            self._copy(source, slot, num_tokens)
            return "session" if source.session == session else "slot"
        # Others will want what is shared while its owner runs, so the store keeps it.
        shared = wanted.cut(num_tokens)
        if self.store.keep(shared, source.class_index, source.index):
            self.store.restore(self.store.match(shared), num_tokens, slot.class_index, slot.index)
        else:
            self._copy(source, slot, num_tokens)
        return "shared"

    def _copy(self, source: Slot, target: Slot, num_tokens: int) -> None:
        """Copy a slot's first tokens; several copies of one slot in a step share a segment."""
        copy = self._copies.get(source)
        if copy is None or copy.num_tokens < num_tokens:
            self._drop_copy(source)
            copy = Copy(self.store.new_segment(), num_tokens)
            self._copies[source] = copy
            cut = Cut(0, num_tokens, copy.segment_id)
            self.store.operate(Save(source.class_index, source.index, (cut,)))
        self.store.operate(
            Restore(target.class_index, target.index, (copy.segment_id,), num_tokens)
        )

    def _drop_copy(self, slot: Slot) -> None:
        """What a slot holds changes, so that a copy of it is no longer one."""
        copy = self._copies.pop(slot, None)
        if copy is not None:
            self.store.operate(Drop(copy.segment_id))

    def _move(self, source: Slot, target: Slot) -> None:
        """Move a running sequence into an idle slot."""
        self._empty(target)
        if source.num_held:
            self._copy(source, target, source.num_held)
        self._drop_copy(source)
        self._drop_copy(target)
        target.owner, target.session, target.node = source.owner, source.session, source.node
        target.label, target.num_public = source.label, source.num_public
        target.tokens, target.num_held = source.tokens, source.num_held
        source.owner, source.node = None, None
        self._clear(source)
        self.store.shrink()

    def _cut_back(self, slot: Slot, num_tokens: int) -> None:
        """Keep a slot's first tokens in it, and what else it holds in the store."""
        if slot.num_held > num_tokens:
            self._save(slot)
            self._truncate(slot, num_tokens)

    def _empty(self, slot: Slot) -> None:
        if slot.num_held:
            self._save(slot)
            self.store.counters.evict("slot")
        self._clear(slot)

    def _saving_seconds(self, slot: Slot) -> float:
        """What it costs to keep what an idle slot holds; nothing where it cannot be kept."""
        if not self._can_copy or not self.store.has_room_for(slot.num_held):
            return 0.0
        return slot.num_held * self.costs.save_seconds

    def _save(self, slot: Slot) -> None:
        if self._can_copy:
            self.store.keep(slot.held, slot.class_index, slot.index)

    def _clear(self, slot: Slot) -> None:
        self._truncate(slot, 0)
        self.store.forget_slot(slot.node)
        slot.node = slot.session = None
        slot.tokens = make_tokens()

    def _truncate(self, slot: Slot, num_tokens: int) -> None:
        if slot.num_held > num_tokens:
            self._drop_copy(slot)
            slot.num_held = num_tokens
            self.store.operate(Truncate(slot.class_index, slot.index, num_tokens))
