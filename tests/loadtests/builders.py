"""Answers as clients of a load test saw them."""

import json

from loadtests.traffic.answer import Answer


def piece(text="a", **choice):
    event = {"choices": [{"index": 0, "delta": {"content": text}, **choice}]}
    return b"data: " + json.dumps(event).encode()


def usage(num_tokens):
    event = {"choices": [], "usage": {"completion_tokens": num_tokens}}
    return b"data: " + json.dumps(event).encode()


def whole_answer(*arrivals, name="chat", sent=0.0, num_tokens=None, text="a"):
    """Pieces at these moments, and the end with the last."""
    answer = Answer(name=name, sent=sent, status=200)
    for at in arrivals:
        answer.feed(piece(text), at)
    if num_tokens is not None:
        answer.feed(usage(num_tokens), arrivals[-1])
    answer.feed(b"data: [DONE]", arrivals[-1])
    answer.end(arrivals[-1])
    return answer


def refused_answer(seconds, name="chat"):
    answer = Answer(name=name, sent=0.0, status=429)
    answer.end(seconds)
    return answer


def failed_answer(name="chat"):
    answer = Answer(name=name, sent=0.0, status=500)
    answer.end(1.0)
    return answer
