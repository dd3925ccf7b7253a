"""`/v1/files` and `/v1/batches` through the official client."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from openai import BadRequestError, NotFoundError

from service.api.internal_call import InternalCaller
from service.batches.config import BatchesConfig
from tests.api.builders import MODEL, ScriptedEngine, hello, serving
from tests.batches.builders import until
from tests.runtime.builders import engine_config, running_pool

CHAT = "/v1/chat/completions"


@asynccontextmanager
async def serving_batches(directory, engine=None, *, limits=None, **options):
    batching = BatchesConfig(directory=directory, **limits or {})
    async with serving(engine, batching=batching, **options) as service:
        await service.batches.start(InternalCaller(service.app))
        try:
            yield service
        finally:
            await service.batches.stop()


def line(number, **changes):
    body = hello(**changes)
    request = {"custom_id": f"line-{number}", "method": "POST", "url": CHAT, "body": body}
    return json.dumps(request) + "\n"


def input_of(num_lines):
    return "".join(map(line, range(num_lines))).encode()


async def upload(client, content=None, **options):
    file = ("in.jsonl", content or input_of(3))
    return await client.files.create(file=file, purpose="batch", **options)


async def create(client, content=None, **options):
    file = await upload(client, content)
    return await client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", **options
    )


async def ended(client, batch):
    async with asyncio.timeout(10):
        while batch.status not in {"completed", "failed", "expired", "cancelled"}:
            await asyncio.sleep(0.01)  # as a client polls
            batch = await client.batches.retrieve(batch.id)
    return batch


async def read(client, file_id):
    content = await client.files.content(file_id)
    return [json.loads(text) for text in content.text.splitlines()]


async def test_a_batch_is_uploaded_run_and_read(tmp_path):
    async with serving_batches(tmp_path) as service, service.client() as client:
        created = await create(client, metadata={"job": "nightly"})
        batch = await ended(client, created)
        output = await read(client, batch.output_file_id)
        listed = [each async for each in client.files.list(purpose="batch_output")]
    assert created.status == "validating"
    assert batch.status == "completed"
    assert batch.metadata == {"job": "nightly"}
    assert batch.model == MODEL
    assert batch.error_file_id is None
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (3, 3, 0)
    assert batch.usage.output_tokens == 3 * len("Hello there")
    assert batch.in_progress_at <= batch.finalizing_at <= batch.completed_at <= batch.expires_at
    assert [each["custom_id"] for each in output] == ["line-0", "line-1", "line-2"]
    for each in output:
        assert each.keys() == {"id", "custom_id", "response", "error"}
        assert each["error"] is None
        assert each["response"]["status_code"] == 200
        assert each["response"]["request_id"].startswith("req_")
        message = each["response"]["body"]["choices"][0]["message"]
        assert message["content"] == "Hello there"
    assert [file.id for file in listed] == [batch.output_file_id]
    assert listed[0].filename == f"{batch.id}_output.jsonl"


async def test_lines_reach_the_engine_with_their_owner_and_the_last_priority(tmp_path):
    async with (
        serving_batches(tmp_path, api_keys=("alice", "bob")) as service,
        service.client("alice") as client,
    ):
        await client.chat.completions.create(**hello())
        batch = await create(client, line(0, priority=-100, service_tier="priority").encode())
        await ended(client, batch)
        of_chat, of_batch = service.engine.requests
    assert of_batch.tenant == of_chat.tenant != ""
    assert (of_chat.priority, of_batch.priority) == (0, 100)


async def test_what_a_request_says_of_itself_does_not_make_it_internal(tmp_path):
    forged = {"smolserve.tenant": "alice", "smolserve-tenant": "alice", "smolserve.priority": "0"}
    async with serving_batches(tmp_path, api_keys=("alice",)) as service, service.http() as http:
        answer = await http.post(CHAT, json=hello(), headers=forged, params=forged)
    assert answer.status_code == 401


async def test_lines_that_fail_are_in_the_error_file(tmp_path):
    content = (line(0) + line(1, model="another") + line(2, temperature=9)).encode()
    async with serving_batches(tmp_path) as service, service.client() as client:
        batch = await ended(client, await create(client, content))
        errors = await read(client, batch.error_file_id)
    assert batch.status == "completed"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 2)
    assert [
        (each["custom_id"], each["response"]["status_code"], each["error"]) for each in errors
    ] == [("line-1", 404, None), ("line-2", 400, None)]
    assert errors[1]["response"]["body"]["error"]["param"] == "temperature"


async def test_an_invalid_input_fails_the_batch_with_its_lines(tmp_path):
    content = (line(0) + "{\n" + line(0)).encode()
    async with serving_batches(tmp_path) as service, service.client() as client:
        batch = await ended(client, await create(client, content))
    assert batch.status == "failed"
    assert batch.failed_at
    assert [(each.code, each.line) for each in batch.errors.data] == [
        ("invalid_json_line", 2),
        ("duplicate_custom_id", 3),
    ]


async def test_cancelling_ends_what_runs(tmp_path):
    engine = ScriptedEngine(answer=None)
    async with serving_batches(tmp_path, engine) as service, service.client() as client:
        batch = await create(client)
        await engine.next_stream()
        cancelling = await client.batches.cancel(batch.id)
        batch = await ended(client, batch)
        assert await engine.next_aborted()
        errors = await read(client, batch.error_file_id)
        other = await ended(client, await create(client, b"{"))
        with pytest.raises(BadRequestError) as caught:
            await client.batches.cancel(other.id)
    assert cancelling.status == "cancelling"
    assert cancelling.cancelling_at
    assert (batch.status, batch.output_file_id) == ("cancelled", None)
    assert [each["error"]["code"] for each in errors] == ["batch_cancelled"] * 3
    assert caught.value.code == "batch_not_cancellable"


async def test_draining_lets_running_lines_finish_and_starts_no_more(tmp_path):
    engine = ScriptedEngine(answer=None)
    engine.num_slots = 1
    async with serving_batches(tmp_path, engine) as service, service.client() as client:
        batch = await create(client)
        stream = await engine.next_stream()
        service.drain.begin()
        stream.begin(0)
        stream.push([ord("a")], "stop")
        await until(lambda: service.value("batch_lines_total", outcome="completed") == 1)
        await service.drain.wait_idle()
        batch = await client.batches.retrieve(batch.id)
    assert batch.status == "in_progress"
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 1
    assert len(engine.requests) == 1


async def test_batches_are_listed_newest_first_in_pages(tmp_path):
    async with serving_batches(tmp_path) as service, service.client() as client:
        made = [(await create(client)).id for _ in range(3)]
        first = await client.batches.list(limit=2)
        everything = [each.id async for each in client.batches.list(limit=2)]
    assert [each.id for each in first.data] == made[:0:-1]
    assert first.has_more
    assert everything == made[::-1]


async def test_files_are_listed_read_and_deleted(tmp_path):
    content = input_of(2)
    async with serving_batches(tmp_path) as service, service.client() as client:
        one, two = [await upload(client, content) for _ in range(2)]
        ids = [each.id async for each in client.files.list(order="asc", limit=1)]
        assert await client.files.retrieve(one.id) == one
        assert (await client.files.content(one.id)).content == content
        deleted = await client.files.delete(one.id)
        with pytest.raises(NotFoundError):
            await client.files.content(one.id)
        left = [each.id async for each in client.files.list()]
    assert ids == [one.id, two.id]
    assert (one.bytes, one.filename, one.purpose) == (len(content), "in.jsonl", "batch")
    assert (deleted.id, deleted.deleted) == (one.id, True)
    assert left == [two.id]


async def test_a_file_may_say_when_it_expires(tmp_path):
    async with serving_batches(tmp_path) as service, service.client() as client:
        file = await upload(client, expires_after={"anchor": "created_at", "seconds": 3600})
        with pytest.raises(BadRequestError) as caught:
            await upload(client, expires_after={"anchor": "created_at", "seconds": 5})
    assert file.expires_at - file.created_at == 3600
    assert caught.value.param == "expires_after.seconds"


async def test_a_large_file_arrives_whole(tmp_path):
    content = b"".join(b"%d\r\n--x--\r\n" % number for number in range(200_000))
    async with serving_batches(tmp_path) as service, service.client() as client:
        file = await upload(client, content)
        assert (await client.files.content(file.id)).content == content


async def test_a_file_over_the_limit_is_a_413_and_leaves_nothing(tmp_path):
    limits = {"max_file_bytes": 1000}
    async with (
        serving_batches(tmp_path, limits=limits) as service,
        service.http() as http,
    ):
        files = {"file": ("in.jsonl", b"x" * 1001)}
        answer = await http.post("/v1/files", files=files, data={"purpose": "batch"})
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"
    assert list((tmp_path / "files").iterdir()) == []


async def test_a_file_may_come_before_its_purpose_whatever_it_is_called(tmp_path):
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="../../\xc3\xa4 b"\r\n\r\n'
        b'{}\r\n--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n'
    )
    headers = {"content-type": "multipart/form-data; boundary=b"}
    async with serving_batches(tmp_path) as service, service.http() as http:
        file = (await http.post("/v1/files", content=body, headers=headers)).json()
        content = await http.get(f"/v1/files/{file['id']}/content")
    assert file["filename"] == "../../ä b"
    assert content.headers["content-disposition"] == (
        "attachment; filename*=utf-8''..%2F..%2F%C3%A4%20b"
    )
    assert [path.name for path in (tmp_path / "files").iterdir()] == [file["id"]]


@pytest.mark.parametrize(
    ("files", "data", "param"),
    [
        ({"file": b"{}"}, {}, "purpose"),
        ({"file": b"{}"}, {"purpose": "fine-tune"}, "purpose"),
        ({"file": b"{}"}, {"purpose": "batch", "color": "red"}, "color"),
        ({"other": b"{}"}, {"purpose": "batch"}, None),
        ({"file": b"{}"}, {"purpose": "batch" * 500}, None),
    ],
)
async def test_a_form_that_is_not_understood_is_a_400(tmp_path, files, data, param):
    async with serving_batches(tmp_path) as service, service.http() as http:
        answer = await http.post("/v1/files", files=files, data=data)
        listed = await http.get("/v1/files")
    assert answer.status_code == 400
    if param:
        assert answer.json()["error"]["param"] == param
    assert listed.json()["data"] == []


@pytest.mark.parametrize("body", [b"", b"--b", b"--b\r\n\r\nx", b"garbage" * 100])
async def test_a_form_that_is_cut_off_or_is_none_is_a_400(tmp_path, body):
    headers = {"content-type": "multipart/form-data; boundary=b"}
    async with serving_batches(tmp_path) as service, service.http() as http:
        answer = await http.post("/v1/files", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_form"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"endpoint": "/v1/moderations"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {"key": "x" * 513}}, "metadata.key"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, None),
        ({"color": "red"}, "color"),
    ],
)
async def test_a_batch_that_is_not_understood_is_a_400(tmp_path, changes, param):
    async with serving_batches(tmp_path) as service, service.client() as client:
        file = await upload(client)
        asked = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"} | changes
        with pytest.raises(BadRequestError) as caught:
            await client.post("/batches", body=asked, cast_to=object)
    if param:
        assert caught.value.param == param


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=101", "color=red", "order=asc"])
async def test_a_list_of_batches_says_what_it_cannot_do(tmp_path, query):
    async with serving_batches(tmp_path) as service, service.http() as http:
        answer = await http.get(f"/v1/batches?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.split("=")[0]


async def test_what_is_of_another_key_is_not_there(tmp_path):
    async with (
        serving_batches(tmp_path, api_keys=("alice", "bob")) as service,
        service.client("alice") as alice,
        service.client("bob") as bob,
    ):
        batch = await ended(alice, await create(alice))
        for act in (
            bob.files.retrieve(batch.output_file_id),
            bob.files.content(batch.output_file_id),
            bob.files.delete(batch.input_file_id),
            bob.batches.retrieve(batch.id),
            bob.batches.cancel(batch.id),
            bob.batches.create(
                input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h"
            ),
        ):
            with pytest.raises(NotFoundError):
                await act
        assert (await bob.files.list()).data == (await bob.batches.list()).data == []


@pytest.mark.parametrize("file_id", ["..", "..%2Fbatches.sqlite", "file-0", "%00"])
async def test_an_id_is_never_a_path(tmp_path, file_id):
    async with serving_batches(tmp_path) as service, service.http() as http:
        for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
            assert (await http.get(path)).status_code == 404


async def test_a_folder_that_cannot_be_used_costs_batches_alone(tmp_path):
    (tmp_path / "file").touch()
    async with (
        serving_batches(tmp_path / "file" / "batches") as service,
        service.client() as client,
        service.http() as http,
    ):
        await client.chat.completions.create(**hello())
        answer = await http.get("/v1/files")
    assert answer.status_code == 507
    assert answer.json()["error"]["code"] == "storage_failed"


async def test_texts_are_embedded_in_a_batch(tmp_path):
    lines = [
        json.dumps(
            {
                "custom_id": f"text-{number}",
                "method": "POST",
                "url": "/v1/embeddings",
                "body": {"model": MODEL, "input": f"text {number}"},
            }
        )
        for number in range(3)
    ]
    async with (
        running_pool(engine_config("2x256", embedding_len=64)) as bench,
        serving_batches(tmp_path, bench.pool) as service,
        service.client() as client,
    ):
        file = await upload(client, "\n".join(lines).encode())
        created = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
        )
        batch = await ended(client, created)
        output = await read(client, batch.output_file_id)
    assert batch.status == "completed"
    assert [len(each["response"]["body"]["data"]) for each in output] == [1, 1, 1]
