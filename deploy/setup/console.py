"""What the set-up says, and commands that take long enough to need a sign of life."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from deploy.setup.errors import SetupError

_ADVICE = {
    r"No space left on device": "the disk is full; free some space and run it again",
    r"DO NOT MATCH THE HASHES": (
        "a downloaded package is not the one that was locked; empty pip's cache (pip cache purge) "
        "and check the index that pip is set to use (pip config list)"
    ),
    # pip says this after its connection errors as well, so those come first
    r"name resolution|Connection refused|Network is unreachable|Max retries exceeded|timed out": (
        "no package index answers; check the network, or pip's settings (pip config list)"
    ),
    r"No matching distribution|Could not find a version": (
        "no package index offers a locked package for this Python; check that Python's version is "
        "one the packages have, and the index that pip is set to use (pip config list)"
    ),
    r"Killed signal|out of memory|cannot allocate memory": (
        "the compiler ran out of memory; run it again with CMAKE_BUILD_PARALLEL_LEVEL=1"
    ),
    r"CUDA::cublas|cublas_v2\.h": (
        "the CUDA toolkit here is without cuBLAS; install its development files (libcublas-dev)"
    ),
    r"Unsupported gpu architecture|No CUDA toolset": (
        "nvcc cannot build for this GPU; set CUDAARCHS (90 for an H100) or install a newer CUDA"
    ),
}


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def run_logged(
    title: str,
    command: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str],
    counter: str | None = None,
) -> None:
    """Run `command` with its output in `log`, saying every few seconds how far it is.

    `counter` is a pattern whose last match in the output is shown as the progress.

    Raises:
        SetupError: it failed; the message has the likeliest reason and names the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("wb") as sink, _start(command, env) as child:
        assert child.stdout is not None
        reader = _Reader(child.stdout, sink, counter)
        reader.start()
        try:
            _report_until_done(title, reader, started)
        except BaseException:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
            raise
        finally:
            reader.join()
    if reader.failure is not None:
        raise SetupError(f"{title} failed: cannot write {log}: {reader.failure}")
    if child.returncode != 0:
        raise SetupError(f"{title} failed: {_explain(log)}. Full log: {log}")
    say(f"{title}: done in {time.monotonic() - started:.0f} s")


def _start(command: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """In a session of its own, so that its children can be ended with it."""
    return subprocess.Popen(
        command,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


class _Reader(threading.Thread):
    """Copies the child's output to the log and keeps the counter's last match."""

    def __init__(self, source: IO[bytes], sink: IO[bytes], counter: str | None) -> None:
        super().__init__(daemon=True)
        self._source, self._sink = source, sink
        self._counter = re.compile(counter.encode()) if counter else None
        self.progress = ""
        self.failure: OSError | None = None

    def run(self) -> None:
        for line in self._source:
            if self._counter and (match := self._counter.search(line)):
                self.progress = match[0].decode(errors="replace")
            try:
                self._sink.write(line)
            except OSError as error:  # keep reading: a full pipe would stop the child for ever
                self.failure = self.failure or error


def _report_until_done(title: str, reader: _Reader, started: float) -> None:
    in_place = sys.stdout.isatty()
    while reader.is_alive():
        reader.join(timeout=1 if in_place else 5)
        if not reader.is_alive():
            break
        line = f"setup: {title} … {time.monotonic() - started:.0f} s {reader.progress}"
        print(f"\r\x1b[K{line}" if in_place else line, end="" if in_place else "\n", flush=True)
    if in_place:
        print("\r\x1b[K", end="", flush=True)


def _explain(log: Path) -> str:
    text = log.read_text(errors="replace")
    for pattern, advice in _ADVICE.items():
        if re.search(pattern, text, re.IGNORECASE):
            return advice
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"(\berror|\bERROR|Error):", line)]
    return (errors or lines or ["it said nothing"])[0][:200]
