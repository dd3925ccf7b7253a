"""What the engine says of a token's probability, against the model computed anew."""

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

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
from tests.llama.builders import (
    CHUNK_LENS,
    MODEL_PATH,
    TEXT,
    compute,
    compute_in_chunks,
    fresh_context,
)
from tests.scheduler.builders import Driver, submit

pytestmark = pytest.mark.model

CLASSES = "4x512"
DISTORTED = SamplingParams(
    temperature=1.3, top_k=50, top_p=0.95, seed=5, presence_penalty=1, repetition_penalty=1.2
)
NUM_TOKENS = 24
NUM_TOP = 5


@pytest.fixture
def engine() -> Iterator[LlamaEngine]:
    engine = LlamaEngine(EngineConfig(model_path=str(MODEL_PATH), contexts=CLASSES, threads=2))
    engine.warm_up()
    yield engine
    engine.close()


@pytest.fixture
def fresh() -> Iterator[LlamaContext]:
    """A context that computed nothing yet."""
    with fresh_context(512) as context:
        yield context


def answer(engine, texts):
    """For each text: its prompt, and the tokens of the answer with their logprobs."""
    store = SnapshotStore(host_bytes=1 << 28, bytes_per_token=engine.bytes_per_token)
    allocator = SlotAllocator(parse_size_classes(CLASSES), store)
    driver = Driver(
        Scheduler(SchedulerConfig(step_tokens=128), allocator, engine.eog_tokens), engine
    )
    vocab = Vocab.load(MODEL_PATH)
    prompts = [vocab.tokenize(text, parse_special=False) for text in texts]
    vocab.close()
    for number, prompt in enumerate(prompts):
        request = submit(number, prompt, max_tokens=NUM_TOKENS, sampling=DISTORTED)
        driver.add(msgspec.structs.replace(request, num_logprobs=NUM_TOP))
    answers = [(prompt, []) for prompt in prompts]
    while driver.scheduler.has_work:
        for output in driver.step():
            pairs = zip(output.token_ids, output.logprobs or (), strict=True)
            answers[output.sequence_id][1].extend(pairs)
    return answers


def log_softmax(logits):
    logits = logits.astype(np.float64)
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def test_logprobs_are_those_of_a_recomputation_in_a_fresh_context(engine, fresh):
    [(prompt, answered)] = answer(engine, ["The lighthouse stood on a cliff above the"])
    logits = compute(fresh, 0, prompt)
    for position, (token, measured) in enumerate(answered, len(prompt)):
        expected = log_softmax(logits)
        assert measured.chosen == pytest.approx(expected[token], abs=1e-3)
        assert [value for _, value in measured.top] == pytest.approx(
            np.sort(expected)[::-1][:NUM_TOP], abs=1e-3
        )
        assert [value for _, value in measured.top] == pytest.approx(
            expected[[other for other, _ in measured.top]], abs=1e-3
        )
        logits = compute(fresh, 0, [token], position)
    assert len(answered) > 5


def test_in_a_full_batch_they_differ_by_rounding_only(engine, fresh):
    """llama.cpp rounds differently in each batch shape; see `assert_same_up_to_rounding`."""
    ends = ["The sea was", "Once upon a time there was", "In winter, the", "She said that a map"]
    texts = [TEXT + end for end in ends]
    for prompt, answered in answer(engine, texts):
        tokens = [*prompt, *(token for token, _ in answered)]
        at = len(prompt) + len(answered) // 2
        computed = [compute_in_chunks(fresh, tokens[:at], length) for length in CHUNK_LENS]
        logs = np.stack([log_softmax(logits) for logits in computed])
        token, measured = answered[at - len(prompt)]
        noise = np.ptp(logs, axis=0).max()
        assert abs(measured.chosen - logs[:, token].mean()) <= 1e-3 + 2 * noise
