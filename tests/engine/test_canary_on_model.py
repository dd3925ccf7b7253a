"""On the real model: what a conversation gives depends on its own tokens alone.

Its logits are compared with those of a fresh context, turn by turn, while conversations of two
tenants drive each other out of slots, host memory and disk.
"""

import random
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest

from service.core.plan import make_tokens
from service.core.sampling import SamplingParams
from service.engine.config import EngineConfig
from service.engine.engine import Engine
from service.engine.llama_engine import LlamaEngine
from service.kvcache.allocator import SlotAllocator
from service.kvcache.size_class import parse_size_classes
from service.kvcache.store import SnapshotStore
from service.llama.context import LlamaContext
from service.llama.vocab import Vocab
from service.scheduler.config import SchedulerConfig
from service.scheduler.scheduler import Scheduler
from tests.llama.builders import MODEL_PATH, compute, fresh_context
from tests.scheduler.builders import Driver, submit
from tests.scheduler.files import MemoryFiles

pytestmark = pytest.mark.model

CLASSES = "3x192,1x256"
NUM_SESSIONS = 64
NUM_TURNS = 200
MAX_LEN = 230
TOLERANCE = 0.055
"""Of the logits' spread. llama.cpp rounds by the shape of a batch, which moves each logit a little
this way or that; another conversation's tokens in reach move them all, and much further."""
SYSTEM = "<|im_start|>system\nYou keep the secrets that you are told.<|im_end|>\n"


@pytest.fixture
def engine() -> Iterator[LlamaEngine]:
    engine = LlamaEngine(EngineConfig(model_path=str(MODEL_PATH), contexts=CLASSES, threads=2))
    engine.warm_up()
    yield engine
    engine.close()


@pytest.fixture
def reference() -> Iterator[LlamaContext]:
    with fresh_context(256) as context:
        yield context


@pytest.fixture
def vocab() -> Iterator[Vocab]:
    vocab = Vocab.load(MODEL_PATH)
    yield vocab
    vocab.close()


def tell(vocab, number):
    text = f"{SYSTEM}<|im_start|>user\nMy secret number is {7919 * (number + 1)}.<|im_end|>\n"
    return vocab.tokenize(text, parse_special=True)


def ask(vocab):
    text = "<|im_start|>user\nWhat is my secret?<|im_end|>\n<|im_start|>assistant\nIt is"
    return vocab.tokenize(text, parse_special=True)


class ListeningEngine:
    """Carries plans out, and remembers the logits that each run of tokens gave."""

    def __init__(self, engine: LlamaEngine) -> None:
        self.heard: dict[bytes, np.ndarray] = {}
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def execute(self, plan):
        result = self._engine.execute(plan)
        for context in plan.contexts:
            drawn = [chunk for chunk in context.chunks if chunk.draw is not None]
            if drawn:
                logits = self._engine._contexts[context.class_index].logits(len(drawn))
                for chunk, row in zip(drawn, logits, strict=True):
                    self.heard[chunk.tokens[: chunk.end].tobytes()] = row.copy()
        return result


def difference(logits, expected):
    """Root mean square over the vocabulary, of the logits' own spread."""
    drawable = np.isfinite(logits)  # tokens that end a generation were taken out
    gap = logits[drawable] - expected[drawable]
    return float(gap.std() / expected[drawable].std())


def logits_of(context, tokens):
    context.truncate(0, 0)
    return compute(context, 0, tokens)


def test_hundreds_of_turns_of_two_tenants_give_what_a_fresh_context_gives(engine, reference, vocab):
    chance = random.Random(3)
    files = MemoryFiles()
    engine.use_files(files)
    tokens = 64 * 12
    store = SnapshotStore(
        host_bytes=tokens * engine.bytes_per_token,
        disk_bytes=2 * tokens * engine.bytes_per_token,
        bytes_per_token=engine.bytes_per_token,
    )
    allocator = SlotAllocator(parse_size_classes(CLASSES), store)
    config = SchedulerConfig(step_tokens=128, growth_tokens=8)
    listening = ListeningEngine(engine)
    driver = Driver(Scheduler(config, allocator, engine.eog_tokens), cast("Engine", listening))
    histories = {number: tell(vocab, number) for number in range(NUM_SESSIONS)}
    num_system = len(vocab.tokenize(SYSTEM, parse_special=True))
    differences, contaminated = [], []
    for turn in range(0, NUM_TURNS, 4):
        numbers = chance.sample(range(NUM_SESSIONS), 4)
        for offset, number in enumerate(numbers):
            if len(histories[number]) > MAX_LEN - 40:
                histories[number] = tell(vocab, number)
            histories[number] += ask(vocab)
            request = submit(
                turn + offset,
                histories[number],
                max_tokens=2,
                tenant="ab"[number % 2],
                session=f"s{number // 2}",
                num_public=num_system,
                sampling=SamplingParams(temperature=0, ignore_eos=True),
            )
            driver.add(request)
        while driver.scheduler.num_waiting or driver.scheduler.num_running:
            if driver.scheduler.has_work:
                driver.step()
            files.settle(driver.scheduler, store, engine)
        for offset, number in enumerate(numbers):
            first, second = driver.outcomes[turn + offset].tokens
            computed = [*histories[number], first]
            heard = listening.heard[make_tokens(computed).tobytes()]
            differences.append(difference(heard, logits_of(reference, computed)))
            other = tell(vocab, number + 1)[num_system:]
            mixed = [*computed[:num_system], *other, *computed[num_system:]]
            if offset == 0:
                contaminated.append(difference(heard, logits_of(reference, mixed)))
            histories[number] += [first, second]
        listening.heard.clear()
    assert max(differences) < TOLERANCE
    assert np.median(contaminated) > TOLERANCE  # a secret in reach would have been noticed
    assert store.counters.evictions["host"] > 50
    assert min(store.counters.hits[source] for source in ("host", "disk")) > 20
