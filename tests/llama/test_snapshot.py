"""Snapshots: cutting a sequence's state into segments, and joining them again."""

import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import LlamaError
from service.llama.context import ContextShape, LlamaContext
from service.llama.model import LlamaModel
from service.llama.snapshot import (
    HEADER_LEN,
    Bytes,
    Snapshot,
    canonical,
    cut,
    parse_snapshot,
    state_size,
    write_state,
)
from service.llama.vocab import Vocab
from tests.llama.builders import MODEL_PATH, TEXT, compute

NUM_LAYERS, ROW_LEN, NUM_ROWS, ELEMENT_LEN = 2, 6, 3, 2
MAGIC = 0x67677371


def cells(
    num_tokens: int, *, start: int = 0, transposed: bool = True, row_len: int = ROW_LEN
) -> bytes:
    """What llama.cpp writes for one stream; each value tells its place."""
    values = np.random.default_rng(7)
    rows = values.integers(0, 256, (2 * NUM_LAYERS, 99, row_len), np.uint8)
    rows = rows[:, start : start + num_tokens]
    columns = values.integers(0, 256, (NUM_LAYERS, NUM_ROWS, 99 * ELEMENT_LEN), np.uint8)
    columns = columns[:, :, start * ELEMENT_LEN : (start + num_tokens) * ELEMENT_LEN]
    written = struct.pack("<I", num_tokens)
    for position in range(start, start + num_tokens):
        written += struct.pack("<iIi", position, 1, 4)
    written += struct.pack("<II", transposed, NUM_LAYERS)
    for layer in range(NUM_LAYERS):
        written += struct.pack("<iQ", 1, row_len) + rows[layer].tobytes()
    for layer in range(NUM_LAYERS):
        if transposed:
            written += struct.pack("<iII", 1, ELEMENT_LEN, NUM_ROWS) + columns[layer].tobytes()
        else:
            written += struct.pack("<iQ", 1, row_len) + rows[NUM_LAYERS + layer].tobytes()
    return written


def as_array(written: bytes) -> Bytes:
    return np.frombuffer(written, np.uint8)


def snapshot(num_tokens: int, **changes) -> Snapshot:
    return parse_snapshot(as_array(cells(num_tokens, **changes)))


def joined(parts: list[Snapshot], num_tokens: int) -> bytes:
    out = np.full(state_size(parts, num_tokens, num_streams=1), 255, np.uint8)
    write_state(parts, num_tokens, magic=MAGIC, num_streams=1, out=out)
    return out[HEADER_LEN:].tobytes()


def cut_at(whole: Snapshot, points: list[int]) -> list[Snapshot]:
    ends = sorted({*points, whole.end} - {0})
    return [cut(whole, start, end) for start, end in zip([0, *ends], ends, strict=False)]


points_of_40 = st.lists(st.integers(1, 39), max_size=5)


@pytest.mark.parametrize("transposed", [True, False])
def test_cut_is_what_llama_cpp_writes_for_those_tokens(transposed):
    whole = snapshot(20, transposed=transposed)
    part = cut(whole, 3, 11)
    assert (part.start, part.end, part.num_tokens) == (3, 11, 8)
    assert part.cells.tobytes() == cells(8, start=3, transposed=transposed)
    assert cut(part, 5, 7).cells.tobytes() == cells(2, start=5, transposed=transposed)


@pytest.mark.parametrize("transposed", [True, False])
@settings(deadline=None)
@given(points=points_of_40, num_tokens=st.integers(1, 40))
def test_joined_parts_are_the_first_tokens_of_the_whole(transposed, points, num_tokens):
    parts = cut_at(snapshot(40, transposed=transposed), points)
    assert joined(parts, num_tokens) == cells(num_tokens, transposed=transposed)


def test_cut_is_a_copy():
    written = np.array(as_array(cells(5)))
    part = cut(parse_snapshot(written), 0, 5)
    written[:] = 0
    assert part.cells.tobytes() == cells(5)


