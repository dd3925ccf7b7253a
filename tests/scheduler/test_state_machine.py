"""Any mixture of arrivals, aborts, sharing, growth and eviction keeps every invariant."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.scheduler.config import SchedulerConfig
from service.scheduler.passes import count_passes
from tests.scheduler.builders import ROW_SECONDS, Bench, submit

CLASSES = "3x32,2x64,1x128"
MAX_LEN = 128
TENANTS = ["", "a", "b"]


class SchedulerMachine(RuleBasedStateMachine):
    """A tiny vocabulary makes prompts share prefixes and generations end early."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(
            CLASSES,
            host_cache_tokens=150,
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
    )
    def arrive(self, shared, own, max_tokens, tenant):
        prompt = ([7, 8, 9, 10] * 23)[:shared] + own
        request = submit(len(self.requests), prompt, max_tokens=max_tokens, tenant=tenant)
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
            rows = sum(chunk.num_tokens for chunk in context.chunks) + len(context.fillers)
            assert rows <= 16 + len(self.bench.allocator.classes[context.class_index])
            if all(chunk.num_tokens == 1 for chunk in context.chunks) and any(
                chunk.draw for chunk in context.chunks
            ):
                assert count_passes(context) == 1

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
            for slot in slots:
                held = self.bench.engine.held(class_index, slot.index)
                assert held == slot.tokens[: slot.num_held]

    @invariant()
    def the_store_keeps_what_it_counts(self):
        assert self.bench.engine.num_segments == self.bench.store.num_segments
        assert self.bench.store.host_bytes <= 150

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
