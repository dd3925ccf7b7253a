"""Whether a file can be served: its structure here, its weights and its positions in a child.

llama.cpp ends its process on some files. So everything that hands the file to it happens in a
process of its own (`service.llama.probe`), whose death is one more failed check.
"""

import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from threading import Event, Timer
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


def verify(path: Path, *, timeout_seconds: float = PROBE_SECONDS) -> Generator[Check]:
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
    """Run the child, and pass its answers on as they come; what it did not answer has failed."""
    command = [sys.executable, "-m", PROBE, str(path.absolute())]
    unanswered: list[str] = list(PROBED)
    with (
        TemporaryFile() as errors,
        subprocess.Popen(  # noqa: S603 - our own module, and a path as one argument
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            # Where this package is, so that the child finds it however we were found.
            cwd=Path(__file__).parents[2],
        ) as child,
        _time_limit(child, timeout_seconds) as is_over,
    ):
        for check in _read_checks(child):
            unanswered.remove(check.name)
            yield check
        code = child.wait()
        if unanswered:
            ending = (
                f"took more than {timeout_seconds:.0f} seconds"
                if is_over.is_set()
                else _describe_ending(code)
            )
            detail = f"the process that tried it {ending}: {_tail(errors)}"
            yield failed(unanswered[0], detail)
            yield from (skipped(name, "not reached") for name in unanswered[1:])


@contextmanager
def _time_limit(child: subprocess.Popen[bytes], seconds: float) -> Generator[Event]:
    """Kill the child after `seconds`, which sets the event, or when the block ends."""
    is_over = Event()

    def end() -> None:
        is_over.set()
        child.kill()

    timer = Timer(seconds, end)
    timer.start()
    try:
        yield is_over
    finally:
        timer.cancel()
        child.kill()


def _describe_ending(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"


def _read_checks(child: subprocess.Popen[bytes]) -> Iterator[Check]:
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith(b"{"):  # and not something that llama.cpp prints
            yield msgspec.json.decode(line, type=Check)


def _tail(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    return " / ".join(lines[-3:])[-_TAIL:] or "it said nothing"
