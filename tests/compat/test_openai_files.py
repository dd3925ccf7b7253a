"""Files and batches through the official SDK."""

import json
import time

import pytest
from openai import NotFoundError

from tests.compat.shapes import asking

ENDED = ("completed", "failed", "expired", "cancelled")


def lines_of(model, count):
    for number in range(count):
        body = {"model": model, "messages": asking("Name a colour."), "max_tokens": 4}
        yield {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": body,
        }


def upload(client, model, count):
    content = "\n".join(json.dumps(line) for line in lines_of(model, count)).encode()
    return client.files.create(file=("lines.jsonl", content), purpose="batch"), content


def wait_until_ended(client, batch):
    deadline = time.monotonic() + 60
    while batch.status not in ENDED and time.monotonic() < deadline:
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    return batch


def test_a_file_is_kept_listed_read_and_deleted(client, model):
    file, content = upload(client, model, 1)
    assert file.bytes == len(content)
    assert client.files.retrieve(file.id) == file
    assert file.id in [each.id for each in client.files.list()]
    assert client.files.content(file.id).read() == content
    assert client.files.delete(file.id).deleted
    with pytest.raises(NotFoundError):
        client.files.retrieve(file.id)


def test_a_batch_answers_every_line_once(client, model):
    file, _ = upload(client, model, 3)
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    assert batch.id in [each.id for each in client.batches.list()]
    batch = wait_until_ended(client, batch)
    assert batch.status == "completed"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (3, 0)
    output = client.files.content(batch.output_file_id).text
    results = [json.loads(line) for line in output.splitlines()]
    assert sorted(each["custom_id"] for each in results) == ["line-0", "line-1", "line-2"]
    assert all(each["response"]["status_code"] == 200 for each in results)


def test_a_batch_is_cancelled(client, model):
    file, _ = upload(client, model, 50)
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    assert wait_until_ended(client, batch).status == "cancelled"
