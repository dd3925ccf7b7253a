"""The process that tries out grammars, so that none of them can hang or bloat the service.

    API process ── Job ──> this process ── fork ──> one process per grammar
                <─ Outcome ──              <─ pipe ── its word, or how it died

It has the vocabulary and one thread. A process per grammar ends by its own alarm and is refused
memory by its own limit; whatever happens in it is an outcome. Nothing it allocates stays.
"""

import gc
import os
import resource
import selectors
import signal
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
from llguidance import LLMatcher, LLTokenizer
from llguidance.gbnf_to_lark import gbnf_to_lark

from service.grammar.config import GrammarConfig
from service.grammar.tokenizer import TokenList, build_tokenizer, parser_limits

LENGTH = struct.Struct("<I")
_QUIET = 0
_NICENESS = 5
"""Streams come first; what nobody waits for yet may take a little longer."""


class Start(msgspec.Struct, frozen=True):
    """The first frame."""

    tokens: TokenList
    config: GrammarConfig


class Job(msgspec.Struct, frozen=True):
    """Compile a grammar, or convert one of llama.cpp's."""

    id: int
    text: str
    is_gbnf: bool


class Outcome(msgspec.Struct, frozen=True):
    id: int
    lark: str = ""
    """What GBNF was converted to."""
    complaint: str | None = None


@dataclass(slots=True)
class _Attempt:
    job: Job
    pid: int
    said: bytearray


class Compiling:
    """Reads jobs, forks for each, and passes on what comes of it."""

    def __init__(self, start: Start, jobs: BinaryIO, outcomes: BinaryIO) -> None:
        self._tokenizer = build_tokenizer(start.tokens)
        self._config = start.config
        gc.freeze()  # so that forks share it
        self._jobs = jobs
        self._outcomes = outcomes
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Until the other end closes."""
        self._selector.register(self._jobs, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.data is not None:
                    self._listen(key.fd, key.data)
                elif (frame := read_frame(self._jobs)) is not None:
                    self._begin(msgspec.msgpack.decode(frame, type=Job))
                else:
                    return

    def _begin(self, job: Job) -> None:
        inlet, outlet = os.pipe()
        pid = os.fork()
        if pid == 0:
            _try_out(job, self._tokenizer, self._config, outlet)
        os.close(outlet)
        self._selector.register(inlet, selectors.EVENT_READ, _Attempt(job, pid, bytearray()))

    def _listen(self, inlet: int, attempt: _Attempt) -> None:
        piece = os.read(inlet, 1 << 16)
        attempt.said += piece
        if piece:
            return
        self._selector.unregister(inlet)
        os.close(inlet)
        _, status = os.waitpid(attempt.pid, 0)
        write_frame(self._outcomes, self._judge(attempt, status))

    def _judge(self, attempt: _Attempt, status: int) -> Outcome:
        if status == 0:
            return msgspec.msgpack.decode(attempt.said, type=Outcome)
        is_late = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
        bound = (
            f"more than {self._config.compile_seconds:g} s"
            if is_late
            else f"more than {self._config.compile_bytes >> 20} MiB of memory"
        )
        return Outcome(attempt.job.id, complaint=f"compiling it takes {bound}; make it simpler")


def compile_grammar(grammar: str, tokenizer: LLTokenizer) -> LLMatcher:
    """A matcher, or one in an error state; what this allocates and takes has no firm bound."""
    return LLMatcher(tokenizer, grammar, log_level=_QUIET, limits=parser_limits())


def read_frame(source: BinaryIO) -> bytes | None:
    """None at the end."""
    head = _read(source, LENGTH.size)
    return None if head is None else _read(source, LENGTH.unpack(head)[0])


def write_frame(sink: BinaryIO, value: msgspec.Struct) -> None:
    sink.write(frame(value))
    sink.flush()


def _read(source: BinaryIO, num_bytes: int) -> bytes | None:
    data = b""
    while len(data) < num_bytes:
        piece = source.read(num_bytes - len(data))
        if not piece:
            return None
        data += piece
    return data


def frame(value: msgspec.Struct) -> bytes:
    data = msgspec.msgpack.encode(value)
    return LENGTH.pack(len(data)) + data


def _try_out(job: Job, tokenizer: LLTokenizer, config: GrammarConfig, outlet: int) -> None:
    """Does not return."""
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # what an abort prints
        signal.setitimer(signal.ITIMER_REAL, config.compile_seconds)
        limit = _address_space() + config.compile_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        said = memoryview(msgspec.msgpack.encode(_attempt(job, tokenizer)))
        while said:
            said = said[os.write(outlet, said) :]
        status = 0
    finally:
        os._exit(status)


def _attempt(job: Job, tokenizer: LLTokenizer) -> Outcome:
    if job.is_gbnf:
        try:
            return Outcome(job.id, lark=gbnf_to_lark(job.text))
        except Exception as error:  # noqa: BLE001 - its own error, and what bad input raises in it
            return Outcome(job.id, complaint=f"not a GBNF grammar: {error}")
    matcher = compile_grammar(job.text, tokenizer)
    if not matcher.is_error():
        matcher.compute_bitmask()
    return Outcome(job.id, complaint=matcher.get_error() or None)


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def main() -> None:
    os.nice(_NICENESS)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when the API process does
    # Unbuffered, so that nothing waits where select does not see it.
    with (
        open(sys.stdin.fileno(), "rb", buffering=0) as jobs,  # noqa: PTH123 - a descriptor
        open(sys.stdout.fileno(), "wb", buffering=0) as outcomes,  # noqa: PTH123
    ):
        start = read_frame(jobs)
        if start is not None:
            Compiling(msgspec.msgpack.decode(start, type=Start), jobs, outcomes).run()


if __name__ == "__main__":
    main()
