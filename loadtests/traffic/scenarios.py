"""What the users of a load test do: named scenarios, each a script that every user follows.

Requests have standard fields only, so that any OpenAI-compatible server takes them. How long an
answer gets is the model's choice up to `max_tokens`; prompts ask for more than that.
"""

import random
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field

from loadtests.cache import WORDS, make_text
from loadtests.structured import FORMAT, SCHEMA
from loadtests.traffic.answer import Answer

Message = dict[str, str]

SYSTEM_WORDS = 400
LONG_WORDS = 1200
"""About 1,500 tokens."""
BURST_SECONDS = 5.0
USERS_FOR_A_LONG_PROMPT = 8
SESSIONS_OF_A_USER = 4
TURNS_OF_A_SESSION = 5
LONGEST_STAY_SECONDS = 2.0
SHARE_LEAVING = 2 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One chat request, and how its client behaves."""

    name: str
    """In the statistics."""
    messages: list[Message]
    max_tokens: int
    extra: Mapping[str, object] = field(default_factory=dict[str, object])
    """Further fields of the body."""
    schema: Mapping[str, object] | None = None
    """That a whole answer must fit."""
    session: str | None = None
    pause_seconds: float = 0.0
    """Before it is sent."""
    stay_seconds: float | None = None
    """After which the client goes away; None stays to the end."""
    is_alone: bool = True
    """Whether the user waits for the answer before going on."""

    def body(self, model: str) -> dict[str, object]:
        return {
            "model": model,
            "messages": self.messages,
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.extra,
        }


Script = Generator[Ask, Answer | None, None]
"""Takes the answer to what it asked last; None where nobody waits for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    number: int
    """From 0."""
    seed: int
    """Of the run: the same for every server that is compared, another in every round."""
    chance: random.Random
    clock: Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    name: str
    description: str
    script: Callable[[User], Script]


def make_user(number: int, seed: int, clock: Callable[[], float]) -> User:
    chance = random.Random(f"{seed}-{number}")
    return User(number=number, seed=seed, chance=chance, clock=clock)


def find_scenario(name: str) -> Scenario:
    """Raises ValueError that lists the names."""
    if name not in SCENARIOS:
        raise ValueError(f"there is no scenario {name!r}; choose from {', '.join(SCENARIOS)}")
    return SCENARIOS[name]


def _say(text: str, system: str | None = None) -> list[Message]:
    messages = [] if system is None else [{"role": "system", "content": system}]
    return [*messages, {"role": "user", "content": text}]


def _ask_for_a_story(user: User) -> str:
    """A short prompt; the number at its beginning keeps it from being found in a cache."""
    first, second = user.chance.sample(WORDS, 2)
    number = user.chance.randrange(10**6)
    return f"Story {number}: write a very long story about a {first} and a {second}."


def _steady(user: User) -> Script:
    while True:
        yield Ask(name="chat", messages=_say(_ask_for_a_story(user)), max_tokens=64)


def _bursty(user: User) -> Script:
    while True:
        yield Ask(
            name="chat",
            messages=_say(_ask_for_a_story(user)),
            max_tokens=32,
            pause_seconds=BURST_SECONDS - user.clock() % BURST_SECONDS,
        )


def _shared_system_prompt(user: User) -> Script:
    system = (
        f"You help with run {user.seed}. These words matter: {make_text(user.seed, SYSTEM_WORDS)}."
    )
    while True:
        messages = _say(_ask_for_a_story(user), system)
        yield Ask(name="chat", messages=messages, max_tokens=32)


