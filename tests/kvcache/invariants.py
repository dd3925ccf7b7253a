"""What holds of a store after any operation."""

from service.kvcache.store import SnapshotStore
from service.kvcache.tree import Node


def list_nodes(store: SnapshotStore) -> list[Node]:
    return list(store._tree)


def check_store(store: SnapshotStore) -> None:
    nodes = list_nodes(store)
    check_tree(nodes)
    check_host(store, nodes)
    check_files(store, nodes)
    check_sessions(store, nodes)


def check_tree(nodes: list[Node]) -> None:
    for node in nodes:
        assert len(node.tokens) > 0
        assert node.is_needed
        assert node.branch[1] == node.tokens[0]
        for branch, child in node.children.items():
            assert (child.parent, child.branch, child.start) == (node, branch, node.end)
            # Public tokens come first: nothing public follows what is someone's own.
            assert child.branch[0] == node.branch[0] or node.branch[0] is None


def check_host(store: SnapshotStore, nodes: list[Node]) -> None:
    order = {node: place for place, node in enumerate(store._host)}
    leaving = [node for node in nodes if node.segment is not None and node not in order]
    assert set(order) | set(leaving) == {node for node in nodes if node.segment is not None}
    assert store._host_tokens == sum(len(node.tokens) for node in order)
    assert store._leaving_tokens == sum(len(node.tokens) for node in leaving)
    assert store._host_tokens <= store._host_budget
    segments = [node.segment for node in [*order, *leaving]]
    assert len(set(segments)) == len(segments)
    for node, place in order.items():
        assert all(order[child] < place for child in node.children.values() if child in order)
    for node in leaving:
        assert node.file is not None
        assert not store._files[node.file].is_written


def check_files(store: SnapshotStore, nodes: list[Node]) -> None:
    for file_id, file in store._files.items():
        assert set(file.nodes) == {node for node in nodes if node.file == file_id}
        assert len(set(file.nodes)) == len(file.nodes)
        assert file.num_tokens == sum(len(node.tokens) for node in file.nodes)
        assert file.is_written == (file_id in store._disk)
    assert store._disk_tokens == sum(file.num_tokens for file in store._files.values())


def check_sessions(store: SnapshotStore, nodes: list[Node]) -> None:
    marks = {
        session: {node for node in nodes if session in node.sessions}
        for node in nodes
        for session in node.sessions
    }
    assert {key: set(nodes) for key, nodes in store.sessions._nodes.items()} == marks
