"""A worker with a real model dies, and its streams go on."""

from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from service.core.request import GenerationRequest
from service.core.sampling import SamplingParams
from service.engine.config import EngineConfig
from service.llama.context import LlamaContext
from service.llama.vocab import Vocab
from service.runtime.config import PoolConfig
from service.runtime.pool import EnginePool
from service.telemetry.metrics import Metrics
from tests.llama.builders import MODEL_PATH, assert_same_up_to_rounding, fresh_context
from tests.runtime.builders import kill_a_worker, read_tokens, until

pytestmark = pytest.mark.model

SUBJECTS = ("the sea", "a clock", "salt", "winter")
NUM_TOKENS = 40
ENGINE = EngineConfig(model_path=str(MODEL_PATH), contexts="4x256", threads=2)


@pytest.fixture
def vocab() -> Iterator[Vocab]:
    vocab = Vocab.load(MODEL_PATH)
    yield vocab
    vocab.close()


@pytest.fixture
def reference() -> Iterator[LlamaContext]:
    """A fresh context of this process, for recomputing logits."""
    # Kernels with another attention round otherwise.
    with fresh_context(256, flash_attention=ENGINE.chosen_flash_attention) as context:
        yield context


def ask(vocab: Vocab, subject: str) -> GenerationRequest:
    text = f"<|im_start|>user\nWrite about {subject}.<|im_end|>\n<|im_start|>assistant\n"
    return GenerationRequest(
        request_id=subject,
        prompt=vocab.tokenize(text, parse_special=True),
        sampling=SamplingParams(temperature=0, ignore_eos=True),
        max_tokens=NUM_TOKENS,
    )


async def test_greedy_answers_are_the_undisturbed_ones_up_to_rounding(vocab, reference):
    pool = EnginePool(PoolConfig(engine=ENGINE), vocab.token_bytes, Metrics(CollectorRegistry()))
    requests = [ask(vocab, subject) for subject in SUBJECTS]
    await pool.start()
    try:
        undisturbed = [await read_tokens(stream) for stream in map(pool.submit, requests)]
        streams = [pool.submit(request) for request in requests]
        await until(lambda: all(stream.num_output_tokens >= 8 for stream in streams))
        assert all(stream.stage == "decode" for stream in streams)
        kill_a_worker()
        disturbed = [await read_tokens(stream) for stream in streams]
    finally:
        await pool.stop()
    for request, expected, actual in zip(requests, undisturbed, disturbed, strict=True):
        assert len(actual) == NUM_TOKENS
        assert_same_up_to_rounding(reference, request.prompt, expected, actual)
