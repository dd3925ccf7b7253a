"""Millions of random operations on slots, tree and store: `python -m loadtests.operations`.

Each round takes slots, computes, gives back, moves, forgets sessions, writes and reads files and
lets time pass, with a simulated engine that checks every operation; the invariants of the store are
checked again and again. The suite's state machines do the same with fewer operations and find the
shortest way to a failure; this finds what takes long to build up.
"""

import argparse
import random
import time

from loadtests.results import show_results
from service.core.plan import Plan, make_tokens
from service.engine.config import SimulatedModel
from service.engine.simulated_engine import SimulatedEngine
from service.kvcache.allocator import Slot, SlotAllocator
from service.kvcache.size_class import parse_size_classes
from service.kvcache.store import SnapshotStore
from service.kvcache.tree import Path
from tests.kvcache.invariants import check_store
from tests.scheduler.files import MemoryFiles

CLASSES = "6x64,2x192"
CHECK_EVERY = 500


class Storm:
    """Random operations on one allocator; counts those it has done."""

    def __init__(self, seed: int) -> None:
        self.num_done = 0
        self.chance = random.Random(seed)
        sizes = parse_size_classes(CLASSES)
        self.engine = SimulatedEngine(SimulatedModel(bytes_per_token=1), sizes)
        self.files = MemoryFiles()
        self.engine.use_files(self.files)
        self.store = SnapshotStore(host_bytes=250, disk_bytes=400, bytes_per_token=1)
        self.allocator = SlotAllocator(sizes, self.store)
        self.running: dict[int, Slot] = {}
        self.operations = [
            *[self.start] * 6,
            *[self.compute] * 6,
            *[self.end] * 5,
            *[self.close_holes] * 2,
            *[self.load] * 3,
            *[self.settle] * 3,
            self.forget,
            self.expire,
        ]

    def do(self, num_operations: int) -> None:
        for _ in range(num_operations):
            self.chance.choice(self.operations)()
            self.store.now += 0.01
            self.engine.execute(Plan(self.allocator.take_operations()))
        self.num_done += num_operations

    def check(self) -> None:
        check_store(self.store)
        for class_index, slots in enumerate(self.allocator.classes):
            for slot in slots:
                held = self.engine.held(class_index, slot.index)
                assert held == slot.tokens[: slot.num_held]

    def make_path(self) -> Path:
        """Few beginnings and few continuations, so that runs share and part at many places."""
        tokens = [1, 2, 3, 4] * self.chance.randrange(1, 9)
        for _ in range(self.chance.randrange(4)):
            tokens += [self.chance.randrange(5, 8)] * self.chance.randrange(1, 12)
        label = self.chance.choice("ab")
        return Path(label, make_tokens([*tokens, 9]), self.chance.choice((0, min(8, len(tokens)))))

    def session_of(self, path: Path) -> tuple[str, str]:
        return path.label, str(self.chance.randrange(12))

    def start(self) -> None:
        path = self.make_path()
        class_index = self.allocator.smallest_class(len(path.tokens))
        if not self.allocator.has_idle(class_index):
            return
        owner = self.num_done + self.chance.randrange(10**9)
        if owner in self.running:
            return
        acquired = self.allocator.acquire(
            owner, class_index, path, session=self.session_of(path), num_steps=30
        )
        self.running[owner] = acquired.slot

    def compute(self) -> None:
        """Some more tokens of a running sequence, as the engine would hold them."""
        if not self.running:
            return
        slot = self.chance.choice(list(self.running.values()))
        if len(slot.tokens) < slot.length - 1:
            slot.tokens.append(self.chance.randrange(5, 8))
        count = self.chance.randrange(1, 30)
        end = min(slot.num_held + count, len(slot.tokens))
        self.engine.held(slot.class_index, slot.index).extend(slot.tokens[slot.num_held : end])
        slot.num_held = end

    def end(self) -> None:
        if self.running:
            owner = self.chance.choice(list(self.running))
            self.allocator.release(self.running.pop(owner))

    def close_holes(self) -> None:
        for class_index in range(len(self.allocator.classes)):
            move = self.allocator.close_hole(class_index, lambda _: 50)
            if move is not None:
                assert move[1].owner is not None
                self.running[move[1].owner] = move[1]

    def load(self) -> None:
        self.allocator.load(self.make_path())

    def settle(self) -> None:
        self.files.is_full = self.chance.random() < 0.1
        if self.files.stored and self.chance.random() < 0.2:
            self.files.broken.add(self.chance.choice(list(self.files.stored)))
        self.files.settle(self, self.store, self.engine)

    def note_read(self, file_id: int, segment_id: int, *, is_good: bool) -> None:
        self.store.note_read(file_id, segment_id, is_good=is_good)

    def forget(self) -> None:
        self.allocator.forget((self.chance.choice("ab"), str(self.chance.randrange(12))))

    def expire(self) -> None:
        self.store.ttl_seconds = self.chance.choice((5.0, 50.0))
        self.allocator.expire()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    storm = Storm(arguments.seed)
    started = last = time.monotonic()
    while storm.num_done < arguments.operations:
        storm.do(min(CHECK_EVERY, arguments.operations - storm.num_done))
        storm.check()
        if time.monotonic() - last > 5:
            last = time.monotonic()
            print(f"{storm.num_done:,} operations", flush=True)
    counters = storm.store.counters
    results = {
        "operations": storm.num_done,
        "checks of all invariants": storm.num_done / CHECK_EVERY,
        "seconds": time.monotonic() - started,
        **{f"hits: {source}": number for source, number in counters.hits.items()},
        **{f"left {tier}": number for tier, number in counters.evictions.items()},
        "files that could not be used": counters.disk_errors,
    }
    show_results("Random operations; every invariant held", results, as_json=arguments.json)


if __name__ == "__main__":
    main()
