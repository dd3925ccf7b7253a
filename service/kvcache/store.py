"""Snapshots in host memory: which runs of computed tokens are kept, and which go first."""

from collections import OrderedDict
from dataclasses import dataclass

from service.core.plan import Tokens
from service.kvcache.prefix import common_prefix_len


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run of computed tokens of one tenant, kept under `snapshot_id`."""

    snapshot_id: int
    tenant: str
    tokens: Tokens


class SnapshotStore:
    """Least recently used runs are dropped first; the budget is in tokens' worth of bytes."""

    def __init__(self, *, budget_bytes: int, bytes_per_token: int) -> None:
        self._budget_tokens = budget_bytes // max(bytes_per_token, 1)
        self._bytes_per_token = bytes_per_token
        self._runs: OrderedDict[int, StoredRun] = OrderedDict()
        self._next_id = 0
        self._num_tokens = 0

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def num_bytes(self) -> int:
        return self._num_tokens * self._bytes_per_token

    def new_id(self) -> int:
        """A snapshot id never used before; also for copies that the store does not keep."""
        self._next_id += 1
        return self._next_id

    def put(self, tenant: str, tokens: Tokens) -> tuple[int | None, list[int]]:
        """Keep a run. Its new snapshot id, or None if it is not worth keeping; ids to drop.

        A run that another one continues adds nothing, so a run replaces its own prefixes.
        """
        if len(tokens) > self._budget_tokens or self._is_covered(tenant, tokens):
            return None, []
        dropped = [run.snapshot_id for run in self._prefixes_of(tenant, tokens)]
        for snapshot_id in dropped:
            self._remove(snapshot_id)
        snapshot_id = self.new_id()
        self._runs[snapshot_id] = StoredRun(snapshot_id, tenant, tokens)
        self._num_tokens += len(tokens)
        while self._num_tokens > self._budget_tokens:
            oldest = next(iter(self._runs))
            self._remove(oldest)
            dropped.append(oldest)
        return snapshot_id, dropped

    def find_longest(
        self, tenant: str, tokens: Tokens, *, max_len: int
    ) -> tuple[StoredRun | None, int]:
        """The tenant's run of at most `max_len` tokens with the longest prefix of `tokens`."""
        best: StoredRun | None = None
        best_len = 0
        for run in self._runs.values():
            if run.tenant == tenant and len(run.tokens) <= max_len:
                length = common_prefix_len(run.tokens, tokens)
                if length > best_len:
                    best, best_len = run, length
        return best, best_len

    def touch(self, snapshot_id: int) -> None:
        """Make a run the most recently used one."""
        self._runs.move_to_end(snapshot_id)

    def _is_covered(self, tenant: str, tokens: Tokens) -> bool:
        run, length = self.find_longest(tenant, tokens, max_len=self._budget_tokens)
        if run is None or length < len(tokens):
            return False
        self.touch(run.snapshot_id)
        return True

    def _prefixes_of(self, tenant: str, tokens: Tokens) -> list[StoredRun]:
        return [
            run
            for run in self._runs.values()
            if run.tenant == tenant
            and len(run.tokens) <= len(tokens)
            and common_prefix_len(run.tokens, tokens) == len(run.tokens)
        ]

    def _remove(self, snapshot_id: int) -> None:
        self._num_tokens -= len(self._runs.pop(snapshot_id).tokens)
