"""The scheduler over llama.cpp: whatever shares a batch, each request gets what it gets alone."""

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from service.core.messages import Submit
from service.core.plan import Plan, Truncate
from service.core.sampling import SamplingParams
from service.engine.config import EngineConfig
from service.engine.llama_engine import LlamaEngine
from service.kvcache.allocator import SlotAllocator
from service.kvcache.size_class import parse_size_classes
from service.kvcache.store import SnapshotStore
from service.llama.context import LlamaContext
from service.llama.vocab import Vocab
from service.scheduler.config import SchedulerConfig
from service.scheduler.scheduler import Scheduler
from tests.llama.builders import MODEL_PATH, assert_same_up_to_rounding, fresh_context
from tests.scheduler.builders import Driver, submit

pytestmark = pytest.mark.model

CLASSES = "12x256,2x1024"
GREEDY = SamplingParams(temperature=0, ignore_eos=True)
NUM_TOKENS = 24
SUBJECTS = [
    *("the sea", "a clock", "salt", "winter", "a violin", "bread", "a comet", "the desert"),
    *("ink", "a bridge", "tea", "a lighthouse", "sand", "a map", "thunder", "a garden"),
]


@pytest.fixture(scope="module")
def vocab() -> Iterator[Vocab]:
    vocab = Vocab.load(MODEL_PATH)
    yield vocab
    vocab.close()


@pytest.fixture(scope="module")
def engine() -> Iterator[LlamaEngine]:
    engine = LlamaEngine(EngineConfig(model_path=str(MODEL_PATH), contexts=CLASSES, threads=2))
    assert engine.warm_up().can_copy
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def reference() -> Iterator[LlamaContext]:
    """A fresh context beside the engine, for recomputing logits."""
    with fresh_context(1024) as context:
        yield context


def drive(engine: LlamaEngine, *, host_cache_bytes: int = 1 << 28, max_drafts: int = 8) -> Driver:
    """A new scheduler over the engine, with empty slots."""
    store = SnapshotStore(host_bytes=host_cache_bytes, bytes_per_token=engine.bytes_per_token)
    allocator = SlotAllocator(parse_size_classes(CLASSES), store)
    slots = [slot for slots in allocator.classes for slot in slots]
    engine.execute(Plan([Truncate(slot.class_index, slot.index, 0) for slot in slots]))
    config = SchedulerConfig(step_tokens=128, growth_tokens=32, max_drafts=max_drafts)
    return Driver(Scheduler(config, allocator, engine.eog_tokens), engine)


def ask(vocab: Vocab, sequence_id: int, text: str, **changes) -> Submit:
    prompt = vocab.tokenize(
        f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n", parse_special=True
    )
    return submit(sequence_id, prompt, **{"max_tokens": NUM_TOKENS, "sampling": GREEDY} | changes)


def test_sixteen_concurrent_requests_get_what_each_gets_alone(engine, reference, vocab):
    requests = [
        ask(vocab, number, f"Write a line about {subject}.")
        for number, subject in enumerate(SUBJECTS)
    ]
    together = drive(engine)
    for request in requests:
        together.add(request)
    together.run()
    for request in requests:
        alone = drive(engine)
        alone.add(request)
        alone.run()
        assert_same_up_to_rounding(
            reference,
            request.prompt,
            alone.outcomes[request.sequence_id].tokens,
            together.outcomes[request.sequence_id].tokens,
        )


def test_seeded_draws_do_not_depend_on_the_batch(engine, vocab):
    """At so low a temperature and top_k the same near-ties decide as for greedy, mostly none."""
    params = SamplingParams(temperature=0.3, top_k=3, seed=11, ignore_eos=True)
    request = ask(vocab, 99, "Name three colours.", max_tokens=8, sampling=params)
    alone = drive(engine)
    alone.add(request)
    alone.run()
    again = drive(engine)
    again.add(request)
    again.run()
    assert again.outcomes[99].tokens == alone.outcomes[99].tokens


@pytest.mark.parametrize("temperature", [0, 0.3])
def test_guessed_tokens_are_those_that_come_one_by_one(engine, reference, vocab, temperature):
    params = SamplingParams(temperature=temperature, top_k=3, seed=5, ignore_eos=True)
    request = ask(
        vocab,
        1,
        "Repeat: one two three four one two three four one two three four.",
        max_tokens=60,
        sampling=params,
    )
    plain = drive(engine, max_drafts=0)
    plain.add(request)
    plain.run()
    guessing = drive(engine)
    guessing.add(replace(request, prediction=plain.outcomes[1].tokens))
    guessing.run()
    assert any(chunk.drafts for plan in guessing.plans for chunk in plan.chunks())
    assert len(guessing.plans) < len(plain.plans)
    assert_same_up_to_rounding(
        reference, request.prompt, plain.outcomes[1].tokens, guessing.outcomes[1].tokens
    )


def test_sequence_that_moves_up_a_class_writes_what_it_writes_in_place(engine, reference, vocab):
    request = ask(vocab, 1, "Tell a story. " * 60, max_tokens=40)
    assert len(request.prompt) < 256 < len(request.prompt) + 40
    moved = drive(engine)
    moved.add(request)
    moved.run()
    assert moved.scheduler.num_preemptions in {0, 1}
    alone = drive(engine)
    alone.add(ask(vocab, 1, "Tell a story. " * 60, max_tokens=40))
    alone.run()
    assert_same_up_to_rounding(
        reference, request.prompt, alone.outcomes[1].tokens, moved.outcomes[1].tokens
    )


def test_next_turn_starts_from_the_cache_and_answers_as_from_nothing(engine, reference, vocab):
    driver = drive(engine)
    first = ask(vocab, 1, "Write a line about snow.")
    driver.add(first)
    driver.run()
    history = first.prompt + driver.outcomes[1].tokens
    more = vocab.tokenize("<|im_end|>\n<|im_start|>user\nAnd rain?<|im_end|>\n", parse_special=True)
    second = submit(2, history + more, max_tokens=NUM_TOKENS, sampling=GREEDY)
    driver.add(second)
    driver.run()
    assert driver.outcomes[2].num_cached == len(history) - 1
    fresh = drive(engine)
    fresh.add(second)
    fresh.run()
    assert_same_up_to_rounding(
        reference, second.prompt, fresh.outcomes[2].tokens, driver.outcomes[2].tokens
    )


def test_more_conversations_than_slots_come_back_from_host_memory(engine, reference, vocab):
    driver = drive(engine)
    turns = [
        ask(
            vocab,
            n,
            f"{SUBJECTS[n]}: describe it in a few words, as you would to a child.",
            max_tokens=8,
        )
        for n in range(16)
    ]
    for turn in turns:
        driver.add(turn)
    driver.run()
    more = vocab.tokenize("<|im_end|>\n<|im_start|>user\nMore.<|im_end|>\n", parse_special=True)
    later = [
        submit(
            turn.sequence_id + 100,
            turn.prompt + driver.outcomes[turn.sequence_id].tokens + more,
            max_tokens=4,
            sampling=GREEDY,
        )
        for turn in turns
    ]
    for turn, request in zip(turns, later, strict=True):
        driver.add(request)
        driver.run()
        num_history = len(request.prompt) - len(more)
        assert driver.outcomes[request.sequence_id].num_cached >= num_history - 1, turn
    for request in later:
        fresh = drive(engine)
        fresh.add(request)
        fresh.run()
        assert_same_up_to_rounding(
            reference,
            request.prompt,
            fresh.outcomes[request.sequence_id].tokens,
            driver.outcomes[request.sequence_id].tokens,
        )
