"""Batches from their input to their files."""

import asyncio
import itertools
import os

import pytest

from service.errors import (
    BodyTooLarge,
    InvalidRequest,
    ObjectNotFound,
    QueueFull,
    StorageError,
)
from tests.batches.builders import CURSOR, Lines, input_of, line, open_bench, until

SECONDS_OF_A_DAY = 24 * 3600


def named(*numbers):
    return [(f"line-{number}", f"word {number}") for number in numbers]


async def test_every_line_gets_its_answer_in_the_order_of_the_input(tmp_path):
    async with open_bench(tmp_path) as bench:
        batch = await bench.ended(await bench.create(num_lines=250))
        output, errors = await bench.results(batch)
    assert batch.status == "completed"
    assert (batch.num_lines, batch.num_completed, batch.num_failed) == (250, 250, 0)
    assert output == named(*range(1, 251))
    assert errors == []
    assert batch.error_file_id is None
    assert list(batch.moments) == ["in_progress", "finalizing", "completed"]
    assert (batch.usage.input_tokens, batch.usage.output_tokens) == (750, 500)


async def test_lines_run_for_their_owner_and_after_everybody_else(tmp_path):
    async with open_bench(tmp_path) as bench:
        await bench.ended(await bench.create(tenant="alice"))
    assert {(call.tenant, call.priority) for call in bench.lines.calls} == {("alice", 100)}


async def test_never_more_lines_run_than_slots_are_idle(tmp_path):
    async with open_bench(tmp_path, num_slots=3) as bench:
        bench.lines.hold()
        batch = await bench.create(num_lines=20)
        await until(lambda: bench.lines.num_running == 3)
        bench.lines.release()
        await bench.ended(batch)
    assert bench.lines.most_running == 3


async def test_batches_take_turns(tmp_path):
    async with open_bench(tmp_path, num_slots=1) as bench:
        bench.lines.hold()
        long = await bench.create(num_lines=50)
        await until(lambda: bench.lines.num_running == 1)
        short = await bench.create("\n".join(map(line, range(101, 104))).encode())
        await until(lambda: bench.value("batches", status="in_progress") == 2)
        bench.lines.release()
        await bench.ended(short)
        await bench.ended(long)
    assert bench.lines.said.index("word 103") < 25


async def test_a_line_that_fails_is_in_the_error_file_with_its_response(tmp_path):
    async with open_bench(tmp_path) as bench:
        bench.lines.statuses["word 2"] = [400]
        batch = await bench.ended(await bench.create())
        assert await bench.results(batch) == (named(1, 3), [("line-2", None)])
        [record] = await bench.read("", batch.error_file_id)
    assert batch.status == "completed"
    assert (batch.num_completed, batch.num_failed) == (2, 1)
    assert record["response"]["status_code"] == 400
    assert record["response"]["body"]["said"] == "word 2"
    assert record["response"]["request_id"].startswith("req_")
    assert record["id"].startswith("batch_req_")
    assert bench.value("batch_lines_total", outcome="completed") == 2
    assert bench.value("batch_lines_total", outcome="failed") == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_a_line_that_the_engine_refuses_runs_again(tmp_path, status):
    async with open_bench(tmp_path) as bench:
        bench.lines.statuses["word 2"] = [status, status]
        batch = await bench.ended(await bench.create())
        output, errors = await bench.results(batch)
    assert output == named(1, 2, 3)
    assert errors == []
    assert bench.lines.said.count("word 2") == 3


async def test_an_invalid_input_fails_with_the_lines_and_nothing_runs(tmp_path):
    async with open_bench(tmp_path) as bench:
        content = f"{line(1)}\n{{\n{line(1)}\n".encode()
        batch = await bench.ended(await bench.create(content))
    assert batch.status == "failed"
    assert [(each.code, each.line) for each in batch.problems] == [
        ("invalid_json_line", 2),
        ("duplicate_custom_id", 3),
    ]
    assert bench.lines.calls == []


async def test_cancelling_gives_up_what_runs_and_keeps_what_is_answered(tmp_path):
    lines = Lines(held={"word 3"})
    async with open_bench(tmp_path, num_slots=1, lines=lines) as bench:
        batch = await bench.create(num_lines=4)
        await until(lambda: "word 3" in lines.said)
        cancelling = await bench.batches.cancel("", batch.id)
        batch = await bench.ended(batch)
        results = await bench.results(batch)
    assert cancelling.status == "cancelling"
    assert batch.status == "cancelled"
    assert lines.num_running == 0
    assert results == (named(1, 2), [("line-3", "batch_cancelled"), ("line-4", "batch_cancelled")])
    assert (batch.num_completed, batch.num_failed) == (2, 2)
    assert bench.value("batch_lines_total", outcome="cancelled") == 2


