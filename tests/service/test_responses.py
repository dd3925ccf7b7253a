"""Responses on the embedded model, as a user starts it, and over the death of the service."""

import os
import signal

import psutil
import pytest
from openai import OpenAI

from loadtests.server import running_service

pytestmark = pytest.mark.model

MODEL = "smollm2-135m-instruct"


def serving(folder):
    return running_service(
        engine__contexts="2x1024",
        engine__threads="1",
        state_dir=str(folder),
        cache__disk_bytes="0",
    )


def client_of(address):
    return OpenAI(base_url=f"http://{address[0]}:{address[1]}/v1", api_key="none", max_retries=0)


def ask(client, text, **changes):
    return client.responses.create(
        **{"model": MODEL, "input": text, "temperature": 0, "max_output_tokens": 60} | changes
    )


def kill_service(port):
    """The whole of it; its workers end by themselves when it is gone."""
    for child in psutil.Process().children():
        if any(each.laddr.port == port for each in child.net_connections() if each.laddr):
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            return
    raise AssertionError("no service listens there")


def test_a_chain_is_warm_and_survives_the_death_of_the_service(tmp_path):
    with serving(tmp_path) as address, client_of(address) as client:
        first = ask(client, "What is the capital of France? Answer in one short sentence.")
        second = ask(client, "And of Italy?", previous_response_id=first.id)
        assert "Paris" in first.output_text
        assert second.usage.input_tokens_details.cached_tokens >= first.usage.total_tokens - 8
        with client.responses.stream(
            model=MODEL, input="And of Spain?", previous_response_id=second.id, temperature=0
        ) as stream:
            text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
            third = stream.get_final_response()
        assert text == third.output_text
        running = ask(client, "Tell a long story.", background=True, max_output_tokens=900)
        kill_service(address[1])
    with serving(tmp_path) as address, client_of(address) as client:
        assert client.responses.retrieve(third.id).output_text == text
        interrupted = client.responses.retrieve(running.id)
        assert interrupted.status == "failed"
        fourth = ask(client, "And of Portugal?", previous_response_id=third.id)
        assert third.usage is not None
        assert fourth.usage.input_tokens > third.usage.total_tokens