@pytest.mark.parametrize(("num_streams", "slot"), [(1, 0), (4, 0), (4, 2), (4, 3)])
def test_state_fits_a_context_of_any_number_of_slots(num_streams, slot):
    whole = snapshot(5)
    state = np.full(state_size([whole], 5, num_streams=num_streams), 255, np.uint8)
    write_state([whole], 5, magic=MAGIC, num_streams=num_streams, out=state)
    assert state[:HEADER_LEN].view(np.uint32).tolist() == [MAGIC, 0, num_streams]
    # As that context itself would write it from the slot: empty streams before, not only behind.
    rolled = np.concatenate([
        state[:HEADER_LEN], np.zeros(4 * slot, np.uint8), state[HEADER_LEN : len(state) - 4 * slot]
    ])  # fmt: skip
    assert canonical(rolled, slot=slot).cells.tobytes() == cells(5)


def test_slot_without_tokens_is_an_empty_snapshot():
    state = np.zeros(HEADER_LEN + 4 * 3, np.uint8)
    state[8] = 3
    empty = canonical(state, slot=1)
    assert (empty.num_tokens, empty.num_bytes) == (0, 4)


def test_cut_outside_of_what_is_held_is_an_error():
    part = cut(snapshot(20), 5, 15)
    for start, end in [(4, 10), (10, 16), (7, 7), (9, 8)]:
        with pytest.raises(LlamaError, match="not within 5 to 15"):
            cut(part, start, end)


def test_parts_that_make_no_state_are_an_error():
    whole = snapshot(20)
    first, second, third = cut_at(whole, [5, 9])
    other = snapshot(11, start=9, row_len=ROW_LEN + 2)
    for parts, num_tokens, match in [
        ([first, third], 20, "from 9 does not follow 5 tokens"),
        ([second, third], 11, "from 5 does not follow 0 tokens"),
        ([first, second, other], 20, "different layouts"),
        ([first, second], 10, "of 9 tokens do not make a state of 10"),
        ([whole], 0, "do not make a state of 0"),
    ]:
        with pytest.raises(LlamaError, match=match):
            joined(parts, num_tokens)


def test_buffer_too_small_is_an_error():
    out = np.empty(100, np.uint8)
    with pytest.raises(LlamaError, match="does not fit a buffer of 100"):
        write_state([snapshot(20)], 20, magic=MAGIC, num_streams=1, out=out)


@pytest.mark.parametrize("transposed", [True, False])
def test_state_that_ends_anywhere_else_is_an_error(transposed):
    written = cells(5, transposed=transposed)
    for length in range(4, len(written)):
        if length == keys_end(written):
            continue
        with pytest.raises(LlamaError, match="not laid out"):
            parse_snapshot(as_array(written[:length]))
    with pytest.raises(LlamaError, match="not laid out"):
        parse_snapshot(as_array(written + b"\0"))


def keys_end(written: bytes) -> int:
    """A model may keep no values (MLA); its state ends after the keys."""
    assert len(written) > 0
    return 4 + 5 * 12 + 8 + NUM_LAYERS * (12 + 5 * ROW_LEN)


def test_state_of_keys_alone_is_cut_as_any():
    written = cells(5)
    keys = parse_snapshot(as_array(written[: keys_end(written)]))
    assert joined(cut_at(keys, [2]), 5) == written[: keys_end(written)]


@pytest.mark.parametrize(
    ("offset", "value", "match"),
    [
        (0, 6, "not laid out"),
        (4, 3, "positions are not consecutive"),
        (4 + 12, 0, "positions are not consecutive"),
        (4 + 4, 2, "does not belong to one sequence"),
        (4 + 5 * 12, 2, "v_trans is 2"),
        (4 + 5 * 12 + 4, 1, "not laid out"),
        (4 + 5 * 12 + 8 + 4, 0, "plane 1 has 1 rows of 0 a cell"),
    ],
)
def test_header_that_does_not_add_up_is_an_error_that_says_why(offset, value, match):
    written = bytearray(cells(5))
    written[offset : offset + 4] = struct.pack("<I", value)
    with pytest.raises(LlamaError, match=match):
        parse_snapshot(as_array(bytes(written)))


