"""A client that costs little: raw sockets, one thread, parsing after the run.

It shares two cores with the service that it measures, so while streams run it only receives bytes
and notes when they came.
"""

import json
import selectors
import socket
import time
from dataclasses import dataclass, field

END = b"data: [DONE]"
RECEIVE_BYTES = 1 << 16


@dataclass
class Stream:
    """One streamed answer: when which bytes came, on the monotonic clock."""

    started: float = 0.0
    arrivals: list[tuple[float, bytes]] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(data for _, data in self.arrivals)

    @property
    def ended(self) -> float:
        return self.arrivals[-1][0]

    @property
    def ended_well(self) -> bool:
        return bool(self.arrivals) and END in self.arrivals[-1][1]

    def events(self) -> list[dict]:
        """The JSON of every `data:` line; raises if the answer is not a stream that ended well."""
        body = self.body
        if not body.startswith(b"HTTP/1.1 200") or END not in body:
            raise RuntimeError(f"the server answered: {body[:400]!r}")
        lines = (line for line in body.split(b"\n") if line.startswith(b"data: {"))
        return [json.loads(line[6:]) for line in lines]

    def text(self) -> str:
        choices = (choice for event in self.events() for choice in event["choices"])
        return "".join(choice["delta"].get("content") or "" for choice in choices)

    def usage(self) -> dict:
        return next(event["usage"] for event in reversed(self.events()) if event.get("usage"))

    def content_times(self) -> list[float]:
        """When each piece of content came; pieces received together share a time."""
        return [at for at, data in self.arrivals if b'"content":"' in data]

    def first_token_seconds(self) -> float:
        return self.content_times()[0] - self.started


def encode_request(
    host: str, path: str, body: dict, headers: dict[str, str] | None = None
) -> bytes:
    payload = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        f"Content-Length: {len(payload)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + payload


class Client:
    """Streams many answers at once over one selector."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._selector = selectors.DefaultSelector()
        self._open: dict[socket.socket, Stream] = {}

    def start(self, request: bytes) -> Stream:
        connection = socket.create_connection(self._address)
        stream = Stream(started=time.monotonic())
        connection.sendall(request)
        connection.settimeout(0)
        self._selector.register(connection, selectors.EVENT_READ, stream)
        self._open[connection] = stream
        return stream

    def receive(self, timeout: float | None = None) -> list[Stream]:
        """Take what has come; the streams that ended with it."""
        ended: list[Stream] = []
        for key, _ in self._selector.select(timeout):
            connection, stream = key.fileobj, key.data
            assert isinstance(connection, socket.socket)
            data = connection.recv(RECEIVE_BYTES)
            now = time.monotonic()
            if data:
                stream.arrivals.append((now, data))
            if not data or END in data:
                self._selector.unregister(connection)
                connection.close()
                del self._open[connection]
                ended.append(stream)
        return ended

    def leave_all(self) -> None:
        """Close every connection, as a client that goes away does."""
        for connection in list(self._open):
            self._selector.unregister(connection)
            connection.close()
        self._open.clear()

    def stream_all(self, requests: list[bytes]) -> list[Stream]:
        """Send all at once and wait for every end."""
        streams = [self.start(request) for request in requests]
        while self._open:
            self.receive()
        return streams


def chat_body(model: str, prompt: str, max_tokens: int, **extra: object) -> dict:
    """A greedy streamed chat request of exactly `max_tokens` tokens."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **extra,
    }
