"""What became of every request of a soak, and whatever was not as it should be."""

import random
import re
import string
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["complete", "refused", "rejected", "left"]
"""Answered in full; 429 or 503 as documented, and sent again; a bad request that got its error; the
client went away."""

_SECRET = re.compile(r"[A-Z]{6}-[0-9]{4}")


class Wrong(Exception):  # noqa: N818 - a finding, not a failure of ours
    """An answer that is not as it should be."""


@dataclass(frozen=True, slots=True)
class Parting:
    """A canary that was answered otherwise than on the idle service."""

    at: float
    prompt: str
    expected: str
    actual: str


@dataclass(slots=True)
class Ledger:
    """Belongs to one event loop."""

    started: float
    counts: Counter[tuple[str, Outcome]] = field(default_factory=Counter)
    num_texts: int = 0
    """Complete texts: a request for two choices has two."""
    num_left: int = 0
    """Texts whose client went away; the service may have finished them just before."""
    wrongs: list[str] = field(default_factory=list)
    partings: list[Parting] = field(default_factory=list)
    num_canaries: int = 0
    num_echoes: int = 0
    """Answers that said their own conversation's secret: the others could have been said too."""
    _secrets: set[str] = field(default_factory=set)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def note(self, kind: str, outcome: Outcome, *, num_texts: int = 0) -> None:
        self.counts[kind, outcome] += 1
        if outcome == "complete":
            self.num_texts += num_texts
        elif outcome == "left":
            self.num_left += num_texts

    def note_wrong(self, kind: str, what: str) -> None:
        self.wrongs.append(f"{self.elapsed:.0f} s, {kind}: {what}"[:1000])

    def note_canary(self, prompt: str, expected: str, actual: str) -> None:
        self.num_canaries += 1
        if actual != expected:
            self.partings.append(Parting(self.elapsed, prompt, expected, actual))

    def total(self, outcome: Outcome) -> int:
        return sum(count for (_, each), count in self.counts.items() if each == outcome)

    def make_secret(self, chance: random.Random) -> str:
        """A word that no model says by itself."""
        letters = "".join(chance.choices(string.ascii_uppercase, k=6))
        secret = f"{letters}-{chance.randrange(10_000):04}"
        self._secrets.add(secret)
        return secret

    def check_secrets(self, text: str, own: str | None) -> None:
        """Raises Wrong if `text` has a secret that was told to another conversation."""
        said = self._secrets.intersection(_SECRET.findall(text))
        self.num_echoes += own in said
        foreign = said - {own}
        if foreign:
            raise Wrong(f"the answer has another conversation's secret, {foreign}: {text!r}")
