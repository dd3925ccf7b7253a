"""The disk tier's files: whole or not there, and whatever is wrong is an error to read about."""

import contextlib
import itertools
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.snapshot_file import FileRecord, read_payload, read_record, write_file
from service.engine.snapshot_files import (
    LOCK,
    MAX_FAILURES,
    NICENESS,
    PAUSE_SECONDS,
    Read,
    SnapshotFiles,
    Written,
)
from service.errors import SettingsError, SnapshotFileError

FINGERPRINT = "f" * 32


def record(start: int = 0, end: int = 3, **changes) -> FileRecord:
    fields = {
        "label": "alice",
        "tokens": np.arange(end, dtype=np.int32).tobytes(),
        "start": start,
        "end": end,
        "num_public": 1,
        "sessions": [("alice", "s-1")],
    }
    return FileRecord(**fields | changes)


def payload(length: int = 1000, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, length, np.uint8)


def write_now(path: Path, *, length: int = 200, fingerprint: str = FINGERPRINT) -> int:
    """Write a file without a thread."""
    return write_file(path, fingerprint, record(), [payload(length)], lambda: None)


def file_path(folder: Path, file_id: int) -> Path:
    return folder / f"{file_id:016x}.kv"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """Files in a folder, and what of them has ended."""

    def __init__(self, folder: Path, fingerprint: str = FINGERPRINT) -> None:
        self.folder = folder
        self.clock = Clock()
        self.files = SnapshotFiles(folder, fingerprint, clock=self.clock)

    def wait(self, num_done: int) -> list[Written | Read]:
        """So many completions, as an idle worker waits for them."""
        done: list[Written | Read] = []
        while len(done) < num_done:
            assert select.select([self.files.wakeup_fd], [], [], 30)[0]
            done += self.files.take_done()
        assert len(done) == num_done
        return done

    def write(self, file_id: int, *, length: int = 1000) -> Written:
        self.files.write(file_id, record(), [payload(length, seed=file_id)])
        (done,) = self.wait(1)
        assert isinstance(done, Written)
        return done

    def read(self, file_id: int) -> Read:
        self.files.read(file_id)
        (done,) = self.wait(1)
        assert isinstance(done, Read)
        return done

    def hold(self) -> None:
        """Keep the thread busy until `release`: it reads from a pipe that nothing comes out of."""
        path = file_path(self.folder, 0xFFFF)
        os.mkfifo(path)
        self.files.read(0xFFFF)
        self._pipe = path.open("wb")  # waits for the thread to open its end

    def release(self) -> None:
        self._pipe.close()


@contextlib.contextmanager
def opened(folder: Path, fingerprint: str = FINGERPRINT) -> Iterator[Bench]:
    bench = Bench(folder, fingerprint)
    yield bench
    bench.files.close(30)


@pytest.fixture
def bench(tmp_path):
    with opened(tmp_path / "kv") as bench:
        yield bench


def assert_read(done: Written | Read, expected: np.ndarray) -> None:
    assert isinstance(done, Read)
    assert done.error is None
    assert done.payload is not None
    assert np.array_equal(done.payload, expected)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {LOCK}


def test_what_was_written_is_found_and_read_by_the_next_process(tmp_path):
    parts = [payload(5, seed=1), payload(3_000_000, seed=2), payload(1, seed=3)]
    with opened(tmp_path / "kv") as first:
        first.files.write(7, record(1, 3), [parts[0], parts[1].data, parts[2]])
        (written,) = first.wait(1)
        assert isinstance(written, Written)
        assert (written.file_id, written.error) == (7, None)
    with opened(tmp_path / "kv") as second:
        (stored,) = second.files.scan()
        assert (stored.file_id, stored.record) == (7, record(1, 3))
        assert stored.num_bytes == written.num_bytes == file_path(second.folder, 7).stat().st_size
        assert_read(second.read(7), np.concatenate(parts))


def test_files_are_private_and_their_names_say_nothing(bench):
    bench.folder.chmod(0o755)
    bench.files.close(30)
    bench.files = SnapshotFiles(bench.folder, FINGERPRINT)
    bench.write(1)
    assert names(bench.folder) == {"0000000000000001.kv"}
    assert bench.folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in bench.folder.iterdir())


