import pytest

from loadtests.traffic.answer import Answer
from tests.loadtests.builders import piece, usage, whole_answer


def test_the_first_piece_of_text_is_the_first_token_and_the_role_is_not():
    answer = Answer(name="chat", sent=10.0, status=200)
    answer.feed(b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n', 10.5)
    answer.feed(b'data: {"choices": [{"delta": {"role": "assistant", "content": null}}]}\n', 10.6)
    answer.feed(piece("Hi"), 11.0)
    assert answer.ttft_seconds == 1.0


def test_thoughts_are_text_too():
    answer = Answer(name="chat", sent=0.0, status=200)
    answer.feed(b'data: {"choices": [{"delta": {"reasoning_content": "hm"}}]}', 2.0)
    assert answer.ttft_seconds == 2.0


def test_gaps_lie_between_pieces():
    assert whole_answer(1.0, 1.5, 3.5).gaps == [0.5, 2.0]


def test_tokens_are_counted_by_the_server():
    answer = whole_answer(1.0, 2.0, 3.0, num_tokens=11)
    assert answer.num_tokens == 11
    assert answer.tokens_per_second == 5.0


def test_tokens_of_a_server_that_counts_none_are_the_pieces():
    assert whole_answer(1.0, 2.0, 3.0).num_tokens == 3


def test_one_piece_has_no_speed():
    assert whole_answer(1.0).tokens_per_second is None


def test_comments_and_blank_lines_are_nothing():
    answer = Answer(name="chat", sent=0.0, status=200)
    for line in (b": keep-alive\n", b"\n", b"event: x\n"):
        answer.feed(line, 1.0)
    assert answer.arrivals == []


def test_an_answer_without_its_end_has_failed():
    answer = Answer(name="chat", sent=0.0, status=200)
    answer.feed(piece(), 1.0)
    answer.feed(usage(1), 1.0)
    answer.end(2.0)
    assert not answer.is_whole
    assert answer.error == "the stream broke off"


def test_an_error_event_fails_the_answer():
    answer = Answer(name="chat", sent=0.0, status=200)
    answer.feed(b'data: {"error": {"message": "the worker died"}}', 1.0)
    answer.end(1.0)
    assert answer.error is not None
    assert "the worker died" in answer.error


def test_a_client_that_left_has_not_failed():
    answer = Answer(name="chat", sent=0.0, status=200, has_left=True)
    answer.end(1.0)
    assert answer.error is None
    assert not answer.is_whole


@pytest.mark.parametrize(("status", "error"), [(0, "no answer"), (500, "status 500"), (429, None)])
def test_a_refusal_is_no_failure_and_anything_else_is(status, error):
    answer = Answer(name="chat", sent=0.0, status=status)
    answer.end(1.0)
    assert answer.error == error


@pytest.mark.parametrize(("text", "fits"), [("3", True), ('"three"', False), ("{", False)])
def test_a_bound_answer_that_does_not_fit_its_schema_has_failed(text, fits):
    answer = whole_answer(1.0, text=text)
    answer.check({"type": "integer"})
    assert answer.is_whole is fits
