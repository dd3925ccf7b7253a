"""Any mixture of arrivals, aborts, sharing, growth and eviction keeps every invariant."""

import itertools

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from service.scheduler.config import SchedulerConfig
from service.scheduler.passes import count_passes
from tests.kvcache.invariants import check_store, list_nodes
from tests.scheduler.builders import ROW_SECONDS, Bench, submit

CLASSES = "3x32,2x64,1x128"
MAX_LEN = 128
TENANTS = ["", "a", "b"]
SESSIONS = ["x", "y"]
NUM_PUBLIC = 24


class SchedulerMachine(RuleBasedStateMachine):
    """A tiny vocabulary makes prompts share prefixes and generations end early."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(
            CLASSES,
            host_cache_tokens=150,
            disk_cache_tokens=200,
            num_vocab=23,
            config=SchedulerConfig(
                step_tokens=16, target_itl_seconds=9 * ROW_SECONDS, growth_tokens=8
            ),
        )
        self.requests = {}
        self.aborted: set[int] = set()

    @rule(
        shared=st.integers(0, 60) | st.just(90),
        own=st.lists(st.integers(3, 5), min_size=1, max_size=30),
        max_tokens=st.none() | st.integers(1, 100),
        tenant=st.sampled_from(TENANTS),
        session=st.none() | st.sampled_from(SESSIONS),
        priority=st.sampled_from([-1, 0, 0, 5]),
        is_public=st.booleans(),
        num_foreseen=st.none() | st.integers(0, 40),
    )
    def arrive(self, shared, own, is_public, num_foreseen, **options):
        prompt = ([7, 8, 9, 10] * 23)[:shared] + own
        num_public = min(shared, NUM_PUBLIC) if is_public else 0
        request = submit(len(self.requests), prompt, num_public=num_public, **options)
        if num_foreseen is not None:
            answer = self.bench.undisturbed(request, MAX_LEN).tokens
            guess = [*answer[:num_foreseen], 11, *answer[num_foreseen + 1 :]]
            request = replace(request, prediction=guess)
        self.requests[request.sequence_id] = request
        self.bench.add(request)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def abort(self, data):
        sequence_id = data.draw(st.sampled_from(sorted(self.requests)))
        unfinished = self.bench.outcomes[sequence_id].finish_reason is None
        was_there = self.bench.scheduler.abort(sequence_id)
        assert was_there == (unfinished and sequence_id not in self.aborted)
        if was_there:
            self.aborted.add(sequence_id)

    @rule(seconds=st.sampled_from([0.1, 1, 30]))
    def pass_time(self, seconds):
        self.bench.store.now += seconds

    @rule(tenant=st.sampled_from(TENANTS), session=st.sampled_from(SESSIONS))
    def forget_a_session(self, tenant, session):
        self.bench.forget(tenant, session)
        running = [sequence.session for sequence in self.bench.scheduler.running]
        if (tenant, session) not in running:
            assert (tenant, session) not in dict(self.bench.store.sessions)

    @rule()
    def disk_settles(self):
        self.bench.settle()

    @rule(is_full=st.booleans())
    def disk_fills_or_is_emptied(self, is_full):
        self.bench.files.is_full = is_full

    @precondition(lambda self: self.bench.files.stored)
    @rule(data=st.data())
    def file_breaks(self, data):
        self.bench.files.broken.add(data.draw(st.sampled_from(sorted(self.bench.files.stored))))

    @rule()
    def unused_tokens_expire(self):
        self.bench.store.ttl_seconds = 20
        self.bench.allocator.expire()
        self.bench.operate()
        self.bench.store.ttl_seconds = float("inf")

    @rule()
    def everything_is_written(self):
        """As at the end of a worker, which then goes on here."""
        if self.bench.scheduler.num_running == 0:
            self.bench.allocator.flush()
            self.bench.store.shrink()
            self.bench.operate()

    @rule(count=st.integers(1, 12))
    def step(self, count):
        for _ in range(count):
            if self.bench.scheduler.has_work:
                self.bench.step()
                self._check_plan()

    def _check_plan(self):
        """The plan fits the batch, serves every running sequence, and keeps decoding in a pass."""
        plan = self.bench.plans[-1]
        for context in plan.contexts:
            slots = [chunk.slot for chunk in context.chunks]
            assert slots == sorted(set(slots))
            rows = sum(chunk.num_rows for chunk in context.chunks) + len(context.fillers)
            assert rows <= 16 + len(self.bench.allocator.classes[context.class_index])
            if all(chunk.num_rows == 1 for chunk in context.chunks) and any(
                chunk.draw for chunk in context.chunks
            ):
                assert count_passes(context) == 1 + self._count_wide_gaps(slots)

    def _count_wide_gaps(self, slots):
        """Those where a pass costs less than filler rows."""
        gaps = [b - a - 1 for a, b in itertools.pairwise(slots)]
        costs = self.bench.allocator.costs
        return sum(gap > 0 and not costs.prefers_filling(gap) for gap in gaps)

    @invariant()
    def slots_are_held_once_and_by_the_running(self):
        owners = [
            slot.owner
            for slots in self.bench.allocator.classes
            for slot in slots
            if slot.owner is not None
        ]
        assert sorted(owners) == sorted(sequence.id for sequence in self.bench.scheduler.running)
        for sequence in self.bench.scheduler.running:
            assert sequence.slot is not None
            assert sequence.slot.owner == sequence.id

    @invariant()
    def slots_hold_what_the_allocator_believes(self):
        for class_index, slots in enumerate(self.bench.allocator.classes):
            num_idle = sum(slot.owner is None for slot in slots)
            assert len(slots) - num_idle == self.bench.allocator.num_running(class_index)
            if self.bench.store.has_operations:
                return  # the next step carries them out
            for slot in slots:
                held = self.bench.engine.held(class_index, slot.index)
                assert held == slot.tokens[: slot.num_held]

    @invariant()
    def the_store_keeps_what_it_counts(self):
        check_store(self.bench.store)
        assert self.bench.store.host_bytes <= 150 * 1.25 + MAX_LEN
        if not self.bench.store.has_operations:
            assert self.bench.engine.segments == {
                node.segment: len(node.tokens)
                for node in list_nodes(self.bench.store)
                if node.segment is not None
            }

    def teardown(self):
        """Everything left is served, and every answer is what a fresh context gives."""
        self.bench.run()
        for sequence_id, request in self.requests.items():
            if sequence_id not in self.aborted:
                expected = self.bench.undisturbed(request, MAX_LEN)
                outcome = self.bench.outcomes[sequence_id]
                assert outcome.tokens == expected.tokens
                assert outcome.finish_reason == expected.finish_reason
        assert self.bench.scheduler.num_running == self.bench.scheduler.num_waiting == 0


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