@settings(deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_snapshot_or_an_error(data):
    try:
        parse_snapshot(as_array(data))
    except LlamaError:
        return


@settings(deadline=None)
@given(index=st.integers(0, len(cells(5)) - 1), value=st.integers(0, 255))
def test_any_changed_byte_is_a_snapshot_or_an_error(index, value):
    written = bytearray(cells(5))
    written[index] = value
    try:
        found = parse_snapshot(as_array(bytes(written)))
    except LlamaError:
        return
    assert found.layout.size(found.num_tokens) == len(written)


@pytest.fixture(scope="module")
def model():
    model = LlamaModel(MODEL_PATH)
    yield model
    model.close()


@pytest.fixture(scope="module")
def tokens():
    vocab = Vocab.load(MODEL_PATH)
    yield vocab.tokenize(TEXT, parse_special=False)[:40]
    vocab.close()


KINDS = [
    *((kv_type, attention) for kv_type in ("f16", "f32", "bf16") for attention in ("off", "on")),
    *(("q8_0", "on"), ("q4_0", "on")),
]


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def contexts(request, model):
    kv_type, attention = request.param
    opened = [
        LlamaContext(
            model,
            ContextShape(
                num_slots=num_slots,
                slot_len=256,
                batch_len=64,
                threads=1,
                kv_type=kv_type,
                flash_attention=attention,
            ),
        )
        for num_slots in (3, 1)
    ]
    yield opened
    for context in opened:
        context.close()


@pytest.mark.model
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(points=points_of_40, num_tokens=st.integers(1, 40), slot=st.integers(0, 2))
def test_state_cut_and_joined_continues_bit_for_bit(contexts, tokens, points, num_tokens, slot):
    many, one = contexts
    one.truncate(0, 0)
    compute(one, 0, tokens)
    parts = cut_at(one.save(0), points)
    one.truncate(0, num_tokens)
    many.restore(slot, parts, num_tokens)
    assert many.num_computed(slot) == num_tokens
    expected = compute(one, 0, [5], num_tokens)
    assert np.array_equal(compute(many, slot, [5], num_tokens), expected)


@pytest.mark.model
def test_cells_stay_in_order_of_position_whatever_a_slot_went_through(contexts, tokens):
    """A snapshot of cells in another order would be refused."""
    many, one = contexts
    one.truncate(0, 0)
    compute(one, 0, tokens)
    parts = cut_at(one.save(0), [7, 20])
    random = np.random.default_rng(3)
    for _ in range(40):
        slot = int(random.integers(3))
        many.truncate(slot, int(random.integers(many.num_computed(slot) + 1)))
        if random.random() < 0.3:
            many.restore(slot, parts, int(random.integers(1, 41)))
        length = many.num_computed(slot)
        if length + 9 < many.slot_len:
            compute(many, slot, tokens[: int(random.integers(1, 9))], length)
        assert many.save(slot).num_tokens == many.num_computed(slot)


@pytest.mark.model
def test_long_state_is_restored_cropped_into_a_shorter_slot(model, tokens):
    short, long = (
        LlamaContext(model, ContextShape(num_slots=1, slot_len=slot_len, batch_len=512, threads=1))
        for slot_len in (256, 512)
    )
    compute(long, 0, (tokens * 10)[:400])
    parts = cut_at(long.save(0), [100, 300])
    long.truncate(0, 250)
    short.restore(0, parts, 250)
    assert np.array_equal(compute(short, 0, [5], 250), compute(long, 0, [5], 250))
    with pytest.raises(LlamaError, match="300 tokens does not fit slot 0"):
        short.restore(0, parts, 300)
    for context in (short, long):
        context.close()
