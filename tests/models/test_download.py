import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.errors import DownloadError
from service.models.catalog import CatalogEntry
from service.models.pull import Puller, provenance_path
from tests.models.hub import CONTENT, Hub, build_entry, run_hub, sha256

MB = 1_000_000


def build_puller(folder: Path, hub: Hub, *, free: int = 1 << 40) -> Puller:
    return Puller(
        models_dir=folder,
        endpoint=hub.endpoint,
        free_bytes=lambda _: free,
        sleep=lambda _: None,
    )


def pull(folder: Path, hub: Hub, entry: CatalogEntry | None = None, *, free: int = 1 << 40) -> Path:
    return build_puller(folder, hub, free=free).pull(entry or build_entry()).path


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_pulled_model_has_its_content_and_a_note_of_what_it_was_checked_against(tmp_path):
    with run_hub(Hub()) as hub:
        path = pull(tmp_path, hub)
    assert path.read_bytes() == CONTENT
    assert names_in(tmp_path) == {"tiny.gguf", "tiny.gguf.json"}
    note = provenance_path(path).read_text()
    assert sha256(CONTENT) in note
    assert '"hub"' in note


def test_progress_ends_at_the_whole_size(tmp_path):
    seen = []
    with run_hub(Hub()) as hub:
        puller = Puller(
            models_dir=tmp_path, endpoint=hub.endpoint, report=lambda *now: seen.append(now)
        )
        puller.pull(build_entry())
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_model_that_is_there_is_checked_and_not_fetched_again(tmp_path):
    with run_hub(Hub()) as hub:
        pull(tmp_path, hub)
        pull(tmp_path, hub)
    assert len(hub.requested_ranges) == 1


def test_a_model_that_is_there_but_damaged_is_named(tmp_path):
    with run_hub(Hub()) as hub:
        path = pull(tmp_path, hub)
        path.write_bytes(CONTENT[:-1])
        with pytest.raises(DownloadError, match=r"wrong checksum.*remove it and pull again"):
            pull(tmp_path, hub)


