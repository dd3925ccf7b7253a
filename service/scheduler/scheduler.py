"""The scheduler of one worker: decide a step, then learn what it gave.

add, abort ──> waiting ──admit──> running ──apply──> outputs
                │  ^                 │
                │  ├── outgrew, gave way
                v  │
             following: a running one computes the prefix it shares
             loading: its prefix is read from disk
"""

import itertools
from collections.abc import Callable

from msgspec.structs import replace

from service.core.messages import SequenceOutput, Submit
from service.core.plan import Chunk, ContextPlan, Filler, Plan, StepResult
from service.core.request import FinishReason
from service.core.sampling import TokenLogprobs
from service.kvcache.allocator import Acquired, SlotAllocator
from service.kvcache.tree import SessionKey
from service.scheduler.budget import StepBudget, line_up
from service.scheduler.config import SchedulerConfig
from service.scheduler.fairness import charge
from service.scheduler.followers import Follower, Followers
from service.scheduler.loading import Loading, LoadingSequences
from service.scheduler.pace import Pace
from service.scheduler.queue import WaitingQueue
from service.scheduler.sequence import Sequence
from service.scheduler.speculation import Speculation

USUAL_OUTPUT = 64
"""Tokens. How long answers are taken to be until some have ended."""
SMOOTHING = 0.1
"""Weight of the latest answer in their mean length."""
LOAD_SECONDS = 5.0
"""A disk that takes longer is not waited for: the prefix is computed again."""
MIN_SHARED = 64
"""Tokens. A shorter prefix that another is computing is computed again rather than waited for."""

