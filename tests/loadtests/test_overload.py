from loadtests.client import Stream
from loadtests.overload import Phase, Sent, describe_waiting
from tests.loadtests.builders import usage

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
PIECE = b'data: {"choices":[{"delta":{"content":"a"}}]}\n'


def answered(*arrivals, due=0.0, pieces=1, num_tokens):
    """A stream of pieces that came at these moments, and its end with the last."""
    received = [(at, PIECE * pieces) for at in arrivals]
    end = usage(num_tokens) + b"\ndata: [DONE]\n"
    received = [(received[0][0], HEAD), *received, (received[-1][0], end)]
    return Sent(due, Stream(started=due, arrivals=received))


def refused(at, *, due=0.0):
    return Sent(due, Stream(started=due, arrivals=[(at, b"HTTP/1.1 429 Too Many\r\n\r\n{}")]))


def test_goodput_counts_the_tokens_that_came_within_the_phase():
    phase = Phase(start=2.0, end=4.0, sent=[answered(1.0, 2.0, 3.0, 4.0, num_tokens=4)])
    assert phase.goodput == 1.0


def test_pieces_of_several_tokens_count_as_those():
    phase = Phase(start=0.0, end=2.0, sent=[answered(1.0, 3.0, num_tokens=20)])
    assert phase.goodput == 5.0


def test_refused_requests_are_no_goodput():
    phase = Phase(start=0.0, end=2.0, sent=[answered(1.0, num_tokens=4), refused(0.01)])
    assert phase.goodput == 2.0
    assert len(phase.admitted) == 1


def test_waiting_is_bounded_by_the_stays_of_those_ahead():
    before = Phase(start=0.0, end=9.0, sent=[answered(0.5, 4.0, num_tokens=2)])
    overload = Phase(
        start=0.0,
        end=9.0,
        sent=[answered(1.0, 5.0, num_tokens=2), answered(7.0, 8.0, due=3.0, num_tokens=2)],
    )
    described = describe_waiting(before, overload, slots=4, queued=6)
    assert described["TTFT ms: max"] == 4000
    # Two rounds of slots ahead, of 4 s after the first token and 0.5 s before it each.
    assert described["TTFT ms that the queue allows"] == (2 * 4.5 + 0.5) * 1000