def test_dropped_connections_go_on_where_they_broke_off(tmp_path):
    with run_hub(Hub(drop_after=[MB, MB // 2, 10])) as hub:
        path = pull(tmp_path, hub)
    assert path.read_bytes() == CONTENT
    starts = [int(wanted[6:-1]) for wanted in hub.requested_ranges if wanted]
    assert starts == sorted(starts)
    assert starts[0] > 0


def test_a_server_without_ranges_is_read_from_the_start_each_time(tmp_path):
    with run_hub(Hub(serves_ranges=False, drop_after=[2 * MB, 2 * MB])) as hub:
        assert pull(tmp_path, hub).read_bytes() == CONTENT


def test_a_server_that_never_gets_further_is_given_up(tmp_path):
    with run_hub(Hub(serves_ranges=False, drop_after=[MB] * 50)) as hub:
        with pytest.raises(DownloadError, match="kept to go on from"):
            pull(tmp_path, hub)
        assert len(hub.requested_ranges) < 10


def test_an_overloaded_server_is_asked_again(tmp_path):
    with run_hub(Hub(statuses=[503, 429, 500])) as hub:
        assert pull(tmp_path, hub).read_bytes() == CONTENT


def test_a_missing_file_is_an_error_that_says_what_to_put_where(tmp_path):
    with run_hub(Hub(statuses=[404])) as hub, pytest.raises(DownloadError) as caught:
        pull(tmp_path, hub)
    assert "404" in str(caught.value)
    assert f"fetch tiny.gguf of org/tiny-GGUF by other means and put it at {tmp_path}" in str(
        caught.value
    )
    assert names_in(tmp_path) == set()


def test_no_server_is_an_error_that_leaves_nothing(tmp_path):
    with run_hub(Hub()) as hub:
        pass
    with pytest.raises(DownloadError, match="put it at"):
        pull(tmp_path, hub)
    assert names_in(tmp_path) == set()


@pytest.mark.parametrize("lie", [-1000, 1000])
def test_a_content_length_that_lies_never_gives_a_model(tmp_path, lie):
    with run_hub(Hub(content_length_lie=lie)) as hub, pytest.raises(DownloadError):
        pull(tmp_path, hub)
    assert "tiny.gguf" not in names_in(tmp_path)


def test_a_file_of_another_size_than_the_catalogues_is_refused_at_once(tmp_path):
    entry = build_entry(size=len(CONTENT) + 1, digest=sha256(CONTENT))
    with run_hub(Hub()) as hub, pytest.raises(DownloadError, match="it is another file"):
        pull(tmp_path, hub, entry)
    assert names_in(tmp_path) == set()


@pytest.mark.parametrize("entry", [build_entry(), build_entry(digest=sha256(CONTENT))])
def test_a_wrong_checksum_is_an_error_that_leaves_nothing(tmp_path, entry):
    damaged = CONTENT[:-1] + b"?"
    with run_hub(Hub(content=damaged)) as hub, pytest.raises(DownloadError, match="wrong checksum"):
        pull(tmp_path, hub, entry)
    assert names_in(tmp_path) == set()


def test_the_catalogue_outweighs_what_the_hub_declares(tmp_path):
    entry = build_entry(digest=sha256(CONTENT))
    with run_hub(Hub(declared_sha256="0" * 64)) as hub:
        assert '"catalogue"' in provenance_path(pull(tmp_path, hub, entry)).read_text()


def test_a_file_that_nobody_declares_a_hash_for_is_refused(tmp_path):
    undeclared = Hub(declared_sha256=None)
    with run_hub(undeclared) as hub, pytest.raises(DownloadError, match="declares no SHA-256"):
        pull(tmp_path, hub)
    assert names_in(tmp_path) == set()


def test_a_file_that_changed_at_the_hub_is_started_anew(tmp_path):
    with run_hub(Hub(drop_after=[MB] * 12, serves_ranges=False)) as hub:
        with pytest.raises(DownloadError):
            pull(tmp_path, hub)
        assert "tiny.gguf.part" in names_in(tmp_path)
    changed = CONTENT[::-1]
    with run_hub(Hub(content=changed, etag='"v2"', declared_sha256=sha256(changed))) as hub:
        assert pull(tmp_path, hub).read_bytes() == changed


def test_a_changed_file_with_the_old_validator_is_started_anew(tmp_path):
    changed = CONTENT[::-1]
    with run_hub(Hub(content=changed, declared_sha256=sha256(changed))) as hub:
        leave_part(tmp_path, hub, CONTENT[:MB], sha256(CONTENT))
        assert pull(tmp_path, hub).read_bytes() == changed


def leave_part(folder: Path, hub: Hub, data: bytes, digest: str) -> None:
    """What a killed pull leaves."""
    url = f"{hub.endpoint}/org/tiny-GGUF/resolve/main/tiny.gguf"
    origin = f'{{"url":"{url}","etag":"\\"v1\\"","sha256":"{digest}","size":{len(CONTENT)}}}'
    (folder / "tiny.gguf.part").write_bytes(data)
    (folder / "tiny.gguf.part.json").write_text(origin)


@pytest.mark.parametrize("data", [CONTENT, CONTENT + b"more"])
def test_a_part_that_is_as_long_as_the_file_or_longer_ends_as_the_file(tmp_path, data):
    with run_hub(Hub()) as hub:
        leave_part(tmp_path, hub, data, sha256(CONTENT))
        assert pull(tmp_path, hub).read_bytes() == CONTENT


def test_too_little_free_space_is_found_before_the_download_and_leaves_nothing(tmp_path):
    message = r"disk is full: 3 MB are needed .* 1 MB are free"
    with run_hub(Hub()) as hub, pytest.raises(DownloadError, match=message):
        pull(tmp_path, hub, free=MB)
    assert names_in(tmp_path) == set()


def test_a_disk_that_fills_up_on_the_way_is_an_error_that_leaves_nothing(tmp_path):
    with run_hub(Hub()) as hub:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MB + 1, hard))
        try:
            with pytest.raises(DownloadError, match="File too large; nothing was kept"):
                pull(tmp_path, hub)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names_in(tmp_path) == set()


PULL_IN_CHILD = """
import sys
from pathlib import Path
from service.models.pull import Puller
from tests.models.hub import build_entry
Puller(models_dir=Path(sys.argv[1]), endpoint=sys.argv[2]).pull(build_entry())
"""


def test_a_killed_pull_is_gone_on_with_by_the_next(tmp_path):
    with run_hub(Hub(stall_at=2_500_000)) as hub:
        child = subprocess.Popen([sys.executable, "-c", PULL_IN_CHILD, tmp_path, hub.endpoint])
        assert hub.stalled.wait(30)
        part = tmp_path / "tiny.gguf.part"
        while not (part.exists() and part.stat().st_size):
            os.sched_yield()
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert not (tmp_path / "tiny.gguf").exists()
        assert pull(tmp_path, hub).read_bytes() == CONTENT
        assert hub.requested_ranges[-1] not in (None, "bytes=0-")


def test_two_pulls_at_once_fetch_once(tmp_path):
    with run_hub(Hub(drop_after=[MB])) as hub:
        fork = multiprocessing.get_context("spawn")
        children = [
            fork.Process(target=_pull_in_child, args=(tmp_path, hub.endpoint)) for _ in range(2)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0, 0]
        assert hub.requested_ranges.count(None) == 1
    assert (tmp_path / "tiny.gguf").read_bytes() == CONTENT


def _pull_in_child(folder: Path, endpoint: str) -> None:
    Puller(models_dir=folder, endpoint=endpoint).pull(build_entry())
