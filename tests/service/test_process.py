"""The process that `smolserve serve` is: what it prints, and how it ends."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psutil
import pytest

pytestmark = pytest.mark.model

MODEL = "smollm2-135m-instruct"


class Process:
    """A running service, ready; `printed` is what it said until then."""

    def __init__(self, popen: subprocess.Popen[str], printed: list[str]) -> None:
        self.popen = popen
        self.printed = printed
        [ready] = [line for line in printed if line.startswith("Ready: ")]
        self.url = ready.split()[-1]
        self.workers = psutil.Process(popen.pid).children()

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def wait(self) -> tuple[int, str]:
        """Exit status and what it wrote to stderr."""
        _, errors = self.popen.communicate(timeout=30)
        return self.popen.returncode, errors

    def left_behind(self) -> list[psutil.Process]:
        """Workers that live on; they get time to see that their parent has gone."""
        return psutil.wait_procs(self.workers, timeout=10)[1]


@contextmanager
def serving_process(*options: str) -> Iterator[Process]:
    with tempfile.TemporaryDirectory() as state:
        popen = subprocess.Popen(
            [
                *(sys.executable, "-m", "service", "serve", "--port", "0"),
                *("--engine-contexts", "2x512", "--state-dir", state, *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield Process(popen, list(read_greeting(popen)))
        finally:
            if popen.poll() is None:
                popen.kill()
            popen.communicate()


def read_greeting(popen: subprocess.Popen[str]) -> Iterator[str]:
    """To its last line, the one that prints an answer."""
    assert popen.stdout is not None
    for line in popen.stdout:
        yield line.rstrip()
        if line.startswith("print("):
            return


@contextmanager
def streaming(service: Process, max_tokens: int) -> Iterator[Iterator[str]]:
    """The data of a stream's events; the first has been read."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "stream": True,
    }
    url = f"{service.url}/v1/chat/completions"
    with httpx.Client(timeout=30) as http, http.stream("POST", url, json=body) as answer:
        events = (line[6:] for line in answer.iter_lines() if line.startswith("data: "))
        next(events)
        yield events


def status(service: Process, path: str, **headers: str) -> int:
    return httpx.get(service.url + path, headers=headers).status_code


def test_sigterm_lets_streams_finish_and_ends_with_0():
    with serving_process() as service:
        with streaming(service, max_tokens=60) as events:
            service.send(signal.SIGTERM)
            received = list(events)
        returned, errors = service.wait()
        left = service.left_behind()
    assert received[-1] == "[DONE]"
    assert json.loads(received[-2])["choices"][0]["finish_reason"] == "length"
    assert returned == 0
    assert left == []
    assert service.printed[-3:-1] == [
        "from openai import OpenAI",
        f'client = OpenAI(base_url="{service.url}/v1", api_key="none")',
    ]
    assert any(line.startswith("curl ") for line in service.printed)
    # llama.cpp says hundreds of lines a load; none of them shows.
    logged = [json.loads(line)["event"] for line in errors.splitlines() if line.startswith("{")]
    assert logged == ["chat_format", "worker_ready", "request"]
    assert "load_tensors" not in errors


def test_a_second_ctrl_c_does_not_wait_for_streams():
    with serving_process() as service:
        with streaming(service, max_tokens=400) as events:
            service.send(signal.SIGINT)
            while status(service, "/health/ready") != 404:
                pass
            service.send(signal.SIGINT)
            received = list(events)
        returned, _ = service.wait()
        left = service.left_behind()
    assert json.loads(received[-1])["error"]["code"] == "engine_unavailable"
    assert returned == 0
    assert left == []


def test_sigusr1_stops_being_ready_and_goes_on_with_streams():
    with serving_process() as service:
        with streaming(service, max_tokens=60) as events:
            service.send(signal.SIGUSR1)
            while status(service, "/health/ready") != 404:
                pass
            refused = httpx.post(f"{service.url}/v1/chat/completions", json={})
            received = list(events)
        assert status(service, "/health/live") == 200
        service.send(signal.SIGTERM)
        returned, _ = service.wait()
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    assert received[-1] == "[DONE]"
    assert returned == 0


def test_sighup_reads_the_keys_again(tmp_path):
    def models(key: str) -> int:
        return status(service, "/v1/models", Authorization=f"Bearer {key}")

    file = tmp_path / "keys.toml"
    file.write_text('[[callers]]\nname = "alice"\nkey = "one"\n')
    with serving_process("--keys-file", str(file)) as service:
        assert (models("one"), models("two")) == (200, 401)
        file.write_text('[[callers]]\nname = "bob"\nkey = "two"\n')
        service.send(signal.SIGHUP)
        while models("two") != 200:
            pass
        assert models("one") == 401
        service.send(signal.SIGTERM)
        assert service.wait()[0] == 0


def test_killing_the_service_leaves_no_worker_behind():
    with serving_process() as service:
        assert service.workers
        service.send(signal.SIGKILL)
        returned, _ = service.wait()
        left = service.left_behind()
    assert returned == -signal.SIGKILL
    assert left == []
