"""When texts are computed beside chats, and in what pieces."""

import numpy as np
import pytest

from service.core.messages import Embed
from service.engine.embedding_lane import MAX_CHUNK, SHARE, EmbeddingLane

TARGET = 0.1


def lane(*lengths, token_seconds=None):
    """With a text of each length; it has seen what a token takes, or not."""
    made = EmbeddingLane(target_seconds=TARGET)
    if token_seconds is not None:
        made.add(Embed(sequence_id=0, tokens=[1] * MAX_CHUNK))
        while made.has_work:
            run(made, token_seconds=token_seconds)
    for sequence_id, length in enumerate(lengths, 1):
        made.add(Embed(sequence_id=sequence_id, tokens=list(range(length))))
    return made


def run(made, *, beside_seconds=None, token_seconds=0.001):
    """Compute the next chunk; it and its report."""
    chunk = made.plan(beside_seconds=beside_seconds)
    assert chunk is not None
    num_tokens = chunk.end - chunk.start
    states = np.array([3.0, 4.0]) * num_tokens
    return chunk, made.apply(chunk, states, num_tokens * token_seconds)


def test_chunks_of_a_text_follow_each_other_to_its_end():
    made = lane(300, token_seconds=0.0001)
    place, report = 0, None
    while made.has_work:
        assert report is None or report.vector is None
        chunk, report = run(made, token_seconds=0.0001)
        assert chunk.start == place < chunk.end <= place + MAX_CHUNK
        place = chunk.end
    assert place == 300
    assert report is not None
    assert report.vector is not None


def test_a_vector_has_length_1():
    _, report = run(lane(5, token_seconds=0.0001))
    assert report.vector is not None
    assert np.frombuffer(report.vector, "<f4") == pytest.approx([0.6, 0.8])


def test_texts_are_computed_in_the_order_they_came():
    made = lane(5, 5, token_seconds=0.0001)
    assert [run(made)[1].sequence_id for _ in range(2)] == [1, 2]
    assert not made.has_work


def test_an_aborted_text_leaves_nothing_behind():
    made = lane(300, 5, token_seconds=0.0001)
    run(made)
    made.abort(1)
    chunk, _ = run(made)
    assert (chunk.sequence_id, chunk.start, chunk.end) == (2, 0, 5)


def test_a_chunk_takes_what_the_step_left_of_the_target():
    chunk, _ = run(lane(300, token_seconds=0.001), beside_seconds=0.04)
    assert chunk.end == pytest.approx(60, abs=1)


def test_with_nobody_beside_it_a_chunk_ends_within_the_target_too():
    chunk, _ = run(lane(300, token_seconds=0.002))
    assert chunk.end == pytest.approx(50, abs=1)


def test_chats_have_their_time_back_many_times_before_the_next_chunk():
    made = lane(1000, token_seconds=0.001)
    chunk, _ = run(made, beside_seconds=0.02)
    spent = (chunk.end - chunk.start) * 0.001
    num_steps = 1
    while made.plan(beside_seconds=0.02) is None:
        num_steps += 1
    assert spent <= num_steps * 0.02 * SHARE * 1.05


def test_what_is_owed_to_chats_is_forgotten_when_they_have_gone():
    made = lane(1000, token_seconds=0.001)
    run(made, beside_seconds=0.02)
    assert made.plan(beside_seconds=0.02) is None
    assert made.plan(beside_seconds=None) is not None
