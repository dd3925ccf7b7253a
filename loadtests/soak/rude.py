"""What guests do that nobody should: leave in the middle, read slowly, send nonsense."""

import asyncio
import socket
import time
from typing import Any

from loadtests.client import END, Stream, encode_request
from loadtests.soak.caller import CHAT, Json
from loadtests.soak.chats import FILLER
from loadtests.soak.guest import Guest
from loadtests.soak.ledger import Wrong

SMALL_BUFFER = 4096
SIP_BYTES = 2048
SIP_SECONDS = 0.03
TOO_LARGE = 5 << 20
"""More than a body may have by default."""


async def leave_at_once(guest: Guest) -> None:
    """Queued, or not even that."""
    body = guest.body(f"Tell me story {guest.number()}.", 200)
    await guest.caller.leave("leaves at once", body, num_events=1, seconds=0.03)


async def leave_prefill(guest: Guest) -> None:
    body = guest.body(f"Text {guest.number()}. " + FILLER * 90, 8)
    seconds = guest.chance.uniform(0.1, 1.5)
    await guest.caller.leave("leaves in prefill", body, num_events=1, seconds=seconds)


async def leave_decode(guest: Guest) -> None:
    body = guest.body(f"Tell me story {guest.number()}.", 400, ignore_eos=True)
    events = guest.chance.randrange(4, 40)
    await guest.caller.leave("leaves in decode", body, num_events=events, seconds=60)


async def read_slowly(guest: Guest) -> None:
    """An answer of some hundred KiB in sips, through buffers that hold a few of them."""
    body = guest.body(
        f"Tell me story {guest.number()}.",
        64,
        ignore_eos=True,
        stream=True,
        stream_options={"include_usage": True},
        logprobs=True,
        top_logprobs=20,
    )
    headers = {"Authorization": f"Bearer {guest.caller.key}"}
    stream = await _sip(guest, encode_request(guest.address[0], CHAT, body, headers))
    if stream.body.startswith((b"HTTP/1.1 429", b"HTTP/1.1 503")):
        guest.ledger.note("slow reader", "refused")
        return
    if END not in stream.body or stream.usage()["completion_tokens"] != 64:
        raise Wrong(f"a slow reader's stream without its end: {stream.body[-400:]!r}")
    guest.ledger.check_secrets(stream.text(), None)
    guest.ledger.note("slow reader", "complete", num_texts=1)


async def _sip(guest: Guest, request: bytes) -> Stream:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    connection.settimeout(0)
    await asyncio.get_running_loop().sock_connect(connection, guest.address)
    reader, writer = await asyncio.open_connection(sock=connection, limit=SMALL_BUFFER)
    stream = Stream(started=time.monotonic())
    writer.write(request)
    while data := await reader.read(SIP_BYTES):
        stream.arrivals.append((time.monotonic(), data))
        await asyncio.sleep(SIP_SECONDS)
    writer.close()
    await writer.wait_closed()
    return stream


def _json(body: Json) -> Json:
    return {"json": body}


async def send_nonsense(guest: Guest) -> None:
    """A bad request of each kind in turn, each answered with its own error."""
    good = guest.body("Hello.", 4)
    nonsense: list[tuple[int, str, dict[str, Any]]] = [
        (400, "invalid_json", {"content": b'{"model": '}),
        (400, "unknown_parameter", _json({**good, "colour": "red"})),
        (400, "invalid_value", _json({**good, "temperature": -1})),
        (400, "missing_required_parameter", _json({"model": guest.model})),
        (404, "model_not_found", _json({**good, "model": "nobody"})),
        (400, "context_length_exceeded", _json(guest.body(FILLER * 400, 4))),
        (401, "invalid_api_key", {**_json(good), "headers": {"Authorization": "Bearer no"}}),
        (413, "body_too_large", {"content": b" " * TOO_LARGE}),
    ]
    status, code, options = guest.chance.choice(nonsense)
    headers = {"Content-Type": "application/json", **options.pop("headers", {})}
    answer = await guest.caller.send(
        "nonsense", "POST", CHAT, expected=status, headers=headers, **options
    )
    if answer.json()["error"]["code"] != code:
        raise Wrong(f"{code} was expected: {answer.text}")
