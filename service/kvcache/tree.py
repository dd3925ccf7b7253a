"""The prefix tree over token ids: one place to find every run of computed tokens.

    root ── "You are a helpful …" ─┬─ "Hello!"          a node's tokens follow its parent's;
                                   └─ "What is …" ── …  a run of tokens is a path from the root

What holds a node's tokens is noted at the node: a segment in host memory, a file on disk. A slot
and a session are noted where their run ends.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from service.core.plan import Tokens, make_tokens
from service.kvcache.prefix import common_prefix_len

Branch = tuple[str | None, int]
"""Who shares the tokens of a child, and the first of them; None is everyone."""
SessionKey = tuple[str, str]
"""Tenant and session."""


@dataclass(frozen=True, slots=True)
class Path:
    """Token ids from the root, and who shares them.

    The first `num_public` tokens are everyone's, by the operator's word; the others are found only
    by those who have the same `label`.
    """

    label: str
    tokens: Tokens
    num_public: int = 0

    def branch(self, position: int) -> Branch:
        label = None if position < self.num_public else self.label
        return label, self.tokens[position]

    def run_len(self, position: int) -> int:
        """How many tokens from `position` on are shared alike."""
        end = self.num_public if position < self.num_public else len(self.tokens)
        return min(end, len(self.tokens)) - position

    def cut(self, num_tokens: int) -> "Path":
        return Path(self.label, self.tokens[:num_tokens], self.num_public)


class Node:
    """Consecutive tokens of at least one run, from position `start` on."""

    __slots__ = (
        "branch",
        "children",
        "file",
        "num_slots",
        "parent",
        "segment",
        "sessions",
        "start",
        "tokens",
        "used_at",
    )

    def __init__(self, parent: "Node | None", branch: Branch, start: int, tokens: Tokens) -> None:
        self.parent = parent
        self.branch = branch
        self.start = start
        self.tokens = tokens
        self.children: dict[Branch, Node] = {}
        self.segment: int | None = None
        self.file: int | None = None
        self.num_slots = 0
        """Slots whose run ends here."""
        self.sessions: set[SessionKey] = set()
        """Those of which a run ends here."""
        self.used_at = 0.0

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    @property
    def is_root(self) -> bool:
        return self.parent is None

    @property
    def is_needed(self) -> bool:
        return bool(
            self.children or self.num_slots or self.segment is not None or self.file is not None
        )

    def ancestry(self) -> "Iterator[Node]":
        """Itself and its ancestors, up to but without the root."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent


@dataclass(frozen=True, slots=True)
class Match:
    """The way down the tree that a run's tokens lead."""

    ends: dict[Node, int]
    """How far the run matches in each node, from the root's child on; the last perhaps in part."""

    def shared_len(self, node: Node | None) -> int:
        """How many tokens the way down to `node` has in common with this one."""
        while node is not None:
            end = self.ends.get(node)
            if end is not None:
                return end
            node = node.parent
        return 0


class PrefixTree:
    """Owns the nodes. `on_split(head, tail)` hears of a node that became two."""

    def __init__(self, on_split: Callable[[Node, Node], None]) -> None:
        self._root = Node(None, (None, -1), 0, make_tokens())
        self._on_split = on_split

    def __iter__(self) -> Iterator[Node]:
        """Every node, parents first."""
        pending = list(self._root.children.values())
        while pending:
            node = pending.pop()
            yield node
            pending += node.children.values()

    def match(self, path: Path) -> Match:
        ends: dict[Node, int] = {}
        parent, position = self._root, 0
        while position < len(path.tokens):
            child = parent.children.get(path.branch(position))
            if child is None:
                break
            shared = _shared_len(child, path, position)
            position += shared
            ends[child] = position
            if shared < len(child.tokens):
                break
            parent = child
        return Match(ends)

    def insert(self, path: Path) -> Node | None:
        """The node at which `path` ends, made if there is none; None for no tokens."""
        parent, position = self._root, 0
        while position < len(path.tokens):
            child = parent.children.get(path.branch(position))
            if child is None:
                child = self._grow(parent, path, position)
            elif (shared := _shared_len(child, path, position)) < len(child.tokens):
                child = self._split(child, shared)
            parent, position = child, child.end
        return parent if parent is not self._root else None

    def cut_off(self, node: Node) -> None:
        """Remove a node that nothing needs."""
        assert node.parent is not None
        assert not node.is_needed
        del node.parent.children[node.branch]

    def absorb(self, node: Node) -> None:
        """Join a node to its only child, if nothing is noted at it and nothing holds either."""
        if node.num_slots or node.sessions or len(node.children) != 1 or node.parent is None:
            return
        if node.parent.children.get(node.branch) is not node:
            return  # joined before
        (child,) = node.children.values()
        held = (node.segment, node.file, child.segment, child.file)
        if node.branch[0] != child.branch[0] or held != (None, None, None, None):
            return
        child.parent, child.branch, child.start = node.parent, node.branch, node.start
        child.tokens = node.tokens + child.tokens
        node.parent.children[node.branch] = child

    def _grow(self, parent: Node, path: Path, position: int) -> Node:
        end = position + path.run_len(position)
        branch = path.branch(position)
        node = Node(parent, branch, position, path.tokens[position:end])
        parent.children[branch] = node
        return node

    def _split(self, node: Node, num_tokens: int) -> Node:
        """Put the first tokens of `node` into a new parent of it; that one."""
        assert node.parent is not None
        head = Node(node.parent, node.branch, node.start, node.tokens[:num_tokens])
        head.used_at = node.used_at
        node.parent.children[node.branch] = head
        node.parent = head
        node.start, node.tokens = head.end, node.tokens[num_tokens:]
        node.branch = (node.branch[0], node.tokens[0])
        head.children[node.branch] = node
        self._on_split(head, node)
        return head


def _shared_len(node: Node, path: Path, position: int) -> int:
    limit = min(len(node.tokens), path.run_len(position))
    return common_prefix_len(node.tokens, path.tokens[position : position + limit])
