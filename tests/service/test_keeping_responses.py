"""Where responses are kept, and what happens where they cannot be."""

import pytest
from structlog.testing import capture_logs

from service.app import _keeping_responses
from service.errors import SettingsError
from service.records.responses import ResponseRecord
from service.settings import Settings

RECORD = ResponseRecord(
    id="r", tenant="", chain="r", previous=None, is_finished=False, body=b'{"status":"queued"}'
)


def settings_with(folder, **options):
    return Settings.load({"state_dir": str(folder)} | options)


async def test_they_are_kept_in_the_state_folder_and_the_unfinished_fail_at_a_start(
    tmp_path,
):
    settings = settings_with(tmp_path)
    async with _keeping_responses(settings) as records:
        await records.put(RECORD)
    assert (tmp_path / "responses.sqlite").exists()
    async with _keeping_responses(settings) as records:
        found = await records.get("r", "")
    assert found is not None
    assert found.is_finished
    assert b'"failed"' in found.body


async def test_a_second_service_keeps_them_in_memory_and_says_so(tmp_path):
    settings = settings_with(tmp_path)
    async with _keeping_responses(settings) as first:
        await first.put(RECORD)
        with capture_logs() as lines:
            async with _keeping_responses(settings) as second:
                assert await second.get("r", "") is None
                await second.put(RECORD)
    [line] = lines
    assert line["event"] == "responses_kept_in_memory"
    assert "another process uses it" in line["reason"]


async def test_a_chosen_file_that_cannot_be_used_stops_the_start(tmp_path):
    path = tmp_path / "responses.sqlite"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(SettingsError, match=r"SMOLSERVE_RECORDS__PATH.*Move it away"):
        async with _keeping_responses(settings_with(tmp_path, **{"records.path": str(path)})):
            pass


async def test_memory_may_be_chosen(tmp_path):
    async with _keeping_responses(settings_with(tmp_path, **{"records.path": ":memory:"})) as kept:
        await kept.put(RECORD)
    assert list(tmp_path.iterdir()) == []
