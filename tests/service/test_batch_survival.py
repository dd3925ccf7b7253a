"""A batch, and a service that is killed in the middle of it."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import pytest
from openai import OpenAI

from tests.service.test_process import MODEL, read_greeting

pytestmark = pytest.mark.model

NUM_LINES = 200
NUM_SLOTS = 8


@contextmanager
def serving_group(state_dir):
    """A client of a service that is the first of a process group, and how to kill them all."""
    popen = subprocess.Popen(
        [
            *(sys.executable, "-m", "service", "serve", "--port", "0"),
            *("--state-dir", str(state_dir)),
            *("--engine-contexts", f"{NUM_SLOTS}x256", "--engine-threads", "1"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )

    def kill():
        with suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()
        assert popen.stdout is not None
        popen.stdout.close()

    try:
        [ready] = [line for line in read_greeting(popen) if line.startswith("Ready: ")]
        with OpenAI(base_url=f"{ready.split()[-1]}/v1", api_key="none") as client:
            yield client, kill
    finally:
        kill()


def input_of(num_lines):
    def body(number):
        messages = [{"role": "user", "content": f"Count from {number}."}]
        return {"model": MODEL, "messages": messages, "max_tokens": 2, "temperature": 0}

    requests = (
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": body(number),
        }
        for number in range(num_lines)
    )
    return "\n".join(map(json.dumps, requests)).encode()


def num_completed(batch):
    assert batch.request_counts is not None
    return batch.request_counts.completed


def wait_for(client, batch_id, condition):
    deadline = time.monotonic() + 60
    while not condition(batch := client.batches.retrieve(batch_id)):
        assert time.monotonic() < deadline, batch
        time.sleep(0.02)  # as a client polls
    return batch


def test_a_batch_of_200_lines_survives_kill_9_of_the_whole_service(tmp_path):
    with serving_group(tmp_path) as (client, kill):
        file = client.files.create(file=("in.jsonl", input_of(NUM_LINES)), purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        before = wait_for(client, batch.id, lambda batch: num_completed(batch) > 80)
        kill()
    with serving_group(tmp_path) as (client, _):
        after = client.batches.retrieve(batch.id)
        batch = wait_for(client, batch.id, lambda batch: batch.status == "completed")
        assert batch.output_file_id is not None
        output = [
            json.loads(line) for line in client.files.content(batch.output_file_id).iter_lines()
        ]
    assert before.status == "in_progress"
    assert num_completed(after) >= num_completed(before)
    assert [each["custom_id"] for each in output] == [f"line-{n}" for n in range(NUM_LINES)]
    assert all(each["response"]["status_code"] == 200 for each in output)
    assert all(each["response"]["body"]["usage"]["completion_tokens"] == 2 for each in output)
    assert batch.error_file_id is None
    assert num_completed(batch) == NUM_LINES
