"""Which runs of tokens a session has, as marks on the nodes where they end."""

from collections.abc import Iterator

from service.kvcache.tree import Node, SessionKey


class SessionMarks:
    """A mark stays with what is left of its run, as long as that is nobody else's beginning."""

    def __init__(self) -> None:
        self._nodes: dict[SessionKey, dict[Node, None]] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[tuple[SessionKey, int]]:
        """Each session and how many tokens its longest run has."""
        for session, nodes in self._nodes.items():
            yield session, max(node.end for node in nodes)

    def find(self, session: SessionKey) -> Node | None:
        """A node at which a run of the session ends; the same until it changes."""
        return next(iter(self._nodes.get(session, ())), None)

    def add(self, session: SessionKey, end: Node) -> None:
        """A run ends at `end`; runs that it continues are the same run."""
        for node in end.ancestry():
            if node is not end and session in node.sessions:
                self.remove(session, node)
        self._put(session, end)

    def remove(self, session: SessionKey, node: Node) -> None:
        node.sessions.discard(session)
        nodes = self._nodes[session]
        del nodes[node]
        if not nodes:
            del self._nodes[session]

    def leave(self, node: Node) -> None:
        """`node` is about to be cut off: its marks go up, unless others have what is there too."""
        parent = node.parent
        assert parent is not None
        is_shared = parent.num_slots or parent.sessions or len(parent.children) > 1
        for session in list(node.sessions):
            self.remove(session, node)
            if not (parent.is_root or is_shared):
                self._put(session, parent)

    def _put(self, session: SessionKey, node: Node) -> None:
        node.sessions.add(session)
        self._nodes.setdefault(session, {})[node] = None


def list_owners(node: Node) -> tuple[SessionKey, ...]:
    """Sessions of the runs that lead through `node`, down to where runs part."""
    owners = set(node.sessions)
    while len(node.children) == 1:
        (node,) = node.children.values()
        owners |= node.sessions
    return tuple(sorted(owners))
