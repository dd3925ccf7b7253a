"""A client of a soak, and what it has at hand."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from loadtests.soak.caller import Caller, Json
from loadtests.soak.ledger import Ledger

TOPICS = ("rivers", "bridges", "violins", "glaciers", "bakeries", "comets", "lighthouses", "maps")


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """What the idle service answered before the load began."""

    texts: Mapping[str, str]
    """By prompt."""
    vectors: Mapping[str, list[float]]
    """By text."""


@dataclass(slots=True, kw_only=True)
class Conversation:
    """A session that a guest may come back to."""

    session: str
    secret: str
    messages: list[Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    name: str
    model: str
    address: tuple[str, int]
    caller: Caller
    stranger: Caller
    """Another tenant, who must not find what this one has."""
    ledger: Ledger
    references: References
    chance: random.Random
    conversations: list[Conversation] = field(default_factory=list)
    """Those that are not over."""

    def topic(self) -> str:
        return self.chance.choice(TOPICS)

    def number(self) -> int:
        return self.chance.randrange(1_000_000)

    def body(self, messages: str | list[Json], max_tokens: int, **fields: object) -> Json:
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return {"model": self.model, "messages": messages, "max_tokens": max_tokens, **fields}