async def test_cancelling_twice_is_no_mistake_and_after_the_end_it_is(tmp_path):
    async with open_bench(tmp_path) as bench:
        bench.lines.hold()
        batch = await bench.create()
        await bench.batches.cancel("", batch.id)
        await bench.ended(batch)
        assert (await bench.batches.cancel("", batch.id)).status == "cancelled"
        bench.lines.release()
        done = await bench.ended(await bench.create())
        with pytest.raises(InvalidRequest, match="completed"):
            await bench.batches.cancel("", done.id)


async def test_a_batch_that_takes_too_long_expires_with_what_it_has(tmp_path):
    lines = Lines(held={"word 2"})
    async with open_bench(tmp_path, num_slots=1, lines=lines, window_seconds=1) as bench:
        batch = await bench.ended(await bench.create(num_lines=3))
        results = await bench.results(batch)
    assert batch.status == "expired"
    assert results == (named(1), [("line-2", "batch_expired"), ("line-3", "batch_expired")])
    assert lines.num_running == 0


async def test_a_batch_whose_time_ran_out_while_nobody_served_expires(tmp_path):
    async with open_bench(tmp_path) as bench:
        bench.lines.hold()
        batch = await bench.create()
        await until(lambda: bench.lines.num_running == 3)
    bench.clock.now += 3600
    async with open_bench(tmp_path, clock=bench.clock) as later:
        batch = await later.ended(batch)
        output, errors = await later.results(batch)
    assert batch.status == "expired"
    assert output == []
    assert [code for _, code in errors] == ["batch_expired"] * 3
    assert later.lines.calls == []


async def test_a_batch_goes_on_where_a_stopped_service_left_it(tmp_path):
    lines = Lines(held={"word 20", "word 21"})
    async with open_bench(tmp_path, num_slots=2, lines=lines) as bench:
        batch = await bench.create(num_lines=40)
        await until(lambda: bench.value("batch_lines_total", outcome="completed") == 19)
        await until(lambda: lines.num_running == 2)
    async with open_bench(tmp_path) as later:
        batch = await later.ended(batch)
        results = await later.results(batch)
    assert results == (named(*range(1, 41)), [])
    assert sorted(later.lines.said) == sorted(f"word {number}" for number in range(20, 41))


async def test_each_answer_counts_once_however_often_the_service_stops(tmp_path):
    lines = Lines()
    batch = None
    for _ in range(20):
        async with open_bench(tmp_path, num_slots=2, lines=lines) as bench:
            batch = batch or await bench.create(num_lines=60)
            seen = len(lines.calls)
            await until(lambda seen=seen: len(lines.calls) > seen + 3 or len(lines.calls) >= 60)
    async with open_bench(tmp_path, lines=lines) as bench:
        batch = await bench.ended(batch)
        output, _ = await bench.results(batch)
    assert output == named(*range(1, 61))
    assert batch.num_completed == 60


async def test_no_line_begins_while_the_service_drains_and_what_is_answered_is_kept(tmp_path):
    async with open_bench(tmp_path, num_slots=2) as bench:
        bench.lines.hold()
        batch = await bench.create(num_lines=10)
        await until(lambda: bench.lines.num_running == 2)
        bench.is_closed = True
        bench.lines.release()
        await until(lambda: bench.value("batch_lines_total", outcome="completed") == 2)
        await asyncio.sleep(0.15)
    assert len(bench.lines.calls) == 2
    async with open_bench(tmp_path) as later:
        batch = await later.ended(batch)
    assert batch.num_completed == 10
    assert len(later.lines.calls) == 8


async def test_the_input_of_a_running_batch_cannot_be_deleted(tmp_path):
    async with open_bench(tmp_path) as bench:
        bench.lines.hold()
        batch = await bench.create()
        with pytest.raises(InvalidRequest, match=batch.id):
            await bench.batches.files.delete("", batch.input_file_id)
        bench.lines.release()
        await bench.ended(batch)
        await bench.batches.files.delete("", batch.input_file_id)


async def test_one_more_batch_than_may_be_under_way_is_refused(tmp_path):
    async with open_bench(tmp_path, max_active=2) as bench:
        bench.lines.hold()
        for _ in range(2):
            await bench.create()
        with pytest.raises(QueueFull):
            await bench.create()
        await bench.create(tenant="another")


