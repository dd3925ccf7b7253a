"""Whatever the schema, what the model writes under it is valid: a hundred schemas, two ways."""

import json
import re
from collections.abc import Iterator

import jsonschema
import pytest
from msgspec.structs import replace

from service.core.plan import Plan, Truncate
from service.core.request import Constraint, ThinkingBudget
from service.core.sampling import SamplingParams
from service.engine.config import EngineConfig
from service.engine.llama_engine import LlamaEngine
from service.grammar import forms
from service.kvcache.allocator import SlotAllocator
from service.kvcache.size_class import parse_size_classes
from service.kvcache.store import SnapshotStore
from service.llama.vocab import Vocab
from service.scheduler.config import SchedulerConfig
from service.scheduler.scheduler import Scheduler
from tests.grammar.schemas import SCHEMAS
from tests.llama.builders import MODEL_PATH
from tests.scheduler.builders import Driver, Outcome, submit

pytestmark = pytest.mark.model

CLASSES = "25x192"
PROMPT = "<|im_start|>user\nMake up some JSON.<|im_end|>\n<|im_start|>assistant\n"
GREEDY = SamplingParams(temperature=0)
PLAIN = SamplingParams(temperature=0, ignore_eos=True)


@pytest.fixture(scope="module")
def vocab() -> Iterator[Vocab]:
    vocab = Vocab.load(MODEL_PATH)
    yield vocab
    vocab.close()


@pytest.fixture(scope="module")
def engine() -> Iterator[LlamaEngine]:
    engine = LlamaEngine(EngineConfig(model_path=str(MODEL_PATH), contexts=CLASSES, threads=2))
    engine.warm_up()
    yield engine
    engine.close()


def drive(engine) -> Driver:
    store = SnapshotStore(host_bytes=0, bytes_per_token=engine.bytes_per_token)
    allocator = SlotAllocator(parse_size_classes(CLASSES), store)
    slots = [slot for slots in allocator.classes for slot in slots]
    engine.execute(Plan([Truncate(slot.class_index, slot.index, 0) for slot in slots]))
    config = SchedulerConfig(step_tokens=256, growth_tokens=32)
    return Driver(Scheduler(config, allocator, engine.eog_tokens), engine)


def ask(vocab, sequence_id, grammar=None, **changes):
    prompt = vocab.tokenize(PROMPT, parse_special=True)
    constraint = None if grammar is None else Constraint(grammar=grammar)
    request = submit(sequence_id, prompt, **{"max_tokens": 150, "sampling": GREEDY} | changes)
    return replace(request, constraint=constraint)


def read(vocab, outcome) -> str:
    return b"".join(map(vocab.token_bytes, outcome.tokens)).decode()


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_hundred_schemas_give_valid_instances(engine, vocab, temperature):
    driver = drive(engine)
    for number, schema in enumerate(SCHEMAS.values()):
        sampling = SamplingParams(temperature=temperature, seed=number)
        driver.add(ask(vocab, number, forms.json_schema(schema), sampling=sampling))
    driver.run()
    invalid = {}
    for number, (name, schema) in enumerate(SCHEMAS.items()):
        outcome = driver.outcomes[number]
        try:
            assert outcome.finish_reason == "stop"
            jsonschema.validate(json.loads(read(vocab, outcome)), schema)
        except (AssertionError, ValueError, jsonschema.ValidationError):
            invalid[name] = outcome.finish_reason, read(vocab, outcome)
    assert not invalid


def test_neighbours_in_the_batch_are_not_touched(engine, vocab):
    free = ask(vocab, 0, max_tokens=24, sampling=PLAIN)
    alone = drive(engine)
    alone.add(free)
    alone.run()
    together = drive(engine)
    together.add(free)
    together.add(ask(vocab, 1, forms.choice(["the quick brown fox jumps over the lazy dog"])))
    together.run()
    assert together.outcomes[0] == alone.outcomes[0]


def test_a_sequence_that_goes_on_elsewhere_gives_what_it_would_have(engine, vocab):
    grammar = forms.json_schema(SCHEMAS["invoice"])
    request = ask(vocab, 0, grammar, sampling=SamplingParams(seed=3))
    whole = drive(engine)
    whole.add(request)
    whole.run()
    tokens = whole.outcomes[0].tokens
    rest = drive(engine)
    prompt = request.prompt + tokens[:9]
    rest.add(replace(request, prompt=prompt, num_generated=9))
    rest.run()
    assert tokens[:9] + rest.outcomes[0].tokens == tokens


def test_an_end_that_nothing_may_follow_takes_no_step_of_its_own(engine, vocab):
    driver = drive(engine)
    driver.add(ask(vocab, 0, forms.choice(["yes", "no"])))
    driver.run()
    outcome = driver.outcomes[0]
    assert read(vocab, outcome) in {"yes", "no"}
    assert len(driver.plans) == len(outcome.tokens)


def test_max_tokens_cuts_and_says_so(engine, vocab):
    driver = drive(engine)
    driver.add(ask(vocab, 0, forms.choice(["a long answer that is cut"]), max_tokens=2))
    driver.run()
    assert driver.outcomes[0].finish_reason == "length"


def test_ignore_eos_ends_with_the_grammar(engine, vocab):
    driver = drive(engine)
    driver.add(ask(vocab, 0, forms.regex("ab?"), sampling=PLAIN))
    driver.run()
    assert driver.outcomes[0].finish_reason == "stop"


def test_a_thought_is_free_and_cannot_be_the_end(engine, vocab):
    """Here a line end is what closes a thought."""
    (line_end,) = vocab.tokenize("\n", parse_special=False)
    grammar = forms.after_thought(forms.choice(["yes", "no"]))
    unclosed = SamplingParams(temperature=0, logit_bias=((line_end, -100.0),))
    driver = drive(engine)
    driver.add(
        replace(
            ask(vocab, 0, grammar, sampling=unclosed),
            constraint=Constraint(grammar=grammar, begin_token=line_end),
            thinking=ThinkingBudget(
                max_tokens=6, end_token=line_end, closing_tokens=(line_end, line_end)
            ),
        )
    )
    driver.run()
    tokens = driver.outcomes[0].tokens
    assert tokens.index(line_end) == 6
    assert re.fullmatch("\n{1,3}(yes|no)", read(vocab, Outcome(tokens[6:])))


def test_matchers_are_kept_for_the_latest_step_only(engine, vocab):
    driver = drive(engine)
    for number in range(4):
        driver.add(ask(vocab, number, forms.regex(f"a{{{3 * number + 3}}}")))
    driver.step()
    assert engine._constraints.num_matchers == 4
    driver.run()
    driver.add(ask(vocab, 9, max_tokens=2))
    driver.run()
    assert engine._constraints.num_matchers == 0


def test_a_matcher_that_fails_ends_its_sequence_alone(engine, vocab):
    driver = drive(engine)
    driver.add(ask(vocab, 0, "no grammar at all"))
    driver.add(ask(vocab, 1, forms.choice(["yes"])))
    driver.run()
    assert driver.outcomes[0].finish_reason == "stop"
    assert read(vocab, driver.outcomes[1]) == "yes"


def test_text_is_never_written_with_markup_tokens(engine, vocab):
    driver = drive(engine)
    tag = "<|im_start|>"
    driver.add(ask(vocab, 0, forms.choice([tag])))
    driver.run()
    assert read(vocab, driver.outcomes[0]) == tag
    assert vocab.special_id(tag) not in driver.outcomes[0].tokens
