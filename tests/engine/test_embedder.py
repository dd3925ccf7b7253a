"""Vectors of texts from the embedded model, beside its chats."""

import numpy as np
import pytest

from service.core.plan import make_tokens
from service.core.sampling import SamplingParams
from service.engine.config import EngineConfig
from service.engine.embedding_lane import MAX_CHUNK
from service.engine.llama_engine import LlamaEngine
from service.kvcache.allocator import SlotAllocator
from service.kvcache.size_class import parse_size_classes
from service.kvcache.store import SnapshotStore
from service.llama.vocab import Vocab
from service.scheduler.config import SchedulerConfig
from service.scheduler.scheduler import Scheduler
from tests.llama.builders import MODEL_PATH, TEXT
from tests.scheduler.builders import Driver, submit

pytestmark = pytest.mark.model

CLASSES = "4x128"


@pytest.fixture(scope="module")
def engine():
    config = EngineConfig(
        model_path=str(MODEL_PATH), contexts=CLASSES, threads=2, embedding_len=256
    )
    engine = LlamaEngine(config)
    engine.warm_up()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def tokens():
    vocab = Vocab.load(MODEL_PATH)
    yield make_tokens(vocab.tokenize(TEXT, parse_special=False))
    vocab.close()


def embed(engine, tokens, chunk_len=MAX_CHUNK):
    """The text's vector, computed so many tokens at a time."""
    starts = range(0, len(tokens), chunk_len)
    states = np.sum(
        [engine.embed(tokens, start, min(start + chunk_len, len(tokens))) for start in starts],
        axis=0,
    )
    return states / np.linalg.norm(states)


def test_a_text_has_the_same_vector_again(engine, tokens):
    first = embed(engine, tokens)
    embed(engine, tokens[50:])
    assert np.array_equal(embed(engine, tokens), first)
    assert first.shape == (576,)


@pytest.mark.parametrize("chunk_len", [1, 7, 60])
def test_pieces_make_the_vector_that_the_whole_makes(engine, tokens, chunk_len):
    """Up to the rounding of quantised weights, which differs with the shape of a batch."""
    assert embed(engine, tokens, chunk_len) @ embed(engine, tokens) > 0.9999


def test_other_texts_and_orders_have_other_vectors(engine, tokens):
    reverse = make_tokens(list(reversed(tokens)))
    assert embed(engine, tokens) @ embed(engine, reverse) < 0.999


def test_the_longest_text_fits(engine, tokens):
    longest = (tokens * 4)[:256]
    assert len(longest) == 256
    assert np.isfinite(embed(engine, longest)).all()


def test_what_the_embedder_takes_is_told_with_the_rest(engine):
    without = LlamaEngine(EngineConfig(model_path=str(MODEL_PATH), contexts=CLASSES, threads=2))
    try:
        assert engine.bytes_per_token == without.bytes_per_token
        more = engine.warm_up().kv_bytes - without.warm_up().kv_bytes
        # llama.cpp tells MiB with two digits behind the point
        assert more == pytest.approx(256 * engine.bytes_per_token, rel=0.01)
    finally:
        without.close()


def test_chats_answer_the_same_with_texts_computed_between_their_steps(engine, tokens):
    def chat(*, embeds):
        store = SnapshotStore(host_bytes=0, bytes_per_token=engine.bytes_per_token)
        allocator = SlotAllocator(parse_size_classes(CLASSES), store)
        config = SchedulerConfig(step_tokens=64)
        driver = Driver(Scheduler(config, allocator, engine.eog_tokens), engine)
        greedy = SamplingParams(temperature=0, ignore_eos=True)
        for number in range(3):
            prompt = list(tokens[number * 10 : number * 10 + 20])
            driver.add(submit(number, prompt, max_tokens=12, sampling=greedy))
        while driver.scheduler.has_work:
            driver.step()
            if embeds:
                embed(engine, tokens[:40], 16)
        for slot in range(4):
            engine._contexts[0].truncate(slot, 0)
        return [outcome.tokens for outcome in driver.outcomes.values()]

    assert chat(embeds=True) == chat(embeds=False)
