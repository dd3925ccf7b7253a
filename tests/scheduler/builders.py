"""A worker without a process: scheduler, allocator and simulated engine, driven by hand."""

from dataclasses import dataclass, field

from service.core.messages import SequenceOutput, Submit
from service.core.plan import Plan, make_tokens
from service.core.request import Constraint, ThinkingBudget
from service.core.sampling import SamplingParams
from service.engine.config import SimulatedModel
from service.engine.engine import Engine
from service.engine.simulated_engine import SimulatedEngine, next_token
from service.kvcache.allocator import SlotAllocator
from service.kvcache.size_class import parse_size_classes
from service.kvcache.store import SnapshotStore
from service.scheduler.config import SchedulerConfig
from service.scheduler.scheduler import Scheduler
from tests.scheduler.files import MemoryFiles

ROW_SECONDS = 2.0**-10


def submit(  # noqa: PLR0913 - a request has many fields
    sequence_id: int,
    prompt: list[int],
    *,
    max_tokens: int | None = 8,
    tenant: str = "",
    session: str | None = None,
    priority: int = 0,
    weight: float = 1.0,
    num_public: int = 0,
    num_logprobs: int | None = None,
    thinking: ThinkingBudget | None = None,
    sampling: SamplingParams | None = None,
    constraint: Constraint | None = None,
    prediction: list[int] | None = None,
) -> Submit:
    return Submit(
        sequence_id=sequence_id,
        prompt=prompt,
        sampling=sampling or SamplingParams(),
        max_tokens=max_tokens,
        tenant=tenant,
        session=session,
        priority=priority,
        weight=weight,
        num_public=num_public,
        num_logprobs=num_logprobs,
        share=tenant,
        thinking=thinking,
        constraint=constraint,
        prediction=prediction,
    )


@dataclass
class Outcome:
    tokens: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    num_cached: int = 0


class Driver:
    """Steps a scheduler against an engine and collects what each sequence got."""

    def __init__(self, scheduler: Scheduler, engine: Engine) -> None:
        self.scheduler = scheduler
        self.outcomes: dict[int, Outcome] = {}
        self.plans: list[Plan] = []
        self._engine = engine

    def add(self, request: Submit) -> None:
        self.outcomes[request.sequence_id] = Outcome()
        self.scheduler.add(request)

    def step(self) -> list[SequenceOutput]:
        plan = self.scheduler.plan()
        self.plans.append(plan)
        outputs = self.scheduler.apply(self._engine.execute(plan))
        for output in outputs:
            outcome = self.outcomes[output.sequence_id]
            assert outcome.finish_reason is None
            outcome.tokens += output.token_ids
            outcome.finish_reason = output.finish_reason
            outcome.num_cached = output.num_cached_tokens
        return outputs

    def run(self, max_steps: int = 10_000) -> None:
        for _ in range(max_steps):
            if not self.scheduler.has_work:
                return
            self.step()
        raise AssertionError(f"still working after {max_steps} steps")


class Bench(Driver):
    """A scheduler over the simulated engine."""

    def __init__(  # noqa: PLR0913 - each is what some test is about
        self,
        classes: str = "4x64,1x256",
        *,
        host_cache_tokens: int = 1000,
        disk_cache_tokens: int = 0,
        files: MemoryFiles | None = None,
        config: SchedulerConfig | None = None,
        num_vocab: int = 49152,
        step_seconds: float = 0.0,
        row_seconds: float = ROW_SECONDS,
    ) -> None:
        sizes = parse_size_classes(classes)
        # Nobody waits for these seconds; the pace is learned from them. A target of 9 rows leaves
        # 8 prompt tokens beside one stream, and a chunk so small may take half the target more.
        self.model = SimulatedModel(
            num_vocab=num_vocab,
            bytes_per_token=1,
            step_seconds=step_seconds,
            row_seconds=row_seconds,
        )
        self.engine = SimulatedEngine(self.model, sizes, sleep=lambda _: None)
        self.files = files or MemoryFiles()
        self.engine.use_files(self.files)
        self.store = SnapshotStore(
            host_bytes=host_cache_tokens,
            disk_bytes=disk_cache_tokens,
            bytes_per_token=1,
            costs=self.engine.costs,
        )
        self.allocator = SlotAllocator(sizes, self.store)
        config = config or SchedulerConfig(
            step_tokens=32, target_itl_seconds=9 * ROW_SECONDS, growth_tokens=8
        )
        super().__init__(Scheduler(config, self.allocator, self.engine.eog_tokens), self.engine)

    def settle(self) -> None:
        """Let the disk end what it has begun, and the scheduler learn of it."""
        self.files.settle(self.scheduler, self.store, self.engine)
        self.operate()

    def run(self, max_steps: int = 10_000) -> None:
        """To the end, also of what waits for the disk."""
        while self.scheduler.has_work or self.scheduler.num_waiting:
            super().run(max_steps)
            self.settle()

    def operate(self) -> None:
        """Carry out what piled up, as an idle worker does; otherwise the next step does."""
        if not self.scheduler.has_work:
            self.engine.execute(self.scheduler.plan())

    def forget(self, tenant: str, session: str) -> int:
        freed = self.scheduler.forget((tenant, session))
        self.operate()
        return freed

    def undisturbed(self, request: Submit, max_len: int) -> Outcome:
        """What the request gives alone in a fresh context."""
        tokens = make_tokens(request.prompt)
        limit = max_len
        if request.max_tokens is not None:
            limit = min(max_len, len(tokens) + request.max_tokens)
        while True:
            token = next_token(tokens, self.model.num_vocab)
            if token in self.engine.eog_tokens:
                return Outcome(list(tokens[len(request.prompt) :]), "stop")
            tokens.append(token)
            if len(tokens) >= limit:
                return Outcome(list(tokens[len(request.prompt) :]), "length")
