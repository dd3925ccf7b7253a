from service.core.request import GenerationRequest
from service.core.sampling import SamplingParams
from service.runtime.blame import MAX_DEATHS, Death, convict
from service.runtime.flight import PROOF_TOKENS, Flight
from service.runtime.stream import OutputStream


def flight(sequence_id: int, **state) -> Flight:
    request = GenerationRequest(request_id="r", prompt=[1], sampling=SamplingParams())
    stream = OutputStream(request, token_bytes=lambda _: b"", on_abort=lambda _: None)
    return Flight(
        sequence_id=sequence_id, request=request, stream=stream, submitted=0.0, share="", **state
    )


def death(*running: int, is_outside: bool = False) -> Death:
    return Death(reason="it had to", is_outside=is_outside, running=frozenset(running))


def test_first_death_makes_suspects_of_those_who_ran_and_of_nobody_else():
    ran, waited = flight(1), flight(2)
    assert convict([ran, waited], death(1)) == []
    assert (ran.is_suspect, waited.is_suspect) == (True, False)
    assert (ran.num_deaths, waited.num_deaths) == (1, 0)


def test_suspect_that_a_second_worker_dies_with_is_guilty():
    suspect = flight(1, is_suspect=True, num_deaths=1)
    assert convict([suspect], death(1)) == [suspect]


def test_those_proven_in_this_worker_are_only_suspects_when_a_suspect_kills_it():
    suspect = flight(1, is_suspect=True, num_deaths=1)
    proven = flight(2, num_deaths=1, num_new=PROOF_TOKENS)
    assert convict([suspect, proven], death(1, 2)) == [suspect]
    assert proven.is_suspect


def test_nobody_is_guilty_while_two_may_be():
    suspect, new = flight(1, is_suspect=True, num_deaths=1), flight(2)
    assert convict([suspect, new], death(1, 2)) == []
    assert suspect.is_suspect
    assert new.is_suspect


def test_suspect_that_gets_further_is_none_any_more():
    suspect = flight(1, is_suspect=True, num_deaths=1)
    suspect.take([5] * PROOF_TOKENS)
    assert not suspect.is_suspect
    assert convict([suspect], death(1)) == []


def test_killing_from_outside_is_nobodys_fault():
    suspect, new = flight(1, is_suspect=True, num_deaths=1), flight(2)
    assert convict([suspect], death(1, is_outside=True)) == []
    assert convict([new], death(2, is_outside=True)) == []
    assert not new.is_suspect


def test_worker_that_died_before_it_wrote_anything_down_puts_all_it_had_under_suspicion():
    flights = [flight(1), flight(2)]
    assert convict(flights, death()) == []
    assert all(each.is_suspect for each in flights)


def test_no_request_outlives_workers_for_ever():
    survivor = flight(1)
    for _ in range(MAX_DEATHS - 1):
        assert convict([survivor], death(1, is_outside=True)) == []
    assert convict([survivor], death(1, is_outside=True)) == [survivor]