async def test_others_see_neither_files_nor_batches(tmp_path):
    async with open_bench(tmp_path) as bench:
        batch = await bench.ended(await bench.create(tenant="alice"))
        assert batch.output_file_id is not None
        for act in (
            bench.batches.get("bob", batch.id),
            bench.batches.cancel("bob", batch.id),
            bench.batches.files.get("bob", batch.output_file_id),
            bench.batches.files.delete("bob", batch.input_file_id),
            bench.batches.create(
                "bob",
                endpoint=batch.endpoint,
                input_file_id=batch.input_file_id,
                metadata=None,
                output_seconds=None,
            ),
        ):
            with pytest.raises(ObjectNotFound):
                await act
        assert (await bench.batches.read_page("bob", CURSOR)).items == []
        assert (await bench.batches.files.read_page("bob", CURSOR)).items == []


async def test_files_are_gone_when_their_time_is_over(tmp_path):
    async with open_bench(tmp_path) as bench:
        file = await bench.upload(input_of(1), seconds=3600)
        bench.clock.now += 3600
        with pytest.raises(ObjectNotFound):
            await bench.batches.files.get("", file.id)
        assert (await bench.batches.files.read_page("", CURSOR)).items == []
        await bench.batches.files.remove_expired()
        assert bench.list_files() == []


async def test_output_files_are_kept_as_long_as_their_batch_says(tmp_path):
    async with open_bench(tmp_path) as bench:
        batch = await bench.ended(await bench.create(output_seconds=7200))
        assert batch.output_file_id is not None
        file = await bench.batches.files.get("", batch.output_file_id)
    assert file.expires_at - file.created_at == 7200


async def test_what_a_killed_upload_left_is_removed_at_start(tmp_path):
    async with open_bench(tmp_path) as bench:
        file = await bench.upload(input_of(1))
    for name in ("file-0123.part", "file-4567"):
        (tmp_path / "files" / name).write_bytes(b"half")
    async with open_bench(tmp_path) as bench:
        assert bench.list_files() == [file.id]


async def test_a_file_over_the_limit_leaves_nothing(tmp_path):
    async with open_bench(tmp_path, max_file_bytes=100) as bench:
        with pytest.raises(BodyTooLarge, match="100"):
            await bench.upload(b"x" * 101)
        assert bench.list_files() == []


async def test_files_of_a_tenant_have_a_limit_together(tmp_path):
    async with open_bench(tmp_path, max_tenant_bytes=100) as bench:
        await bench.upload(b"x" * 60)
        with pytest.raises(InvalidRequest, match="100 bytes"):
            await bench.upload(b"x" * 41)
        await bench.upload(b"x" * 100, tenant="another")
        await bench.upload(b"x" * 40)


async def test_uploads_that_run_count_as_well(tmp_path):
    async with open_bench(tmp_path, max_tenant_bytes=100) as bench:
        async with bench.batches.files.receive("") as upload:
            await upload.write(b"x" * 60)
            with pytest.raises(InvalidRequest):
                await bench.upload(b"x" * 41)
        await bench.upload(b"x" * 41)


async def test_a_disk_that_cannot_be_written_is_said_and_the_batch_waits_for_it(
    tmp_path, monkeypatch
):
    async with open_bench(tmp_path) as bench:
        file = await bench.upload(input_of(3))
        failures = itertools.count()

        def fail_twice(handle):
            if next(failures) < 2:
                raise OSError(28, "No space left on device")
            return sync(handle)

        sync = os.fsync
        monkeypatch.setattr(os, "fsync", fail_twice)
        with pytest.raises(StorageError, match="No space left"):
            await bench.upload(b"more")
        assert bench.list_files() == [file.id]
        batch = await bench.batches.create(
            "",
            endpoint="/v1/chat/completions",
            input_file_id=file.id,
            metadata=None,
            output_seconds=None,
        )
        batch = await bench.ended(batch)
        output, _ = await bench.results(batch)
    assert output == named(1, 2, 3)
    assert len(bench.lines.calls) == 3


async def test_a_second_service_on_the_folder_waits_for_the_first(tmp_path):
    async with open_bench(tmp_path) as first:
        batch = await first.ended(await first.create())
        async with open_bench(tmp_path) as second:
            with pytest.raises(StorageError, match="another process"):
                await second.batches.get("", batch.id)
    async with open_bench(tmp_path) as third:
        assert await third.batches.get("", batch.id) == batch


async def test_batches_are_counted_by_status_after_a_restart_too(tmp_path):
    async with open_bench(tmp_path) as bench:
        await bench.ended(await bench.create())
        await bench.ended(await bench.create(b"{"))
        assert bench.value("batches", status="completed") == 1
    async with open_bench(tmp_path) as later:
        assert later.value("batches", status="failed") == 1
        assert later.value("batches", status="in_progress") == 0
