"""A file of a Hugging Face repository, over HTTP, going on where it broke off."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

import httpx
import msgspec

from service.errors import DownloadError
from service.models.catalog import HubSource
from service.models.disk import FreeBytes, require_space
from service.models.part_file import Digest, PartFile
from service.models.progress import ReportProgress

_MAX_FRUITLESS_ATTEMPTS: Final = 6
_TIMEOUT: Final = httpx.Timeout(30.0)
_RETRYABLE: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class _Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What a `.part` file is the beginning of; kept beside it."""

    url: str
    etag: str | None
    sha256: str
    size: int | None


class _BrokenOffError(Exception):
    """This attempt failed in a way that the next may not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloader:
    """Fetches into a `.part` file that survives this process, and checks it."""

    endpoint: str
    report: ReportProgress
    free_bytes: FreeBytes
    sleep: Callable[[float], None]
    """Called with the seconds to wait before trying again."""

    def fetch(self, source: HubSource, path: Path) -> Digest:
        """Leaves the whole, checked file in `path`, which may hold its beginning.

        Raises:
            DownloadError: it cannot be had, is not what was declared, or the disk is full. `path`
                is left only if going on from it makes sense.
        """
        url = f"{self.endpoint.rstrip('/')}/{source.repo}/resolve/{source.revision}/{source.file}"
        transfer = _Transfer(url=url, source=source, path=path, downloader=self)
        with (
            httpx.Client(follow_redirects=True, timeout=_TIMEOUT) as client,
            PartFile(path) as part,
        ):
            return transfer.run(client, part)


@dataclass(slots=True, kw_only=True)
class _Transfer:
    """One file's download, over as many connections as it takes."""

    url: str
    source: HubSource
    path: Path
    downloader: Downloader

    def run(self, client: httpx.Client, part: PartFile) -> Digest:
        furthest = part.size
        num_fruitless = 0
        while True:
            try:
                return self._attempt(client, part)
            except (httpx.TransportError, _BrokenOffError) as error:
                # A server without ranges starts over each time: only new ground is progress.
                num_fruitless = 1 if part.size > furthest else num_fruitless + 1
                furthest = max(furthest, part.size)
                if num_fruitless >= _MAX_FRUITLESS_ATTEMPTS:
                    raise self._give_up(part, error) from error
                self.downloader.sleep(min(30.0, 0.5 * 2**num_fruitless))
            except httpx.HTTPError as error:
                self._discard_if_empty(part)
                raise DownloadError(f"{self.url}: {error}") from error
            except OSError as error:
                self._discard(part)
                raise DownloadError(
                    f"cannot write {self.path}: {error.strerror}; nothing was kept of it"
                ) from error

    def _attempt(self, client: httpx.Client, part: PartFile) -> Digest:
        origin = self._read_origin()
        if origin is None and part.size:
            part.restart()
        with client.stream("GET", self.url, headers=_range_headers(part, origin)) as response:
            self._refuse_error(response, part)
            offered = self._describe(response, part)
            self._choose_start(part, origin, offered, response)
            self._write_origin(offered)
            self._receive(response, part, offered)
        return self._check(part, offered)

    def _refuse_error(self, response: httpx.Response, part: PartFile) -> None:
        status = response.status_code
        if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            return
        answer = f"the server answers {status} {response.reason_phrase}"
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # more is here than is there
            part.restart()
            raise _BrokenOffError(answer)
        if status in _RETRYABLE:
            raise _BrokenOffError(answer)
        self._discard_if_empty(part)
        raise DownloadError(f"{self.url}: {answer}")

    def _describe(self, response: httpx.Response, part: PartFile) -> _Origin:
        """What the server says the whole file is; the catalogue's word goes first.

        The hub answers with a redirect to its storage, and declares size and hash on that.
        """
        declared: dict[str, str] = {}
        for answer in (response, *reversed(response.history)):
            declared.update(answer.headers)
        sha256 = re.fullmatch(r'"?([0-9a-f]{64})"?', declared.get("x-linked-etag", ""))
        size = _whole_size(response) or _int_or_none(declared.get("x-linked-size"))
        expected_sha256 = self.source.sha256 or (sha256[1] if sha256 else None)
        if expected_sha256 is None:
            self._discard(part)
            raise DownloadError(
                f"{self.url}: the server declares no SHA-256 to check it against; "
                "write the file's sha256 into the catalogue"
            )
        expected_size = self.source.size
        if expected_size is not None and size is not None and size != expected_size:
            self._discard(part)
            raise DownloadError(
                f"{self.url}: the server offers {size:,} bytes where the catalogue has "
                f"{expected_size:,}; it is another file"
            )
        etag = response.headers.get("etag")
        return _Origin(
            url=self.url,
            etag=etag if etag and not etag.startswith("W/") else None,
            sha256=expected_sha256,
            size=expected_size or size,
        )

    def _choose_start(
        self, part: PartFile, origin: _Origin | None, offered: _Origin, response: httpx.Response
    ) -> None:
        """Go on only from the beginning of this very file, and where the server goes on."""
        if response.status_code == HTTPStatus.OK:
            part.restart()
            return
        start = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
        is_same = origin is not None and origin.sha256 == offered.sha256
        if not is_same or start is None or int(start[1]) != part.size:
            part.restart()
            self._origin_path.unlink(missing_ok=True)
            raise _BrokenOffError("the file at the server is another one than before")

    def _receive(self, response: httpx.Response, part: PartFile, offered: _Origin) -> None:
        if offered.size is not None:
            missing = max(0, offered.size - part.size)
            try:
                require_space(self.path.parent, missing, self.downloader.free_bytes)
            except DownloadError:
                self._discard(part)
                raise
        self.downloader.report(part.size, offered.size)
        for data in response.iter_bytes():
            part.append(data)
            self.downloader.report(part.size, offered.size)

    def _check(self, part: PartFile, offered: _Origin) -> Digest:
        if offered.size is not None and part.size < offered.size:
            raise _BrokenOffError("the server ended the file early")
        digest = part.digest()
        if digest.sha256 != offered.sha256:
            self._discard(part)
            raise DownloadError(
                f"{self.url}: wrong checksum: SHA-256 {digest.sha256} where {offered.sha256} is "
                "expected; it was removed, run it again"
            )
        self._origin_path.unlink(missing_ok=True)
        return digest

    def _give_up(self, part: PartFile, error: Exception) -> DownloadError:
        kept = f"; {part.size / 1e6:,.0f} MB are kept to go on from" if part.size else ""
        self._discard_if_empty(part)
        reason = str(error) or type(error).__name__
        return DownloadError(f"{self.url}: {reason}{kept}")

    def _discard_if_empty(self, part: PartFile) -> None:
        if not part.size:
            self._discard(part)

    def _discard(self, part: PartFile) -> None:
        part.path.unlink(missing_ok=True)
        self._origin_path.unlink(missing_ok=True)

    @property
    def _origin_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def _read_origin(self) -> _Origin | None:
        try:
            origin = msgspec.json.decode(self._origin_path.read_bytes(), type=_Origin)
        except (OSError, msgspec.MsgspecError):
            return None
        return origin if origin.url == self.url else None

    def _write_origin(self, origin: _Origin) -> None:
        self._origin_path.write_bytes(msgspec.json.encode(origin))


def _range_headers(part: PartFile, origin: _Origin | None) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity"}
    if part.size and origin is not None:
        headers["Range"] = f"bytes={part.size}-"
        if origin.etag is not None:
            headers["If-Range"] = origin.etag
    return headers


def _whole_size(response: httpx.Response) -> int | None:
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        total = re.search(r"/(\d+)$", response.headers.get("content-range", ""))
        return int(total[1]) if total else None
    return _int_or_none(response.headers.get("content-length"))


def _int_or_none(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
