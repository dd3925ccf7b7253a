"""Traces and transcripts of the whole service, as a user turns them on."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest

from tests.service.test_process import read_greeting
from tests.telemetry.collector import collecting

pytestmark = pytest.mark.model

MODEL = "smollm2-135m-instruct"
WORD = "quetzalcoatlus"
STAGES = {"receive", "prepare", "queue", "prefill", "decode"}


@contextmanager
def service(state, **settings):
    """Its address; at the end it is asked to stop, and then `printed` has what it logged."""
    variables = {f"SMOLSERVE_{name.upper()}": value for name, value in settings.items()}
    with (state / "log").open("w+") as log:
        popen = subprocess.Popen(
            [
                *(sys.executable, "-m", "service", "serve", "--port", "0"),
                *("--engine-threads", "1", "--engine-contexts", "2x512"),
                *("--state-dir", str(state)),
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **variables},  # noqa: TID251 - a test hands its environment on
        )
        printed: list[dict] = []
        try:
            [ready] = [line for line in read_greeting(popen) if line.startswith("Ready: ")]
            yield ready.split()[-1], printed
            popen.send_signal(signal.SIGTERM)
            assert popen.wait(timeout=60) == 0
            log.seek(0)
            printed += [json.loads(line) for line in log if line.startswith("{")]
        finally:
            popen.kill()
            popen.communicate()


def ask(url, **changes):
    """The text of an answer about the word."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"Repeat after me: {WORD}"}],
        "max_tokens": 12,
        "temperature": 0,
    }
    answer = httpx.post(f"{url}/v1/chat/completions", json=body | changes, timeout=60)
    return answer.json()["choices"][0]["message"]["content"]


def test_stopping_the_service_sends_the_last_spans(tmp_path):
    with collecting() as collector:
        with service(tmp_path, tracing__endpoint=collector.endpoint) as (url, printed):
            ask(url)
        [root] = collector.named("POST /v1/chat/completions")
        stages = collector.children(root)
    assert set(stages) == STAGES
    assert root.resource["service.name"] == "smolserve"
    assert stages["decode"].attributes["gen_ai.request.model"] == MODEL
    assert sum(span.seconds for span in stages.values()) <= root.seconds
    assert not any(WORD.encode() in body for body in collector.bodies)
    [line] = [line for line in printed if line["event"] == "request"]
    assert line["trace_id"] == root.trace_id


def test_a_collector_that_is_down_costs_a_line_in_the_log(tmp_path):
    with collecting() as collector:
        nobody = collector.endpoint
    settings = {"tracing__endpoint": nobody, "tracing__timeout_s": "1"}
    with service(tmp_path, **settings) as (url, printed):
        assert ask(url)
    events = [line["event"] for line in printed]
    assert events.count("traces_not_exported") == 1
    assert "request" in events


def test_the_log_has_no_prompt_unless_asked(tmp_path):
    with service(tmp_path, log_level="debug") as (url, printed):
        assert WORD[:6] in ask(url).lower()
        ask(url, response_format={"type": "json_object"})
    assert {"request"} <= {line["event"] for line in printed}
    assert WORD not in json.dumps(printed).lower()


def test_the_log_has_prompts_and_answers_when_asked_and_warns_of_it(tmp_path):
    settings = {"log_prompts": "true", "log_prompt_tokens": "1000"}
    with service(tmp_path, **settings) as (url, printed):
        answer = ask(url)
    [warning] = [line for line in printed if line["event"] == "prompts_are_logged"]
    assert warning["level"] == "warning"
    [line] = [line for line in printed if line["event"] == "transcript"]
    assert f"Repeat after me: {WORD}" in line["prompt"]
    assert line["answer"].strip() == answer.strip()
    [request] = [line for line in printed if line["event"] == "request"]
    assert line["request_id"] == request["request_id"]
