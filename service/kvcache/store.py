"""The store: which computed tokens are kept in host memory and on disk, and which go first.

    slot ── save ──> host memory ── archive ──> disk         budgets in bytes; the least recently
     ^                │      ^                    │          used leave first, a run's end before
     └─── restore ────┘      └────── load ────────┘          its beginning, which others may share

A shared prefix is kept once: what is kept of a run are the nodes of the prefix tree on its path. A
file stays where it is when it is loaded, so leaving host memory again costs nothing.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from service.core.plan import (
    Archive,
    Cut,
    Drop,
    Erase,
    Load,
    Origin,
    Restore,
    Save,
    SlotOperation,
    Split,
    make_tokens,
)
from service.kvcache.costs import Costs
from service.kvcache.counters import CacheCounters
from service.kvcache.sessions import SessionMarks, list_owners
from service.kvcache.tree import Match, Node, Path, PrefixTree, SessionKey

MIN_SAVED = 4
"""Tokens. Fewer are computed again rather than kept as a segment of their own."""
MAX_LEAVING = 4
"""A quarter of the host budget may be on its way to disk besides. Where the disk is slower than
that, runs are dropped instead."""


@dataclass(slots=True, kw_only=True)
class File:
    """A segment on disk; of several nodes where one was split since."""

    id: int
    num_tokens: int
    nodes: list[Node]
    is_written: bool = False
    loading: int | None = None
    """The segment that it is being read into."""


class SnapshotStore:
    """Owns the tree, and what it says of segments, files and sessions.

    Operations pile up in order until `take_operations`. Dropping comes last among them, so what
    leaves in a step may still be restored in it.
    """

    def __init__(
        self,
        *,
        host_bytes: int,
        disk_bytes: int = 0,
        bytes_per_token: int,
        ttl_seconds: float = float("inf"),
        costs: Costs | None = None,
    ) -> None:
        self.costs = costs or Costs()
        self.counters = CacheCounters()
        self.now = 0.0
        """Seconds; the worker moves it on."""
        self._bytes_per_token = max(bytes_per_token, 1)
        self._host_budget = host_bytes // self._bytes_per_token
        self._disk_budget = disk_bytes // self._bytes_per_token
        self.ttl_seconds = ttl_seconds
        self._tree = PrefixTree(self._split)
        self._host: OrderedDict[Node, None] = OrderedDict()
        """Nodes with a segment that counts, least recently used first; a node's descendants before
        it."""
        self._files: dict[int, File] = {}
        self._disk: OrderedDict[int, None] = OrderedDict()
        """Written files, least recently used first."""
        self.sessions = SessionMarks()
        self._host_tokens = self._leaving_tokens = self._disk_tokens = 0
        self._last_id = 0
        self._operations: list[SlotOperation] = []
        self._drops: list[Drop] = []
        self.num_changes = 0
        """Grows with every change of what is held anywhere."""
        self.copying_seconds = 0.0
        """Which the operations that piled up will probably take."""

    @property
    def has_disk(self) -> bool:
        return self._disk_budget > 0

    @property
    def num_segments(self) -> int:
        return len(self._host)

    @property
    def host_bytes(self) -> int:
        """In host memory, also what is being written to disk before it leaves."""
        return (self._host_tokens + self._leaving_tokens) * self._bytes_per_token

    @property
    def num_files(self) -> int:
        return len(self._files)

    @property
    def disk_bytes(self) -> int:
        return self._disk_tokens * self._bytes_per_token

    def new_segment(self) -> int:
        """An id never used before; also for copies that the store does not keep."""
        self._last_id += 1
        return self._last_id

    @property
    def has_operations(self) -> bool:
        return bool(self._operations or self._drops)

    def operate(self, operation: SlotOperation) -> None:
        self.num_changes += 1
        if isinstance(operation, Drop):
            self._drops.append(operation)
            return
        self._operations.append(operation)
        if isinstance(operation, Save):
            self.copying_seconds += operation.cuts[-1].end * self.costs.save_seconds
        elif isinstance(operation, Restore):
            self.copying_seconds += operation.num_tokens * self.costs.restore_seconds

    def take_operations(self) -> list[SlotOperation]:
        self.copying_seconds = 0.0
        operations: list[SlotOperation] = [*self._operations, *self._drops]
        self._operations, self._drops = [], []
        return operations

    def match(self, path: Path) -> Match:
        return self._tree.match(path)

    def host_len(self, match: Match) -> int:
        """How much of a run host memory has, from its beginning without a gap."""
        length = 0
        for node, end in match.ends.items():
            if node.segment is None:
                break
            length = end
        return length

    def disk_len(self, match: Match) -> int:
        """The same, with what can be loaded from disk."""
        length = 0
        for node, end in match.ends.items():
            if node.segment is None and not self._is_readable(node):
                break
            length = end
        return length

    def has_room_for(self, num_tokens: int) -> bool:
        """Whether host memory could have a run of that length at all."""
        return num_tokens <= self._host_budget

    def restore(self, match: Match, num_tokens: int, class_index: int, slot: int) -> None:
        """Fill a slot from host memory, which has that much of the run."""
        nodes = [node for node in match.ends if node.start < num_tokens]
        segments = [node.segment for node in nodes if node.segment is not None]
        assert len(segments) == len(nodes)
        self._touch(nodes)
        self.operate(Restore(class_index, slot, tuple(segments), num_tokens))

    def note_slot(self, path: Path) -> Node | None:
        """A slot holds, or is about to compute, the tokens of `path`."""
        node = self._tree.insert(path)
        if node is not None:
            node.num_slots += 1
        return node

    def forget_slot(self, node: Node | None) -> None:
        """A slot no longer holds the run that ends at `node`."""
        if node is not None:
            node.num_slots -= 1
            self._prune(node)

    def keep(self, path: Path, class_index: int, slot: int) -> bool:
        """Save what host memory lacks of a run that a slot holds; whether it has all of it then.

        Nothing leaves for it before `shrink`. Saving reads the whole slot, so it must be worth it.
        """
        num_tokens = len(path.tokens)
        covered = self.host_len(self._tree.match(path))
        missing = num_tokens - covered
        if missing > 0 and not self._is_worth_saving(num_tokens, missing):
            return False
        node = self._tree.insert(path)
        if node is None:
            return True
        nodes = list(node.ancestry())
        cuts: list[Cut] = []
        for each in nodes:
            if each.segment is None:
                each.segment = self.new_segment()
                cuts.append(Cut(each.start, each.end, each.segment))
                self._host[each] = None
                self._host_tokens += len(each.tokens)
        if cuts:
            cuts.reverse()
            self.operate(Save(class_index, slot, tuple(cuts)))
        self._touch(reversed(nodes))
        return True

    def shrink(self) -> None:
        """Let the least recently used leave until the budgets are kept."""
        while self._host_tokens > self._host_budget:
            self._leave_host(next(iter(self._host)))
        self._shrink_disk()

    def _shrink_disk(self) -> None:
        while self._disk_tokens > self._disk_budget and self._disk:
            self._erase(self._files[next(iter(self._disk))])
            self.counters.evict("disk")

    def expire(self, limit: float) -> None:
        """Free what has not been used since `limit`."""
        while self._host and (node := next(iter(self._host))).used_at <= limit:
            self._drop_segment(node)
            self._prune(node)
        while self._disk and _used_at(file := self._files[next(iter(self._disk))]) <= limit:
            self._erase(file)

    def load(self, match: Match, num_tokens: int) -> set[int]:
        """Begin to read what host memory lacks of a run; the files that are waited for."""
        nodes = [node for node in match.ends if node.start < num_tokens]
        wanted = {node.file for node in nodes if node.segment is None}
        files = {file_id for file_id in wanted if file_id is not None}
        for file_id in files:
            file = self._files[file_id]
            if file.loading is None:
                file.loading = self.new_segment()
                self.operate(Load(file_id, file.loading))
        self._touch(nodes)
        self.shrink()
        return files

    def note_read(self, file_id: int, segment_id: int, *, is_good: bool) -> None:
        """A file was read into a segment, or could not be and is gone."""
        file = self._files.get(file_id)
        if file is None or file.loading != segment_id:
            if is_good:
                self.operate(Drop(segment_id))
            return
        file.loading = None
        if is_good:
            self._fill(file, segment_id)
        else:
            self.counters.disk_errors += 1
            self._forget_file(file)
        self.shrink()

    def note_written(self, file_id: int, *, is_good: bool) -> None:
        """A file is on disk, or could not be written."""
        file = self._files.get(file_id)
        if file is None:
            return  # erased meanwhile; the writer did that after writing
        file.is_written = True
        self._disk[file_id] = None
        if not is_good:
            self.counters.disk_errors += 1
            self._forget_file(file)
            return
        for node in list(file.nodes):
            if node.segment is not None and node not in self._host:
                self._drop_segment(node)
        self.shrink()

    def next_expiry(self) -> float:
        """When something will not have been used for the time to live, at the earliest."""
        oldest = [next(iter(self._host)).used_at] if self._host else []
        if self._disk:
            oldest.append(_used_at(self._files[next(iter(self._disk))]))
        return min(oldest, default=self.now) + self.ttl_seconds

    def flush(self) -> None:
        """Begin to write what is in host memory only, as the last thing; files make room for it."""
        room = self._disk_budget
        for node in list(reversed(self._host)):
            room -= len(node.tokens)
            if room < 0:
                break
            if node.file is None:
                self._archive(node)
        self._shrink_disk()

    def list_files(self) -> Iterator[tuple[int, float]]:
        """Each file that is written, and when it was last used."""
        for file_id in self._disk:
            yield file_id, _used_at(self._files[file_id])

    def adopt(self, file_id: int, origin: Origin, used_at: float) -> None:
        """Take in a file that an earlier process left. Call for the least recently used first."""
        self._last_id = max(self._last_id, file_id)
        now, self.now = self.now, used_at  # splitting a node uses it
        self._adopt(file_id, origin)
        self.now = now
        self.shrink()

    def _adopt(self, file_id: int, origin: Origin) -> None:
        path = Path(origin.label, origin.tokens, origin.num_public)
        self._tree.insert(path.cut(origin.start))
        end = self._tree.insert(path)
        assert end is not None
        nodes = [node for node in end.ancestry() if node.start >= origin.start]
        num_tokens = len(origin.tokens) - origin.start
        file = File(id=file_id, num_tokens=num_tokens, nodes=nodes, is_written=True)
        if any(node.file is not None for node in nodes) or num_tokens > self._disk_budget:
            self.operate(Erase(file_id))
            self._prune(end)
            return
        self._files[file_id] = file
        self._disk[file_id] = None
        self._disk_tokens += num_tokens
        for node in nodes:
            node.file, node.used_at = file_id, self.now
        for session in origin.sessions:
            self.sessions.add(session, end)

    def forget(self, session: SessionKey) -> int:
        """Free what only this session has; how many tokens that was."""
        freed = 0
        # Freeing a run may cut off another of the session, whose mark then moves up.
        while (node := self.sessions.find(session)) is not None:
            self.sessions.remove(session, node)
            while not (node.is_root or node.children or node.sessions or node.num_slots):
                if node.segment is not None or node.file is not None:
                    freed += len(node.tokens)
                parent = node.parent
                assert parent is not None
                self._free(node)
                node = parent
        return freed

    def _is_readable(self, node: Node) -> bool:
        return node.file is not None and self._files[node.file].is_written

    def _is_worth_saving(self, num_tokens: int, missing: int) -> bool:
        if not self.has_room_for(num_tokens) or missing < MIN_SAVED:
            return False
        return missing * self.costs.prefill_seconds > num_tokens * self.costs.save_seconds

    def _touch(self, nodes: Iterable[Node]) -> None:
        """A run was used, whose nodes these are in order; its end becomes the oldest of them."""
        for node in reversed(list(nodes)):
            node.used_at = self.now
            if node.segment is not None:
                if node not in self._host:  # it was on its way to disk
                    self._leaving_tokens -= len(node.tokens)
                    self._host_tokens += len(node.tokens)
                self._host[node] = None
                self._host.move_to_end(node)
            if node.file in self._disk:
                self._disk.move_to_end(node.file)

    def _split(self, head: Node, tail: Node) -> None:
        if tail.segment is not None:
            head_id, tail_id = self.new_segment(), self.new_segment()
            self.operate(Split(tail.segment, len(head.tokens), head_id, tail_id))
            head.segment, tail.segment = head_id, tail_id
            if tail in self._host:
                self._host[head] = None
        if tail.file is not None:
            head.file = tail.file
            self._files[tail.file].nodes.append(head)
        self._touch(reversed(list(head.ancestry())))

    def _leave_host(self, node: Node) -> None:
        if node.file is None and self._fits_disk(node):
            self._archive(node)
            del self._host[node]
            self._host_tokens -= len(node.tokens)
            self._leaving_tokens += len(node.tokens)
        else:
            self._drop_segment(node)
            self._prune(node)
        self.counters.evict("host")

    def _fits_disk(self, node: Node) -> bool:
        is_keeping_up = self._leaving_tokens * MAX_LEAVING <= self._host_budget
        return is_keeping_up and len(node.tokens) <= self._disk_budget

    def _archive(self, node: Node) -> None:
        assert node.segment is not None
        file_id = self.new_segment()
        self._files[file_id] = File(id=file_id, num_tokens=len(node.tokens), nodes=[node])
        self._disk_tokens += len(node.tokens)
        node.file = file_id
        self.operate(Archive(node.segment, file_id, _origin(node)))

    def _fill(self, file: File, segment_id: int) -> None:
        """Give a segment that was read to the nodes it is of."""
        nodes = sorted(file.nodes, key=lambda node: node.start)
        rest = segment_id
        for index, node in enumerate(nodes):
            part = rest
            if index < len(nodes) - 1:
                part, after = self.new_segment(), self.new_segment()
                self.operate(Split(rest, len(node.tokens), part, after))
                rest = after
            if node.segment is None:
                node.segment = part
                self._host_tokens += len(node.tokens)
                self._host[node] = None
            else:
                self.operate(Drop(part))
        self._touch(reversed(list(nodes[-1].ancestry())))

    def _drop_segment(self, node: Node) -> None:
        assert node.segment is not None
        if node in self._host:
            del self._host[node]
            self._host_tokens -= len(node.tokens)
        else:
            self._leaving_tokens -= len(node.tokens)
        self.operate(Drop(node.segment))
        node.segment = None

    def _erase(self, file: File) -> None:
        self.operate(Erase(file.id))
        self._forget_file(file)

    def _forget_file(self, file: File) -> None:
        """A file is gone, and with it the segments that waited for it to be written."""
        del self._files[file.id]
        self._disk.pop(file.id, None)
        self._disk_tokens -= file.num_tokens
        for node in file.nodes:
            node.file = None
        for node in file.nodes:
            if node.segment is not None and node not in self._host:
                self._drop_segment(node)
            self._prune(node)

    def _free(self, node: Node) -> None:
        """Free whatever holds a node that nobody needs any more, and cut it off."""
        if node.segment is not None:
            self._drop_segment(node)
        if node.file is not None:
            self._erase(self._files[node.file])
        self._prune(node)

    def _prune(self, node: Node) -> None:
        """Cut off a node that nothing needs, and those that only led to it."""
        while not node.is_root and not node.is_needed:
            parent = node.parent
            assert parent is not None
            if parent.children.get(node.branch) is not node:
                return  # cut off before
            self.sessions.leave(node)
            self._tree.cut_off(node)
            node = parent
        self._tree.absorb(node)


def _origin(node: Node) -> Origin:
    nodes = list(node.ancestry())
    tokens = make_tokens()
    for each in reversed(nodes):
        tokens += each.tokens
    num_public = max((each.end for each in nodes if each.branch[0] is None), default=0)
    return Origin(
        label=node.branch[0] or "",
        num_public=num_public,
        tokens=tokens,
        start=node.start,
        sessions=list_owners(node),
    )


def _used_at(file: File) -> float:
    return max(node.used_at for node in file.nodes)
