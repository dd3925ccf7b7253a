"""What the log says of a request's text where the operator asks for it."""

from service.runtime.flight import Flight
from service.runtime.stream import OutputStream
from service.runtime.transcripts import Transcriber
from tests.api.builders import keeping_logger, tokens_of
from tests.runtime.builders import request


def character(token):
    return chr(token).encode()


def transcribe(prompt, answer, max_tokens=100):
    lines = []
    asked = request(tokens_of(prompt))
    flight = Flight(
        sequence_id=1,
        request=asked,
        stream=OutputStream(asked, token_bytes=character, on_abort=lambda _stream: None),
        submitted=0.0,
        share="",
    )
    flight.take(tokens_of(answer))
    Transcriber(character, max_tokens=max_tokens, log=keeping_logger(lines))(flight, "stop", 1.0)
    [line] = lines
    return line


def test_a_line_has_what_was_asked_and_answered_and_whose_it_was():
    line = transcribe("Why?", "Because.")
    assert (line["prompt"], line["answer"]) == ("Why?", "Because.")
    assert (line["request_id"], line["finish_reason"]) == ("r", "stop")


def test_long_texts_keep_both_ends_and_say_what_they_lost():
    line = transcribe("a" * 50 + "z" * 51, "b" * 100)
    assert line["prompt"] == "a" * 50 + " […1 tokens…] " + "z" * 50
    assert line["answer"] == "b" * 100
    assert line["num_prompt_tokens"] == 101


def test_half_a_character_is_written_as_one_that_is_unknown():
    lines = []
    asked = request([0xE2])
    flight = Flight(
        sequence_id=1,
        request=asked,
        stream=OutputStream(asked, token_bytes=character, on_abort=lambda _stream: None),
        submitted=0.0,
        share="",
    )
    Transcriber(lambda token: bytes([token]), max_tokens=9, log=keeping_logger(lines))(
        flight, "abort", 1.0
    )
    assert lines[0]["prompt"] == "\ufffd"