Row = tuple[int, Sequence, Chunk]
"""Index of a slot, whose it is, and what it computes."""


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
        self._running: dict[int, Sequence] = {}
        self._waiting = WaitingQueue(
            self._num_classes, aging_seconds=config.aging_seconds, running=self._running.values()
        )
        self._followers = Followers()
        self._loading = LoadingSequences()
        self._mean_output = float(USUAL_OUTPUT)
        self._pace = Pace(target_seconds=config.target_itl_seconds, max_tokens=config.step_tokens)
        self._speculation = Speculation(config, allocator.costs, eog_tokens)
        self._plan = Plan()
        self._planned: list[Sequence] = []
        self._num_decode = self._num_prompt = 0
        self.num_drafted = self.num_accepted = 0
        """Guesses of the step that was last applied, and how many of them were right."""

    @property
    def num_waiting(self) -> int:
        return len(self._waiting) + len(self._followers) + len(self._loading)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def has_work(self) -> bool:
        """Whether there is a step to do; not while all there is waits for a disk."""
        is_late = self._loading.next_timeout <= self._allocator.store.now
        return bool(self._running or self._waiting or self._followers or is_late)

    @property
    def next_timeout(self) -> float:
        """When a disk has been waited for long enough."""
        return self._loading.next_timeout

    @property
    def running(self) -> list[Sequence]:
        return list(self._running.values())

    def add(self, request: Submit, *, is_forgotten: bool = False) -> None:
        """Let a request wait for a slot that holds its prompt and some growth.

        Of one that is forgotten already nothing is kept.
        """
        sequence = Sequence(request, max_len=self._allocator.max_len, now=self._allocator.store.now)
        sequence.is_forgotten = is_forgotten
        growth = min(sequence.num_left, self._config.growth_tokens)
        room = sequence.num_tokens + growth
        self._waiting.enter(sequence, self._allocator.smallest_class(room))

    def abort(self, sequence_id: int) -> bool:
        """Forget a sequence, waiting or running; whether there was one."""
        for waiting in (self._waiting, self._followers, self._loading):
            sequence = waiting.remove(sequence_id)
            if sequence is not None:
                self._let_go(sequence)
                return True
        sequence = self._running.get(sequence_id)
        if sequence is None:
            return False
        self._end(sequence)
        return True

    def plan(self) -> Plan:
        """Decide the next step. Until `apply`, nothing else may be called."""
        self._move_up_outgrown()
        self._recall_parked()
        self._admit()
        self._close_holes()
        contexts = self._share_budget()
        self._plan = Plan(self._allocator.take_operations(), contexts)
        return self._plan

    def forget(self, session: SessionKey) -> int:
        """Free what a session left, and what it leaves; how many tokens are free now."""
        self._waiting.forget(session)
        for sequence in [*self._running.values(), *self._followers, *self._loading]:
            if sequence.session == session:
                sequence.is_forgotten = True
        return self._allocator.forget(session)

    def note_read(self, file_id: int, segment_id: int, *, is_good: bool) -> None:
        """A file that the plan of an earlier step loads is in memory, or cannot be read."""
        self._allocator.store.note_read(file_id, segment_id, is_good=is_good)
        for loading in self._loading.take_loaded(file_id):
            self._waiting.push_front(loading.sequence, loading.class_index)

    def apply(self, result: StepResult) -> list[SequenceOutput]:
        """Take in what the planned step computed and drew; what it gave each sequence."""
        self._observe_pace(result.decode_seconds)
        self._allocator.note_copies(result.copies)
        outputs: list[SequenceOutput] = []
        draws = enumerate(result.tokens)
        self.num_drafted = self.num_accepted = 0
        for sequence, chunk in zip(self._planned, self._plan.chunks(), strict=True):
            if chunk.draw is None:
                sequence.advance(chunk.end)
                if not sequence.is_reported:
                    outputs.append(_started(sequence))
            else:
                index, token = next(draws)
                followers = result.followers.get(index, [])
                charge(sequence, 1 + len(followers))
                self._judge_drafts(sequence, len(chunk.drafts), len(followers))
                sequence.advance(chunk.end + len(followers))
                measured = result.logprobs.get(index)
                is_last = index in result.ended
                drawn = [token, *followers]
                outputs.append(self._extend(sequence, drawn, measured, is_last=is_last))
            sequence.is_reported = True
        return outputs

    def count_rows(self) -> tuple[int, int]:
        """Rows of the step that was last applied: of running streams, and of prompts."""
        return self._num_decode, self._num_prompt

    def _observe_pace(self, seconds: float) -> None:
        self._num_decode = self._num_prompt = 0
        num_drafts = depth = 0
        for sequence, chunk in zip(self._planned, self._plan.chunks(), strict=True):
            if sequence.is_decoding:
                self._num_decode += 1
                num_drafts += len(chunk.drafts)
            else:
                self._num_prompt += chunk.num_tokens
                depth += chunk.num_tokens * chunk.start
        plain_seconds = seconds
        if num_drafts:
            num_rows = self._num_decode + num_drafts
            plain_seconds = self._speculation.without_drafts(seconds, self._num_decode, num_rows)
        if self._num_decode or self._num_prompt:
            self._pace.observe(
                num_decode=self._num_decode,
                num_prompt=self._num_prompt,
                seconds=plain_seconds,
                depth=depth / (self._num_prompt or 1),
            )
        if len(self._planned) == self._num_decode == 1:
            [chunk] = self._plan.chunks()
            self._speculation.observe(chunk.num_rows, seconds)
        if self._pace.token_seconds:
            self._allocator.costs.prefill_seconds = self._pace.token_seconds

    def _judge_drafts(self, sequence: Sequence, num_drafts: int, num_right: int) -> None:
        if sequence.drafter is not None:
            sequence.drafter.count(num_drafts, num_right)
        self.num_drafted += num_drafts
        self.num_accepted += num_right

    def _extend(
        self,
        sequence: Sequence,
        drawn: list[int],
        measured: TokenLogprobs | None,
        *,
        is_last: bool,
    ) -> SequenceOutput:
        """Only the last of `drawn` can end the sequence; `measured` is of the only one."""
        added: list[int] = []
        reason: FinishReason | None = None
        for token in drawn:
            assert not sequence.is_complete
            if token in self._eog_tokens:
                reason = "stop"
            else:
                added += sequence.append(token)
        if reason is None and is_last:
            reason = "stop"
        elif reason is None and sequence.is_complete:
            reason = "length"
        if reason is not None:
            self._mean_output += SMOOTHING * (sequence.num_output - self._mean_output)
            self._end(sequence)
        logprobs = None if measured is None else [measured, *[None] * len(added)][: len(added)]
        output = SequenceOutput(sequence.id, added, reason, sequence.num_cached, logprobs)
        drafter = sequence.drafter
        if drafter is None or not drafter.has_prediction:
            return output
        return replace(output, num_accepted=drafter.num_accepted, num_rejected=drafter.num_rejected)

    def _release(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        self._allocator.release(sequence.slot)
        sequence.slot = None

    def _end(self, sequence: Sequence) -> None:
        del self._running[sequence.id]
        self._release(sequence)
        self._let_go(sequence)

    def _let_go(self, sequence: Sequence) -> None:
        """Free what it left, if its session was forgotten while it was here."""
        self._waiting.leave(sequence)
        if sequence.is_forgotten and sequence.session is not None:
            self._allocator.forget(sequence.session)

    def _expect_steps(self, sequence: Sequence) -> int:
        """How long it will probably run."""
        return min(sequence.num_left, int(self._mean_output) + 1)

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
            self._give_way(sequence)

    def _give_way(self, sequence: Sequence) -> None:
        """Let a running sequence wait at the head of its queue; what it computed is reusable."""
        del self._running[sequence.id]
        self._release(sequence)
        needed = sequence.num_tokens + min(sequence.num_left, self._config.growth_tokens)
        self._waiting.push_front(sequence, self._allocator.smallest_class(needed))
        self.num_preemptions += 1

    def _admit(self) -> None:
        """Fill each class from its own queue, then lend what is idle, then let lower ones give way.

        Beside running streams, copying into slots takes no longer than a token should; whoever is
        left has its turn in the next step.
        """
        finders = self._choose_finders()
        if not finders:
            return
        num_parked = len(self._followers) + len(self._loading) + self._allocator.num_slots
        for find_class in finders:
            for queue in range(self._num_classes):
                while self._waiting.has(queue) and self._has_time_to_copy():
                    if len(self._followers) + len(self._loading) >= num_parked:
                        return  # a long line that shares a prefix is taken in over some steps
                    class_index = find_class(queue)
                    if class_index is None:
                        break
                    self._start_or_park(queue, class_index)

    def _choose_finders(self) -> list[Callable[[int], int | None]]:
        """Ways to a slot that may lead to one; none in most steps, however many wait."""
        finders: list[Callable[[int], int | None]] = []
        if len(self._waiting) == 0:
            return finders
        if self._allocator.has_any_idle:
            finders += [self._find_idle, self._find_lender]
        weakest = max(map(_priority_of, self._running.values()), default=None)
        if weakest is not None and weakest > self._waiting.least_priority:
            finders.append(self._find_weaker)
        return finders

    def _has_time_to_copy(self) -> bool:
        """Whether copies planned so far leave running streams their target."""
        if not any(sequence.is_decoding for sequence in self._running.values()):
            return True
        return self._allocator.store.copying_seconds < self._config.target_itl_seconds

    def _find_idle(self, queue: int) -> int | None:
        return queue if self._allocator.has_idle(queue) else None

    def _find_lender(self, queue: int) -> int | None:
        """A longer class with an idle slot that nobody of its own waits for."""
        for lender in range(queue + 1, self._num_classes):
            if self._allocator.has_idle(lender) and not self._waiting.has(lender):
                return lender
        return None

    def _find_weaker(self, queue: int) -> int | None:
        """The class of a slot that a sequence of lower priority would give up."""
        weakest = self._find_weakest(queue)
        return None if weakest is None else _class_of(weakest)

    def _find_weakest(self, queue: int) -> Sequence | None:
        waiting = self._waiting.first(queue)
        lower = [
            sequence
            for sequence in self._running.values()
            if sequence.priority > waiting.priority and _class_of(sequence) >= queue
        ]
        weakest = max(lower, key=self._waiting.rank, default=None)
        if weakest is None or self._waiting.rank(weakest) <= self._waiting.rank(waiting):
            return None
        return weakest

    def _start_or_park(self, queue: int, class_index: int) -> None:
        """Start the head of a queue, in a slot that is idle or that a weaker sequence gives up.

        Or let it wait aside: for a running sequence that computes its prefix, for a disk that has
        it.
        """
        sequence = self._waiting.first(queue)
        provider = self._allocator.find_provider(sequence.prefix, MIN_SHARED)
        if provider is not None:
            owner, num_tokens = provider
            self._waiting.remove(sequence.id)
            self._followers.add(Follower(sequence, queue, self._running[owner], num_tokens))
            return
        files = self._find_files(sequence)
        if files:
            self._waiting.remove(sequence.id)
            sequence.has_loaded = True
            self._loading.add(
                Loading(sequence, queue, files, self._allocator.store.now + LOAD_SECONDS)
            )
            return
        if not self._allocator.has_idle(class_index):
            weakest = self._find_weakest(queue)
            assert weakest is not None
            self._give_way(weakest)
        self._waiting.remove(sequence.id)
        self._start(sequence, class_index)

    def _find_files(self, sequence: Sequence) -> set[int]:
        if sequence.has_loaded or len(self._loading) >= self._allocator.num_slots:
            return set()
        return self._allocator.load(sequence.prefix)

    def _recall_parked(self) -> None:
        for follower in self._followers.take_served():
            self._waiting.push_front(follower.sequence, follower.class_index)
        for loading in self._loading.take_late(self._allocator.store.now):
            self._waiting.push_front(loading.sequence, loading.class_index)

    def _start(self, sequence: Sequence, class_index: int) -> None:
        acquired = self._allocator.acquire(
            sequence.id,
            class_index,
            sequence.path,
            session=sequence.session,
            num_steps=self._expect_steps(sequence),
        )
        sequence.slot = acquired.slot
        sequence.num_computed = acquired.num_cached
        self._waiting.begin(sequence)
        if not sequence.is_reported:
            sequence.num_cached = acquired.num_cached
            self._count_hit(sequence, acquired)
        self._running[sequence.id] = sequence

    def _count_hit(self, sequence: Sequence, acquired: Acquired) -> None:
        """Once a request: what a resumed one finds are its own tokens."""
        if acquired.num_cached:
            is_from_disk = sequence.has_loaded and acquired.source == "host"
            source = "disk" if is_from_disk else acquired.source
            self._allocator.store.counters.hit(source, acquired.num_cached)

    def _share_budget(self) -> list[ContextPlan]:
        """One token for each running sequence, then prompt chunks."""
        decoding = {
            sequence.slot.class_index
            for sequence in self._running.values()
            if sequence.slot is not None and sequence.is_decoding
        }
        seconds = None
        if decoding:
            seconds = self._pace.leave(busy_seconds=self._allocator.store.copying_seconds)
        budget = StepBudget(self._config.step_tokens, pace=self._pace, seconds=seconds)
        rows: list[list[Row]] = [[] for _ in range(self._num_classes)]
        for sequence in line_up(self._running.values()):
            slot = sequence.slot
            assert slot is not None
            num_tokens = sequence.num_pending
            if num_tokens > 1:
                # A prompt beside decoding neighbours gets a token at least: its row keeps the
                # slots around it in one pass.
                least = 1 if slot.class_index in decoding else 0
                num_tokens = budget.take(num_tokens, depth=sequence.num_computed, least=least)
            if num_tokens > 0:
                rows[slot.class_index].append((slot.index, sequence, sequence.chunk(num_tokens)))
        for row in rows:
            row.sort(key=_slot_index)
        self._planned = [sequence for row in rows for _, sequence, _ in row]
        # What running streams leave of a step is its prompts', in whatever context these are.
        has_prompts = any(not sequence.is_decoding for sequence in self._planned)
        return [
            self._plan_context(
                class_index,
                row,
                is_decoding=class_index in decoding,
                may_draft=not has_prompts,
            )
            for class_index, row in enumerate(rows)
            if row
        ]

    def _plan_context(
        self, class_index: int, row: list[Row], *, is_decoding: bool, may_draft: bool
    ) -> ContextPlan:
        chunks = [chunk for _, _, chunk in row]
        if not is_decoding:
            return ContextPlan(class_index, chunks, [])
        fillers = self._bridge_holes(class_index, row)
        if may_draft:
            sequences = [sequence for _, sequence, _ in row]
            chunks = self._speculation.draft(sequences, chunks, fillers)
        return ContextPlan(class_index, chunks, fillers)

    def _close_holes(self) -> None:
        """Keep running slots together, so that they decode in one pass."""
        for class_index in range(self._num_classes):
            while self._has_time_to_copy():
                move = self._allocator.close_hole(
                    class_index, lambda owner: self._expect_steps(self._running[owner])
                )
                if move is None:
                    break
                _, slot = move
                assert slot.owner is not None
                self._running[slot.owner].slot = slot

    def _bridge_holes(self, class_index: int, row: list[Row]) -> list[Filler]:
        """Filler rows in the gaps where they cost less than one more pass."""
        slots = self._allocator.classes[class_index]
        costs = self._allocator.costs
        return [
            Filler(slot.index, self._allocator.make_room(slot))
            for (before, _, _), (after, _, _) in itertools.pairwise(row)
            if after - before > 1 and costs.prefers_filling(after - before - 1)
            for slot in slots[before + 1 : after]
            if slot.owner is None
        ]


def _priority_of(sequence: Sequence) -> int:
    return sequence.priority


def _slot_index(row: Row) -> int:
    return row[0]


def _class_of(sequence: Sequence) -> int:
    assert sequence.slot is not None
    return sequence.slot.class_index


def _started(sequence: Sequence) -> SequenceOutput:
    """Tells the API process that the sequence has left the queue."""
    return SequenceOutput(sequence.id, [], None, sequence.num_cached)