def _many_sessions(user: User) -> Script:
    """The sessions take turns, so each rests while the others go on."""
    sessions: list[list[Message]] = [[] for _ in range(SESSIONS_OF_A_USER)]
    numbers = [0] * SESSIONS_OF_A_USER
    while True:
        for index, history in enumerate(sessions):
            is_first = not history
            if is_first:
                text = f"{_ask_for_a_story(user)} Use these words: {_draw_text(user, 100)}."
            else:
                text = "Go on with the story."
            history.append({"role": "user", "content": text})
            answer = yield Ask(
                name="first turn" if is_first else "later turn",
                messages=list(history),
                max_tokens=32,
                session=f"load-{user.seed}-{user.number}-{index}-{numbers[index]}",
            )
            assert answer is not None
            history.append({"role": "assistant", "content": answer.text})
            if not answer.is_whole or len(history) >= 2 * TURNS_OF_A_SESSION:
                history.clear()
                numbers[index] += 1


def _long_prompt_among_short(user: User) -> Script:
    if user.number % USERS_FOR_A_LONG_PROMPT:
        yield from _short(user)
    while True:
        text = f"{_ask_for_a_story(user)} Use these words: {_draw_text(user, LONG_WORDS)}."
        yield Ask(name="long", messages=_say(text), max_tokens=16)


def _short(user: User) -> Script:
    while True:
        yield Ask(name="short", messages=_say(_ask_for_a_story(user)), max_tokens=64)


def _aborting_clients(user: User) -> Script:
    while True:
        is_leaving = user.chance.random() < SHARE_LEAVING
        yield Ask(
            name="chat",
            messages=_say(_ask_for_a_story(user)),
            max_tokens=64,
            stay_seconds=user.chance.uniform(0, LONGEST_STAY_SECONDS) if is_leaving else None,
        )


def _structured_output(user: User) -> Script:
    is_bound = user.number % 2 == 1
    while True:
        messages = _say(f"Order {user.chance.randrange(10**6)} of a shop: write about it.")
        if is_bound:
            extra = {"response_format": FORMAT, "temperature": 1}
            yield Ask(name="bound", messages=messages, max_tokens=160, extra=extra, schema=SCHEMA)
        else:
            yield Ask(name="free", messages=messages, max_tokens=40)


def _overload(user: User) -> Script:
    """At moments that do not depend on the server, so that a slow one is not spared."""
    due = user.clock()
    while True:
        due += user.chance.expovariate(1)
        yield Ask(
            name="chat",
            messages=_say(_ask_for_a_story(user)),
            max_tokens=64,
            pause_seconds=max(0.0, due - user.clock()),
            is_alone=False,
        )


def _draw_text(user: User, num_words: int) -> str:
    return make_text(user.chance.randrange(2**32), num_words)


_ALL = (
    Scenario(
        name="steady",
        description="each user asks, reads 64 tokens and asks again at once",
        script=_steady,
    ),
    Scenario(
        name="bursty",
        description=f"all users ask in the same moment, every {BURST_SECONDS:g} seconds",
        script=_bursty,
    ),
    Scenario(
        name="shared-system-prompt",
        description=f"short questions behind one system prompt of {SYSTEM_WORDS} words",
        script=_shared_system_prompt,
    ),
    Scenario(
        name="many-sessions",
        description=f"each user goes round {SESSIONS_OF_A_USER} conversations that grow",
        script=_many_sessions,
    ),
    Scenario(
        name="long-prompt-among-short",
        description=f"one user in {USERS_FOR_A_LONG_PROMPT} sends prompts of {LONG_WORDS} words, "
        "the others short ones",
        script=_long_prompt_among_short,
    ),
    Scenario(
        name="aborting-clients",
        description=f"two clients in three go away within {LONGEST_STAY_SECONDS:g} seconds",
        script=_aborting_clients,
    ),
    Scenario(
        name="structured-output",
        description="every second user's answers are bound by a JSON schema, and checked",
        script=_structured_output,
    ),
    Scenario(
        name="overload",
        description="each user sends a request a second on average, whatever is answered",
        script=_overload,
    ),
)
SCENARIOS: Mapping[str, Scenario] = {scenario.name: scenario for scenario in _ALL}
