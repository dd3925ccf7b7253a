"""The facts of llama.cpp that slots, snapshots and sharing rest on, on the embedded model."""

import numpy as np
import pytest

from service.errors import LlamaError, ModelFileError
from service.llama.context import ContextShape, LlamaContext
from service.llama.model import LlamaModel
from service.llama.snapshot import cut
from service.llama.vocab import Vocab
from tests.llama.builders import MODEL_PATH, TEXT, compute

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def model():
    model = LlamaModel(MODEL_PATH)
    yield model
    model.close()


@pytest.fixture(scope="module")
def tokens():
    vocab = Vocab.load(MODEL_PATH)
    yield vocab.tokenize(TEXT, parse_special=False)
    vocab.close()


def open_context(model: LlamaModel, *, num_slots: int, slot_len: int) -> LlamaContext:
    shape = ContextShape(num_slots=num_slots, slot_len=slot_len, batch_len=256, threads=2)
    return LlamaContext(model, shape)


@pytest.fixture(scope="module")
def many(model):
    context = open_context(model, num_slots=4, slot_len=256)
    yield context
    context.close()


@pytest.fixture(scope="module")
def one(model):
    context = open_context(model, num_slots=1, slot_len=1024)
    yield context
    context.close()


@pytest.fixture(autouse=True)
def _empty_slots(many, one):
    for context in (many, one):
        for slot in range(context.num_slots):
            context.truncate(slot, 0)


def test_snapshot_continues_bit_for_bit_in_a_context_of_another_shape(many, one, tokens):
    compute(many, 2, tokens)
    one.restore(0, [many.save(2)], len(tokens))
    assert one.num_computed(0) == len(tokens)
    assert np.array_equal(compute(one, 0, [5], len(tokens)), compute(many, 2, [5], len(tokens)))


def test_snapshot_that_went_through_a_smaller_context_and_back_is_unchanged(many, one, tokens):
    compute(one, 0, tokens)
    many.restore(3, [one.save(0)], len(tokens))
    expected = compute(one, 0, [5], len(tokens))
    one.restore(0, [many.save(3)], len(tokens))
    assert np.array_equal(compute(one, 0, [5], len(tokens)), expected)


def test_cropped_snapshot_continues_as_a_truncated_slot(many, one, tokens):
    compute(many, 0, tokens)
    one.restore(0, [many.save(0)], 20)
    many.truncate(0, 20)
    assert np.array_equal(compute(one, 0, [7], 20), compute(many, 0, [7], 20))


def test_parts_stay_what_they_were_when_other_states_pass_through(many, one, tokens):
    compute(many, 0, tokens)
    whole = many.save(0)
    parts = many.save_parts(0, [(0, 12), (12, 50)])
    compute(many, 1, tokens[::-1])
    many.restore(2, many.save_parts(1, [(0, 40)]), 40)
    assert [(part.start, part.end) for part in parts] == [(0, 12), (12, 50)]
    for part in parts:
        assert np.array_equal(part.cells, cut(whole, part.start, part.end).cells)
    one.restore(0, parts, 50)
    many.truncate(0, 50)
    assert np.array_equal(compute(one, 0, [7], 50), compute(many, 0, [7], 50))


def test_restored_slot_holds_nothing_of_what_was_there(many, one, tokens):
    compute(many, 0, tokens[:30])
    snapshot = many.save(0)
    compute(one, 0, tokens[40:])
    one.restore(0, [snapshot], 30)
    assert one.num_computed(0) == 30
    assert np.array_equal(compute(one, 0, [7], 30), compute(many, 0, [7], 30))


def test_neighbours_do_not_change_a_slots_logits_beyond_rounding(many, tokens):
    alone = compute(many, 1, tokens[:40])
    many.truncate(1, 0)
    for slot in (0, 2, 3):
        compute(many, slot, tokens[slot * 10 :])
    assert np.array_equal(compute(many, 1, tokens[:40]), alone)


def test_empty_slot_saves_and_restores_as_empty(many, one, tokens):
    compute(one, 0, tokens[:10])
    one.restore(0, [many.save(1)], 0)
    assert one.num_computed(0) == 0


def test_row_without_room_is_an_error_that_says_so(many, tokens):
    compute(many, 0, (tokens * 3)[:256])
    with pytest.raises(LlamaError, match="no free cells"):
        compute(many, 0, [1], 256)


def test_memory_is_told_by_purpose(model, many):
    assert model.memory.model_bytes > 90_000_000
    # 30 layers, keys and values of 3 heads of 64 in f16, for 4 slots of 256 tokens.
    assert many.memory.kv_bytes == 30 * 2 * 3 * 64 * 2 * 4 * 256
    assert many.memory.compute_bytes > 0


def test_file_that_is_no_model_is_an_error(tmp_path):
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelFileError, match="broken"):
        LlamaModel(path)
    with pytest.raises(ModelFileError, match="broken"):
        Vocab.load(path)
