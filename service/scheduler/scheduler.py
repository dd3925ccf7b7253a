"""The scheduler of one worker: decide a step, then learn what it gave.

add, abort ──> waiting ──admit──> running ──apply──> outputs
                │  ^                 │
                │  ├──── outgrew ────┘
                v  │
             following: a running one computes the prefix it shares
"""

from service.core.messages import SequenceOutput, Submit
from service.core.plan import Chunk, ContextPlan, Filler, Plan, StepResult
from service.core.request import FinishReason
from service.core.sampling import TokenLogprobs
from service.kvcache.allocator import SlotAllocator
from service.kvcache.prefix import common_prefix_len
from service.scheduler.config import SchedulerConfig
from service.scheduler.followers import Follower, Followers
from service.scheduler.pace import Pace
from service.scheduler.queue import WaitingQueue
from service.scheduler.sequence import Sequence

MIN_LEFT_TO_MOVE = 16
"""Tokens. A sequence about to end is not moved into a hole; filler rows bridge it until then."""
MIN_SHARED = 64
"""Tokens. A shorter prefix that another is computing is computed again rather than waited for."""


class Scheduler:
    """Owns every sequence of a worker from `add` to its last output."""

    def __init__(
        self, config: SchedulerConfig, allocator: SlotAllocator, eog_tokens: frozenset[int]
    ) -> None:
        self.num_preemptions = 0
        self._config = config
        self._allocator = allocator
        self._eog_tokens = eog_tokens
        self._num_classes = len(allocator.classes)
        self._waiting = WaitingQueue(self._num_classes)
        self._followers = Followers()
        self._running: dict[int, Sequence] = {}
        self._pace = Pace(target_seconds=config.target_itl_seconds, max_tokens=config.step_tokens)
        self._plan = Plan()
        self._planned: list[Sequence] = []

    @property
    def num_waiting(self) -> int:
        return len(self._waiting) + len(self._followers)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting or self._followers)

    @property
    def running(self) -> list[Sequence]:
        return list(self._running.values())

    def add(self, request: Submit) -> None:
        """Let a request wait for a slot that holds its prompt and some growth."""
        sequence = Sequence(request, max_len=self._allocator.max_len)
        growth = min(sequence.num_left, self._config.growth_tokens)
        room = sequence.num_tokens + growth
        self._waiting.push(sequence, self._allocator.smallest_class(room))

    def abort(self, sequence_id: int) -> bool:
        """Forget a sequence, waiting or running; whether there was one."""
        if self._waiting.remove(sequence_id) or self._followers.remove(sequence_id):
            return True
        sequence = self._running.pop(sequence_id, None)
        if sequence is None:
            return False
        self._release(sequence)
        return True

    def plan(self) -> Plan:
        """Decide the next step. Until `apply`, nothing else may be called."""
        self._move_up_outgrown()
        self._recall_followers()
        self._admit()
        self._close_holes()
        contexts = self._share_budget()
        self._plan = Plan(self._allocator.take_operations(), contexts)
        return self._plan

    def apply(self, result: StepResult) -> list[SequenceOutput]:
        """Take in what the planned step computed and drew; what it gave each sequence."""
        self._observe_pace(result.decode_seconds)
        outputs: list[SequenceOutput] = []
        draws = enumerate(result.tokens)
        for sequence, chunk in zip(self._planned, self._plan.chunks(), strict=True):
            sequence.advance(chunk.end)
            if chunk.draw is not None:
                index, token = next(draws)
                outputs.append(self._extend(sequence, token, result.logprobs.get(index)))
            elif not sequence.is_reported:
                outputs.append(_started(sequence))
            sequence.is_reported = True
        return outputs

    def _observe_pace(self, seconds: float) -> None:
        num_decode = num_prompt = 0
        for sequence, chunk in zip(self._planned, self._plan.chunks(), strict=True):
            if sequence.is_decoding:
                num_decode += 1
            else:
                num_prompt += chunk.num_tokens
        if num_decode or num_prompt:
            self._pace.observe(num_decode=num_decode, num_prompt=num_prompt, seconds=seconds)

    def _extend(
        self, sequence: Sequence, token: int, measured: TokenLogprobs | None
    ) -> SequenceOutput:
        added: list[int] = []
        reason: FinishReason | None = None
        if token in self._eog_tokens:
            reason = "stop"
        else:
            added = sequence.append(token)
            if sequence.is_complete:
                reason = "length"
        if reason is not None:
            del self._running[sequence.id]
            self._release(sequence)
        logprobs = None if measured is None else [measured, *[None] * len(added)][: len(added)]
        return SequenceOutput(sequence.id, added, reason, sequence.num_cached, logprobs)

    def _release(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        self._allocator.release(sequence.slot)
        sequence.slot = None

    def _move_up_outgrown(self) -> None:
        """Send sequences that filled their slot to a longer one, through the head of its queue.

        What they computed stays behind as reusable tokens, and being admitted finds it again.
        """
        outgrown = [
            sequence
            for sequence in self._running.values()
            if sequence.slot is not None and sequence.num_tokens > sequence.slot.length
        ]
        for sequence in outgrown:
            del self._running[sequence.id]
            self._release(sequence)
            needed = sequence.num_tokens + min(sequence.num_left, self._config.growth_tokens)
            self._waiting.push_front(sequence, self._allocator.smallest_class(needed))
            self.num_preemptions += 1

    def _admit(self) -> None:
        """Fill each class from its own queue, then lend what is idle to shorter classes' queues."""
        for class_index in range(self._num_classes):
            while self._waiting.has(class_index) and self._allocator.has_idle(class_index):
                if not self._start_or_follow(class_index, class_index):
                    break
        for class_index in range(self._num_classes):
            while self._waiting.has(class_index):
                lender = self._find_lender(class_index)
                if lender is None or not self._start_or_follow(class_index, lender):
                    break

    def _find_lender(self, class_index: int) -> int | None:
        """A longer class with an idle slot that nobody of its own waits for."""
        for lender in range(class_index + 1, self._num_classes):
            if self._allocator.has_idle(lender) and not self._waiting.has(lender):
                return lender
        return None

    def _start_or_follow(self, queue: int, class_index: int) -> bool:
        """Take the head of a queue; False leaves it there, since enough follow already.

        More followers than slots could not start together anyway, and each costs every step.
        """
        sequence = self._waiting.pop(queue)
        provider, num_tokens = self._find_provider(sequence)
        if provider is None:
            self._start(sequence, class_index)
        elif len(self._followers) < self._allocator.num_slots:
            self._followers.add(Follower(sequence, queue, provider, num_tokens))
        else:
            self._waiting.push_front(sequence, queue)
            return False
        return True

    def _find_provider(self, sequence: Sequence) -> tuple[Sequence | None, int]:
        """A running sequence that is about to compute a prefix of this one worth waiting for."""
        wanted = sequence.tokens[:-1]
        best: Sequence | None = None
        best_len = 0
        for other in self._running.values():
            if other.tenant != sequence.tenant or other.num_pending < MIN_SHARED:
                continue
            shared = common_prefix_len(other.tokens, wanted)
            if shared - other.num_computed >= MIN_SHARED and shared > best_len:
                best, best_len = other, shared
        if best is None:
            return None, 0
        cached = self._allocator.find_cached_len(sequence.tenant, wanted)
        return (best, best_len) if best_len - cached >= MIN_SHARED else (None, 0)

    def _recall_followers(self) -> None:
        for follower in self._followers.take_served():
            self._waiting.push_front(follower.sequence, follower.class_index)

    def _start(self, sequence: Sequence, class_index: int) -> None:
        acquired = self._allocator.acquire(
            sequence.id, class_index, sequence.tenant, sequence.tokens
        )
        sequence.slot = acquired.slot
        sequence.num_computed = acquired.num_cached
        if not sequence.is_reported:
            sequence.num_cached = acquired.num_cached
        self._running[sequence.id] = sequence

    def _share_budget(self) -> list[ContextPlan]:
        """One token for each running sequence, then prompt chunks, first come first served."""
        decoding = {
            sequence.slot.class_index
            for sequence in self._running.values()
            if sequence.slot is not None and sequence.is_decoding
        }
        budget = self._pace.allow() if decoding else self._config.step_tokens
        rows: list[list[tuple[int, Sequence, Chunk]]] = [[] for _ in range(self._num_classes)]
        for sequence in self._running.values():
            slot = sequence.slot
            assert slot is not None
            num_tokens = sequence.num_pending
            if num_tokens > 1:
                # A prompt beside decoding neighbours gets a token at least: its row keeps the
                # slots around it in one pass.
                least = 1 if slot.class_index in decoding else 0
                num_tokens = min(num_tokens, max(budget, least))
                budget -= num_tokens
            if num_tokens > 0:
                rows[slot.class_index].append((slot.index, sequence, sequence.chunk(num_tokens)))
        for row in rows:
            row.sort(key=_slot_index)
        self._planned = [sequence for row in rows for _, sequence, _ in row]
        return [
            ContextPlan(
                class_index,
                [chunk for _, _, chunk in row],
                self._bridge_holes(class_index, row[-1][0]) if class_index in decoding else [],
            )
            for class_index, row in enumerate(rows)
            if row
        ]

    def _close_holes(self) -> None:
        """Keep running slots dense, so that they decode in one pass."""
        for class_index in range(self._num_classes):
            while (hole := self._allocator.find_hole(class_index)) is not None:
                target, last = hole
                assert last.owner is not None
                sequence = self._running[last.owner]
                if sequence.num_left < MIN_LEFT_TO_MOVE:
                    break
                self._allocator.move(last, target)
                sequence.slot = target

    def _bridge_holes(self, class_index: int, last: int) -> list[Filler]:
        slots = self._allocator.classes[class_index][:last]
        return [
            Filler(slot.index, self._allocator.make_room(slot))
            for slot in slots
            if slot.owner is None
        ]


def _slot_index(row: tuple[int, Sequence, Chunk]) -> int:
    return row[0]


def _started(sequence: Sequence) -> SequenceOutput:
    """Tells the API process that the sequence has left the queue."""
    return SequenceOutput(sequence.id, [], None, sequence.num_cached)
