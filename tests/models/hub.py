"""A hub on this machine that can be told to misbehave."""

import hashlib
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from service.models.catalog import CatalogEntry, DefaultSampling, HubSource

CONTENT = b"GGUF" + bytes(range(256)) * 12_000  # 3 MB


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def build_entry(size: int | None = None, digest: str | None = None) -> CatalogEntry:
    return CatalogEntry(
        name="tiny",
        description="a test's model",
        license="Apache-2.0",
        context_len=128,
        sampling=DefaultSampling(),
        source=HubSource(repo="org/tiny-GGUF", file="tiny.gguf", size=size, sha256=digest),
    )


@dataclass
class Hub:
    """Serves `content` at every path, by way of a redirect as the real one does."""

    content: bytes = CONTENT
    etag: str = '"v1"'
    declared_sha256: str | None = field(default_factory=lambda: sha256(CONTENT))
    serves_ranges: bool = True
    content_length_lie: int = 0
    """Added to the true Content-Length."""
    drop_after: list[int] = field(default_factory=list)
    """Bytes of body after which the next connections are cut, one number each."""
    statuses: list[int] = field(default_factory=list)
    """Statuses that the next requests are refused with."""
    requested_ranges: list[str | None] = field(default_factory=list)
    stall_at: int | None = None
    """Bytes of body after which the server says nothing more until `go_on` is set."""
    stalled: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    endpoint: str = ""


@contextmanager
def run_hub(hub: Hub) -> Generator[Hub]:
    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        hub.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/storage"):
            self._send_file()
        elif self.hub.statuses:
            self.send_error(self.hub.statuses.pop(0))
        else:
            self._redirect()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Silent."""

    def _redirect(self) -> None:
        self.send_response(302)
        self.send_header("Location", f"/storage{self.path}")
        self.send_header("Content-Length", "0")
        if self.hub.declared_sha256 is not None:
            self.send_header("X-Linked-Size", str(len(self.hub.content)))
            self.send_header("X-Linked-ETag", f'"{self.hub.declared_sha256}"')
        self.end_headers()

    def _send_file(self) -> None:
        hub = self.hub
        wanted = self.headers.get("Range")
        hub.requested_ranges.append(wanted)
        start = self._range_start(wanted)
        if start >= len(hub.content) > 0 and wanted is not None and start > 0:
            self.send_error(416)
            return
        body = hub.content[start:]
        self.send_response(206 if start else 200)
        if start:
            end = len(hub.content) - 1
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(hub.content)}")
        self.send_header("Content-Length", str(len(body) + hub.content_length_lie))
        self.send_header("ETag", hub.etag)
        self.end_headers()
        self._send_body(body)

    def _range_start(self, wanted: str | None) -> int:
        if wanted is None or not self.hub.serves_ranges:
            return 0
        if self.headers.get("If-Range", self.hub.etag) != self.hub.etag:
            return 0
        match = re.fullmatch(r"bytes=(\d+)-", wanted)
        assert match is not None
        return int(match[1])

    def _send_body(self, body: bytes) -> None:
        hub = self.hub
        self.close_connection = True
        if hub.stall_at is not None:
            stall_at, hub.stall_at = hub.stall_at, None
            self.wfile.write(body[:stall_at])
            self.wfile.flush()
            hub.stalled.set()
            hub.go_on.wait()
            return
        if hub.drop_after:
            body = body[: hub.drop_after.pop(0)]
        try:
            self.wfile.write(body)
        except ConnectionError:
            return  # the client has left
