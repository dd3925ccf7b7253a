"""Whose request is next: the tenant's that has had the least service for its weight.

Start-time fair queueing (Goyal, Vin, Cheng 1996) over virtual token counters (Sheng et al. 2024,
"Fairness in Serving Large Language Models"). docs/decisions/scheduling.md says why, and the bound.
"""

import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Collection, Iterator

from service.scheduler.account import Account
from service.scheduler.sequence import Sequence

GENERATED_COST = 2.0
"""Prompt tokens that a generated one counts for. Measured on SmolLM2 with full batches: 1.3 to 2.7,
and the paper's own choice; a ratio that is learned would make the order depend on noise."""


class _Tenant:
    __slots__ = ("account", "sequences")

    def __init__(self, account: Account) -> None:
        self.account = account
        self.sequences: OrderedDict[int, Sequence] = OrderedDict()


class FairLine:
    """Sequences of one priority that wait for slots of one class.

    Those that go on come first. Of the others it is the turn of the tenant with the least service,
    and its oldest sequence; of tenants with equal service, of the one that has waited longer.
    """

    def __init__(self) -> None:
        self._resumed: OrderedDict[int, Sequence] = OrderedDict()
        self._tenants: dict[str, _Tenant] = {}
        self._heap: list[tuple[float, int, str]] = []
        """An entry for each of `_tenants`, with service that it had at some time: it is corrected,
        or dropped if the tenant has left, when it comes to the top."""
        self._order = itertools.count()
        self._num_new = 0

    def __len__(self) -> int:
        return len(self._resumed) + self._num_new

    def __iter__(self) -> Iterator[Sequence]:
        yield from self._resumed.values()
        for tenant in self._tenants.values():
            yield from tenant.sequences.values()

    @property
    def least_service(self) -> float:
        """Of the tenants that have new sequences here; infinite if none has."""
        return self._first_tenant().account.service if self._num_new else math.inf

    def first(self) -> Sequence:
        """At least one waits."""
        line = self._resumed or self._first_tenant().sequences
        return next(iter(line.values()))

    def push(self, sequence: Sequence) -> None:
        tenant = self._tenants.get(sequence.tenant)
        if tenant is None:
            tenant = self._tenants[sequence.tenant] = _Tenant(sequence.account)
            self._enqueue(sequence.account, sequence.tenant)
        tenant.account = sequence.account
        tenant.sequences[sequence.id] = sequence
        self._num_new += 1

    def push_front(self, sequence: Sequence) -> None:
        """Before all others, whoever they are: it was their turn already."""
        self._resumed[sequence.id] = sequence
        self._resumed.move_to_end(sequence.id, last=False)

    def remove(self, sequence: Sequence) -> None:
        if self._resumed.pop(sequence.id, None) is None:
            del self._tenants[sequence.tenant].sequences[sequence.id]
            self._num_new -= 1

    def _first_tenant(self) -> _Tenant:
        while True:
            service, _, name = self._heap[0]
            tenant = self._tenants[name]
            if tenant.sequences and service == tenant.account.service:
                return tenant
            heapq.heappop(self._heap)
            if tenant.sequences:
                self._enqueue(tenant.account, name)
            else:
                del self._tenants[name]

    def _enqueue(self, account: Account, name: str) -> None:
        heapq.heappush(self._heap, (account.service, next(self._order), name))


class Level:
    """The tenants of one priority: what each has had, and where its sequences wait.

    Priorities have accounts of their own, so a batch that filled idle slots by night is not held
    against its owner's chats.
    """

    def __init__(self, priority: int, num_classes: int, running: Collection[Sequence]) -> None:
        """`running` is looked at, and changed by others."""
        self.lines = [FairLine() for _ in range(num_classes)]
        self._priority = priority
        self._running = running
        self._accounts: dict[str, Account] = {}
        self._num_present = 0
        self._ahead: list[tuple[float, str]] = []
        """A heap of tenants that left when they had had more than others; some came back."""
        self._is_ahead: set[str] = set()
        """Who stands in it."""
        self._last_begun = Account()
        self._floor = 0.0

    @property
    def is_deserted(self) -> bool:
        return self._num_present == 0

    @property
    def has_waiting(self) -> bool:
        return any(self.lines)

    def enter(self, sequence: Sequence) -> None:
        """A tenant of whom nobody waited has saved nothing up, however little it has had."""
        account = self._accounts.setdefault(sequence.tenant, Account())
        if not account.num_waiting:
            account.service = max(account.service, self._find_floor())
        account.num_present += 1
        self._num_present += 1
        sequence.account = account

    def begin(self, sequence: Sequence) -> None:
        """It got a slot. What is to be computed of its prompt counts now, and only once.

        So the tenant's next sequence is behind those of others at once, and one that gives way pays
        for nothing twice.
        """
        if sequence.has_begun:
            return
        sequence.has_begun = True
        account = sequence.account
        sequence.turn = account.service
        account.service += sequence.num_pending / sequence.weight
        self._last_begun = account

    def leave(self, sequence: Sequence) -> None:
        """Forgets tenants of whom nobody is here and who would be lifted anyway, came they back."""
        sequence.account.num_present -= 1
        self._num_present -= 1
        if sequence.account.num_present:
            return
        self._note_ahead(sequence.account, sequence.tenant)
        floor = self._find_floor()
        while self._ahead and self._ahead[0][0] <= floor:
            _, tenant = heapq.heappop(self._ahead)
            self._is_ahead.remove(tenant)
            account = self._accounts[tenant]
            if account.num_present == 0 and account.service <= floor:
                del self._accounts[tenant]
            elif account.num_present == 0:
                self._note_ahead(account, tenant)

    def _note_ahead(self, account: Account, tenant: str) -> None:
        if tenant not in self._is_ahead:
            self._is_ahead.add(tenant)
            heapq.heappush(self._ahead, (account.service, tenant))

    def _find_floor(self) -> float:
        """The least that any tenant has had for whom there is work; never less than it was.

        Which is not computed yet of a prompt that has begun, its tenant has not had.
        """
        served = (
            sequence.turn
            for sequence in self._running
            if sequence.priority == self._priority and sequence.num_pending > 1
        )
        waiting = (line.least_service for line in self.lines if line)
        least = min(itertools.chain(served, waiting), default=math.inf)
        if least == math.inf:
            least = self._last_begun.service
        self._floor = max(self._floor, least)
        return self._floor


def charge(sequence: Sequence, num_tokens: int) -> None:
    """A step has drawn so many tokens of it. Its prompt, which gave the first, is paid for."""
    if sequence.is_decoding:
        sequence.account.service += num_tokens * GENERATED_COST / sequence.weight