def test_erased_file_is_gone_and_erasing_it_again_is_nothing(bench):
    bench.write(1)
    bench.files.erase(1)
    bench.files.erase(1)
    assert bench.read(1).error == "No such file or directory"
    assert names(bench.folder) == set()


@pytest.mark.parametrize(
    "changes", [{"end": 4}, {"start": 3}, {"start": -1}, {"num_public": 4}, {"tokens": b"12345678"}]
)
def test_record_that_does_not_add_up_is_refused(changes):
    with pytest.raises(ValueError, match="token"):
        msgspec.structs.replace(record(), **changes)


# What a scan and a read make of files that are not as they were written.


def test_file_cut_off_anywhere_is_discarded(tmp_path):
    path = tmp_path / "file"
    length = write_now(path, length=40)
    written = path.read_bytes()
    for end in range(length):
        path.write_bytes(written[:end])
        with pytest.raises(SnapshotFileError, match="truncated"):
            read_record(path, FINGERPRINT)
    path.write_bytes(written + b"\0")
    with pytest.raises(SnapshotFileError, match="truncated"):
        read_record(path, FINGERPRINT)


def test_file_with_any_byte_flipped_is_not_read(tmp_path):
    path = tmp_path / "file"
    length = write_now(path)
    written = path.read_bytes()

    @settings(deadline=None)
    @given(offset=st.integers(0, length - 1), mask=st.integers(1, 255))
    def flip(offset, mask):
        changed = bytearray(written)
        changed[offset] ^= mask
        path.write_bytes(changed)
        with pytest.raises(SnapshotFileError):
            read_payload(path, FINGERPRINT)

    flip()


def test_payload_of_another_file_does_not_pass(tmp_path):
    for name, end in [("one", 3), ("two", 4)]:
        parts = [payload(40, seed=end)]
        write_file(tmp_path / name, FINGERPRINT, record(0, end), parts, lambda: None)
    one, two = ((tmp_path / name).read_bytes() for name in ("one", "two"))
    (tmp_path / "one").write_bytes(one[:-56] + two[-56:])
    with pytest.raises(SnapshotFileError, match="corrupt"):
        read_payload(tmp_path / "one", FINGERPRINT)


def spoil(folder: Path) -> dict[int, str]:
    """Files that are wrong in every way, by id, with the reason that a scan gives."""
    reasons = {
        1: "truncated", 2: "corrupt", 3: "foreign", 4: "of version 2", 5: "truncated",
        6: "corrupt", 7: "corrupt",
    }  # fmt: skip
    length = 0
    for file_id in reasons:
        fingerprint = "0" * 32 if file_id == 3 else FINGERPRINT
        length = write_now(file_path(folder, file_id), fingerprint=fingerprint)
    edits = {1: (length - 1, b""), 2: (0, b"X"), 4: (8, b"\2"), 5: (0, b""), 6: (40, b"\xff")}
    edits[7] = (16, b"\0")
    for file_id, (offset, value) in edits.items():
        path = file_path(folder, file_id)
        written = path.read_bytes()
        rest = written[offset + 1 :] if value else b""
        path.write_bytes(written[:offset] + value + rest)
    return reasons


def test_scan_discards_what_is_wrong_and_says_why(bench):
    spoil(bench.folder)
    bench.write(8)
    (bench.folder / "0000000000000009.tmp").write_bytes(b"half")
    (bench.folder / "notes.txt").write_bytes(b"not ours")
    with structlog.testing.capture_logs() as logs:
        assert [stored.file_id for stored in bench.files.scan()] == [8]
    assert names(bench.folder) == {"0000000000000008.kv", "notes.txt"}
    assert {log["reason"]: log["num_files"] for log in logs} == {
        "truncated": 2, "corrupt": 3, "foreign": 1, "of version 2": 1, "half-written": 1,
    }  # fmt: skip
    assert {log["log_level"] for log in logs} == {"warning"}


def test_read_discards_what_is_wrong_and_says_why(bench):
    for file_id, reason in spoil(bench.folder).items():
        with structlog.testing.capture_logs() as logs:
            read = bench.read(file_id)
        assert (read.payload, read.error) == (None, reason)
        assert [log["reason"] for log in logs] == [reason]
    assert names(bench.folder) == set()


