"""The outcome of one check of a file."""

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    name: str
    outcome: Outcome
    detail: str
    """What was found; where it failed, also what to do. One line, but text of the file is raw."""


def passed(name: str, detail: str) -> Check:
    return Check(name=name, outcome="passed", detail=detail)


def failed(name: str, detail: str) -> Check:
    return Check(name=name, outcome="failed", detail=detail)


def skipped(name: str, detail: str) -> Check:
    return Check(name=name, outcome="skipped", detail=detail)
