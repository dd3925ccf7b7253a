"""Whether a file can be served: its structure here, its weights and its positions in a child.

llama.cpp ends its process on some files. So everything that hands the file to it happens in a
process of its own (`service.llama.probe`), whose death is one more failed check.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import msgspec

from service.errors import ModelFileError
from service.gguf.check import Check, failed, passed, skipped
from service.gguf.header import read_header
from service.gguf.structure import check_structure

PROBE = "service.llama.probe"
PROBED = ("values", "numerics", "load", "positions")
"""The checks of the child, in its order."""

PROBE_SECONDS = 600.0
"""A bound for a hanging child; the real 3B takes seconds."""

_TAIL = 300


def verify(path: Path, *, timeout_seconds: float = PROBE_SECONDS) -> Iterator[Check]:
    """Check `path`, one result as each is known. Never raises for what the file holds."""
    try:
        header = read_header(path)
    except ModelFileError as error:
        yield failed("header", str(error))
        return
    yield passed("header", f"{len(header.fields)} keys, {len(header.tensors)} tensors")
    sound = True
    for check in check_structure(header):
        sound = sound and check.outcome != "failed"
        yield check
    if sound:
        yield from _probe(path, timeout_seconds)
    else:
        yield from (skipped(name, "the structure must be right first") for name in PROBED)


def _probe(path: Path, timeout_seconds: float) -> Iterator[Check]:
    """Run the child; whatever it did not answer has failed."""
    with TemporaryFile() as answers, TemporaryFile() as errors:
        command = [sys.executable, "-m", PROBE, str(path.absolute())]
        try:
            code = subprocess.run(  # noqa: S603 - our own module, and a path as one argument
                command,
                stdin=subprocess.DEVNULL,
                stdout=answers,
                stderr=errors,
                # Where this package is, so that the child finds it however we were found.
                cwd=Path(__file__).parents[2],
                timeout=timeout_seconds,
                check=False,
            ).returncode
            ending = _describe_ending(code)
        except subprocess.TimeoutExpired:
            ending = f"took more than {timeout_seconds:.0f} seconds"
        answered = _read_checks(answers)
        yield from answered
        unanswered = PROBED[len(answered) :]
        if unanswered:
            detail = f"the process that tried it {ending}: {_tail(errors)}"
            yield failed(unanswered[0], detail)
            yield from (skipped(name, "not reached") for name in unanswered[1:])


def _describe_ending(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"


def _read_checks(answers: IO[bytes]) -> list[Check]:
    answers.seek(0)
    lines = (line for line in answers.read().splitlines() if line.startswith(b"{"))
    return [msgspec.convert(json.loads(line), Check) for line in lines]


def _tail(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    return " / ".join(lines[-3:])[-_TAIL:] or "it said nothing"