def test_changed_payload_passes_the_scan_and_not_the_read(bench):
    bench.write(1)
    path = file_path(bench.folder, 1)
    written = bytearray(path.read_bytes())
    written[-20] ^= 1
    path.write_bytes(written)
    assert len(bench.files.scan()) == 1
    with structlog.testing.capture_logs():
        assert bench.read(1).error == "corrupt"
    assert names(bench.folder) == set()


def test_what_is_no_file_is_an_error(bench):
    file_path(bench.folder, 1).mkdir()
    file_path(bench.folder, 2).symlink_to("nowhere")
    with structlog.testing.capture_logs():
        assert bench.read(1).error == "Is a directory"
        assert bench.read(2).error == "No such file or directory"
        assert bench.files.scan() == []


# Disks that fail.


@contextlib.contextmanager
def longest_file(num_bytes: int) -> Iterator[None]:
    """As a full disk, for files beyond a length: writing fails in the middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_write_that_fails_in_the_middle_is_an_error_and_leaves_nothing(bench):
    with longest_file(100_000), structlog.testing.capture_logs() as logs:
        written = bench.write(1, length=5_000_000)
    assert (written.num_bytes, written.error) == (0, "File too large")
    assert [log["reason"] for log in logs] == ["File too large"]
    assert names(bench.folder) == set()
    assert bench.write(2).error is None


def test_writing_pauses_after_repeated_failures_and_is_tried_again(bench):
    with longest_file(100), structlog.testing.capture_logs() as logs:
        for file_id in range(MAX_FAILURES):
            assert bench.write(file_id).error == "File too large"
        assert [log["pause_seconds"] for log in logs] == [0] * (MAX_FAILURES - 1) + [PAUSE_SECONDS]
        assert bench.write(10).error == f"writing pauses after {MAX_FAILURES} failures in a row"
        bench.clock.now += PAUSE_SECONDS
        assert bench.write(11).error == "File too large"
    assert "pauses" in bench.write(12).error
    bench.clock.now += PAUSE_SECONDS
    assert bench.write(13).error is None
    assert bench.write(14).error is None
    assert names(bench.folder) == {"000000000000000d.kv", "000000000000000e.kv"}


def test_full_disk_is_an_error_and_what_was_there_stays(tmp_path):
    folder = tmp_path / "kv"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        with opened(folder) as bench, structlog.testing.capture_logs():
            assert bench.write(1, length=400_000).error is None
            assert bench.write(2, length=900_000).error == "No space left on device"
            assert names(folder) == {"0000000000000001.kv"}
            assert bench.read(1).error is None
            bench.files.erase(1)
            assert bench.write(3, length=900_000).error is None
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_vanished_folder_is_an_error(bench):
    bench.write(1)
    shutil.rmtree(bench.folder)
    with structlog.testing.capture_logs():
        assert bench.write(2).error == "No such file or directory"
        assert bench.read(1).error == "No such file or directory"
    bench.files.erase(1)


def test_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="file/kv"):
        SnapshotFiles(tmp_path / "file" / "kv", FINGERPRINT)


def test_folder_in_use_is_an_error_that_names_it(bench):
    with pytest.raises(SettingsError, match=f"{bench.folder}"):
        SnapshotFiles(bench.folder, FINGERPRINT)
    bench.files.close(30)
    bench.files = SnapshotFiles(bench.folder, FINGERPRINT)


# The queue.


def test_reads_and_erasures_go_before_writes(bench):
    bench.write(1)
    bench.hold()
    for file_id in (2, 3):
        bench.files.write(file_id, record(), [payload()])
    bench.files.read(1)
    bench.files.erase(1)
    bench.files.read(1)
    assert bench.files.pending_bytes == 2000
    with structlog.testing.capture_logs():
        bench.release()
        done = bench.wait(5)[1:]
    assert [(type(each), each.file_id, each.error) for each in done] == [
        (Read, 1, None),
        (Read, 1, "No such file or directory"),
        (Written, 2, None),
        (Written, 3, None),
    ]
    assert bench.files.pending_bytes == 0


def test_file_is_read_after_its_own_write(bench):
    bench.hold()
    for file_id in (1, 2):
        bench.files.write(file_id, record(), [payload(seed=file_id)])
    bench.files.read(2)
    with structlog.testing.capture_logs():
        bench.release()
        done = bench.wait(4)[1:]
    assert [(type(each), each.file_id) for each in done] == [(Written, 2), (Read, 2), (Written, 1)]
    assert_read(done[1], payload(seed=2))


def test_file_erased_before_its_write_is_never_written(bench):
    bench.hold()
    bench.files.write(1, record(), [payload()])
    bench.files.erase(1)
    with structlog.testing.capture_logs():
        bench.release()
        _, written = bench.wait(2)
    assert (written.num_bytes, written.error) == (0, "erased before it was written")
    assert bench.files.pending_bytes == 0
    assert names(bench.folder) == set()


def test_descriptor_is_readable_exactly_while_there_is_something_to_take(bench):
    def is_readable() -> bool:
        return bool(select.select([bench.files.wakeup_fd], [], [], 0)[0])

    assert not is_readable()
    assert bench.files.take_done() == []
    bench.files.write(1, record(), [payload()])
    assert select.select([bench.files.wakeup_fd], [], [], 30)[0]
    assert is_readable()
    assert len(bench.files.take_done()) == 1
    assert not is_readable()


def test_every_one_of_many_completes_once(bench):
    for file_id in range(50):
        bench.files.write(file_id, record(), [payload(seed=file_id)])
        bench.files.read(file_id)
    done = bench.wait(100)
    for each in done:
        if isinstance(each, Read):
            assert_read(each, payload(seed=each.file_id))
        else:
            assert each.error is None
    assert sorted(each.file_id for each in done) == sorted([*range(50), *range(50)])


def test_thread_gives_way_to_those_that_compute(bench):
    bench.write(1)
    thread = bench.files._thread.native_id
    assert os.getpriority(os.PRIO_PROCESS, thread) == NICENESS
    assert os.getpriority(os.PRIO_PROCESS, 0) < NICENESS


def test_close_finishes_what_is_queued(bench):
    for file_id in range(20):
        bench.files.write(file_id, record(), [payload()])
    bench.files.erase(3)
    bench.files.close(30)
    assert len(names(bench.folder)) in {19, 20}
    bench.files = SnapshotFiles(bench.folder, FINGERPRINT)
    assert {stored.file_id for stored in bench.files.scan()} == set(range(20)) - {3}


def test_close_gives_up_what_the_deadline_leaves(bench):
    """The clock stands still, so a deadline of 0 is past at once."""
    bench.write(1)
    bench.hold()
    bench.files.write(2, record(), [payload()])
    bench.files.erase(1)
    bench.files.read(1)
    bench.files._deadline = bench.clock.now
    with structlog.testing.capture_logs():
        bench.release()
        _, read, written = bench.wait(3)
    assert (read.error, written.error) == ("closed", "not written before the deadline")
    assert names(bench.folder) == set()


def test_disk_that_hangs_does_not_hold_up_the_close(bench):
    bench.hold()
    with structlog.testing.capture_logs() as logs:
        bench.files.close(0)
    assert [log["event"] for log in logs] == ["snapshot_files_abandoned"]
    with pytest.raises(SettingsError, match="another process"):
        SnapshotFiles(bench.folder, FINGERPRINT)
    with structlog.testing.capture_logs():
        bench.release()
        bench.files._thread.join()


# A process that is killed.

WRITER = """
import sys, time
from pathlib import Path
import select
from service.engine.snapshot_files import SnapshotFiles
from tests.engine.test_snapshot_files import FINGERPRINT, payload, record

files = SnapshotFiles(Path(sys.argv[1]), FINGERPRINT)
for first in range(0, 10**6, 4):
    for file_id in range(first, first + 4):
        files.write(file_id, record(), [payload(100_000, seed=file_id)])
    num_done = 0
    while num_done < 4:
        select.select([files.wakeup_fd], [], [])
        for done in files.take_done():
            print(done.file_id, flush=True)
            num_done += 1
"""


@pytest.mark.parametrize("num_lines", [1, 2, 7])
def test_process_killed_while_it_writes_leaves_whole_files(tmp_path, num_lines):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "kv")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    with writer:
        assert writer.stdout is not None
        lines = list(itertools.islice(writer.stdout, num_lines))
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.readlines()
    reported = {int(line) for line in lines if line.endswith("\n")}
    with opened(tmp_path / "kv") as bench, structlog.testing.capture_logs():
        found = {stored.file_id for stored in bench.files.scan()}
        assert reported <= found
        for file_id in found:
            assert_read(bench.read(file_id), payload(100_000, seed=file_id))
        assert len(names(bench.folder)) == len(found)
