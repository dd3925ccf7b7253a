"""Starts the service for a measurement, on a free port, and ends it after."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

START_SECONDS = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running_service(log_path: Path | None = None, /, **settings: str) -> Iterator[tuple[str, int]]:
    """The address of a service started with settings, as in `engine__contexts="32x512"`.

    Its log is thrown away unless it has a path.
    """
    port = free_port()
    key = settings.get("api_keys", "none").split(",")[0]
    variables = {f"SMOLSERVE_{name.upper()}": value for name, value in settings.items()}
    environment = {**os.environ, **variables, "SMOLSERVE_PORT": str(port)}  # noqa: TID251 - a script hands its environment on
    with _open_log(log_path) as log, tempfile.TemporaryDirectory() as state:
        environment.setdefault("SMOLSERVE_STATE_DIR", state)
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            _wait_ready(process, port, key, log)
            yield "127.0.0.1", port
        finally:
            process.terminate()
            process.wait(timeout=90)


def read_metrics(address: tuple[str, int]) -> dict[str, float]:
    """Every sample of /metrics by its full name with labels."""
    with urllib.request.urlopen(f"http://{address[0]}:{address[1]}/metrics") as answer:
        return parse_metrics(answer.read().decode())


def parse_metrics(text: str) -> dict[str, float]:
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def _open_log(path: Path | None) -> IO[bytes]:
    return tempfile.TemporaryFile() if path is None else path.open("w+b")


def _wait_ready(process: subprocess.Popen, port: int, key: str, log: IO[bytes]) -> None:
    url = f"http://127.0.0.1:{port}/health/ready"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            log.seek(0)
            raise SystemExit(f"the service ended with {process.returncode}:\n{log.read().decode()}")
        try:
            urllib.request.urlopen(request)
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"the service was not ready within {START_SECONDS} s")
