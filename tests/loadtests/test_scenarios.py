import itertools
import re
from pathlib import Path

import pytest

from loadtests.traffic import scenarios
from loadtests.traffic.scenarios import SCENARIOS, find_scenario, make_user
from service.api.schemas import ChatCompletionRequest
from tests.loadtests.builders import failed_answer, whole_answer

STANDARD = {
    *("model", "messages", "max_tokens", "temperature", "stream", "stream_options"),
    "response_format",
}


class Clock:
    """Goes on when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def asks_of(name, count, *, user=0, seed=1, clock=None, answer=None):
    """What a user asks first; every answer is the one given, or a whole one."""
    script = SCENARIOS[name].script(make_user(user, seed, clock or Clock()))
    asked = [next(script)]
    while len(asked) < count:
        asked.append(script.send(answer or whole_answer(1.0, text="A story.")))
    return asked


def test_the_documentation_describes_every_scenario():
    text = (Path(__file__).parents[2] / "docs" / "load-testing.md").read_text()
    assert re.findall(r"^\| `([a-z-]+)` \|", text, re.MULTILINE) == list(SCENARIOS)


def test_an_unknown_scenario_is_answered_with_the_names():
    with pytest.raises(ValueError, match=r"steady, bursty, .*overload") as caught:
        find_scenario("stready")
    assert "'stready'" in str(caught.value)


@pytest.mark.parametrize("name", SCENARIOS)
def test_requests_have_standard_fields_that_the_service_takes(name):
    for ask in itertools.chain(asks_of(name, 10), asks_of(name, 10, user=1)):
        body = ask.body("m")
        assert set(body) <= STANDARD
        ChatCompletionRequest.model_validate(body)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_seed_asks_the_same_again_and_another_seed_something_else(name):
    def first(seed, user=0):
        return [ask.messages for ask in asks_of(name, 5, seed=seed, user=user)]

    assert first(1) == first(1)
    assert first(1) != first(2)
    assert first(1, user=0) != first(1, user=1)


def test_a_burst_is_in_the_same_moment_for_every_user():
    clock = Clock()
    moments = set()
    for user, now in enumerate((100.5, 101.9, 104.2)):
        clock.now = now
        [ask] = asks_of("bursty", 1, user=user, clock=clock)
        moments.add(now + ask.pause_seconds)
    assert moments == {105.0}


def test_a_system_prompt_is_the_same_for_all_users_of_a_run():
    prompts = {
        ask.messages[0]["content"]
        for user in range(3)
        for ask in asks_of("shared-system-prompt", 3, user=user)
    }
    questions = {ask.messages[1]["content"] for ask in asks_of("shared-system-prompt", 3)}
    assert len(prompts) == 1
    assert len(questions) == 3


def test_sessions_take_turns_and_each_turn_holds_what_was_said():
    count = scenarios.SESSIONS_OF_A_USER
    asked = asks_of("many-sessions", 2 * count)
    first, later = asked[:count], asked[count:]
    assert len({ask.session for ask in first}) == count
    assert [ask.session for ask in later] == [ask.session for ask in first]
    assert {ask.name for ask in later} == {"later turn"}
    for before, after in zip(first, later, strict=True):
        assert after.messages[:2] == [
            *before.messages,
            {"role": "assistant", "content": "A story."},
        ]


def test_a_session_ends_after_its_turns_and_a_new_one_begins():
    count, turns = scenarios.SESSIONS_OF_A_USER, scenarios.TURNS_OF_A_SESSION
    asked = asks_of("many-sessions", count * turns + 1)
    assert [ask.name for ask in asked[:: count * turns]] == ["first turn", "first turn"]
    assert asked[0].session != asked[-1].session
    assert max(len(ask.messages) for ask in asked) == 2 * turns - 1


def test_a_session_whose_answer_failed_begins_anew():
    asked = asks_of("many-sessions", 2 * scenarios.SESSIONS_OF_A_USER, answer=failed_answer())
    assert {ask.name for ask in asked} == {"first turn"}


def test_one_user_in_eight_sends_long_prompts():
    names = [asks_of("long-prompt-among-short", 1, user=user)[0].name for user in range(16)]
    assert names == ["long", *["short"] * 7] * 2
    [long] = asks_of("long-prompt-among-short", 1, user=0)
    assert len(long.messages[0]["content"].split()) > scenarios.LONG_WORDS


def test_two_clients_in_three_leave():
    asked = asks_of("aborting-clients", 300)
    stays = [ask.stay_seconds for ask in asked if ask.stay_seconds is not None]
    assert 180 < len(stays) < 220
    assert 0 <= min(stays) < 0.2
    assert max(stays) <= scenarios.LONGEST_STAY_SECONDS


def test_every_second_user_is_bound_by_a_schema():
    schemas = [asks_of("structured-output", 1, user=user)[0].schema for user in range(4)]
    assert [schema is not None for schema in schemas] == [False, True, False, True]


def test_overload_asks_at_its_own_times_however_late_answers_are():
    clock = Clock()
    quick, slow = [], []
    script = SCENARIOS["overload"].script(make_user(0, 1, clock))
    ask = next(script)
    for _ in range(50):
        clock.now += ask.pause_seconds
        quick.append(clock.now)
        ask = script.send(None)
    assert not ask.is_alone
    clock.now = 100.0
    script = SCENARIOS["overload"].script(make_user(0, 1, clock))
    ask = next(script)
    for _ in range(50):
        clock.now += ask.pause_seconds + 0.01  # somebody else had the core
        slow.append(clock.now)
        ask = script.send(None)
    assert 30 < quick[-1] - 100 < 80
    assert slow[-1] == pytest.approx(quick[-1], abs=0.2)
