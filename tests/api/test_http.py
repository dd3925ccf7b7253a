"""What HTTP clients and the machines between them do, beside sending good requests."""

import asyncio
import json
import socket

import pytest

from service.api.http_protocol import MAX_HEAD_BYTES
from service.api.server import ClientLimits
from tests.api.builders import ScriptedEngine, build_service, hello, serving, tokens_of, until

BODY = json.dumps(hello()).encode()
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHAT = "/v1/chat/completions"


async def exchange(service, *pieces):
    """Sends raw bytes, waiting for an answer to each; all that came back."""
    host, port = service.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    answers = []
    async with asyncio.timeout(5):
        for piece in pieces:
            writer.write(piece)
            answers.append(await reader.read(1 << 16))
    writer.close()
    await writer.wait_closed()
    return answers


def parse(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.lower(), json.loads(body)


def with_length(body, *headers):
    return b"\r\n".join([POST + b"Content-Length: %d" % len(body), *headers, b"", body])


@pytest.mark.parametrize("request_bytes", [b"GARBAGE\r\n\r\n", POST + b"Content-Length: x\r\n\r\n"])
async def test_what_is_no_request_gets_an_error_of_the_usual_form(request_bytes, caplog):
    async with serving() as service:
        [answer] = await exchange(service, request_bytes)
    status, head, body = parse(answer)
    assert status == 400
    assert b"connection: close" in head
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["code"] == "bad_request"
    assert "Invalid HTTP request" in caplog.text


async def test_a_connection_serves_one_request_after_the_other():
    async with serving() as service:
        answers = await exchange(service, with_length(BODY), with_length(BODY))
    assert [parse(answer)[0] for answer in answers] == [200, 200]


async def test_a_client_that_asks_before_it_sends_is_told_to_go_on():
    async with serving() as service:
        first, second = await exchange(
            service,
            POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY),
            BODY,
        )
    assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert parse(second)[0] == 200


async def test_a_client_that_asks_to_send_too_much_is_told_not_to():
    async with serving() as service:
        [answer] = await exchange(
            service, POST + b"Expect: 100-continue\r\nContent-Length: 999999999\r\n\r\n"
        )
    assert parse(answer)[0] == 413


async def test_a_body_in_chunks_is_read():
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"
    async with serving() as service:
        [answer] = await exchange(service, POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert parse(answer)[0] == 200


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ],
)
async def test_what_a_page_may_send_anywhere_is_not_taken_for_json(content_type):
    headers = {} if content_type is None else {"content-type": content_type}
    service = build_service()
    async with service.direct() as http:
        response = await http.post(CHAT, content=BODY, headers=headers)
    error = response.json()["error"]
    assert response.status_code == 415
    assert (error["code"], error["param"]) == ("unsupported_media_type", "Content-Type")
    assert "application/json" in error["message"]
    assert service.engine.requests == []


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
async def test_json_may_be_announced_as_clients_do(content_type):
    async with build_service().direct() as http:
        response = await http.post(CHAT, content=BODY, headers={"content-type": content_type})
    assert response.status_code == 200


async def test_a_post_without_a_body_needs_no_type_unless_a_page_sends_it():
    async with build_service().direct() as http:
        plain = await http.post("/nothing")
        of_a_page = await http.post("/nothing", headers={"origin": "https://example.com"})
    assert (plain.status_code, of_a_page.status_code) == (404, 415)


async def test_an_upload_is_a_form_and_nothing_else():
    async with build_service().direct() as http:
        response = await http.post("/v1/files", json={})
    assert response.status_code == 415
    assert "multipart/form-data" in response.json()["error"]["message"]


LARGE = b"a" * MAX_HEAD_BYTES


@pytest.mark.parametrize(
    "head",
    [
        POST + b"X-Large: " + LARGE,
        POST + b"X-Large: " + LARGE + b"\r\n\r\n",
        POST + b"X-Small: a\r\n" * (MAX_HEAD_BYTES // 8) + b"\r\n",
        b"GET /" + LARGE,
        b"GET /" + LARGE + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["unfinished header", "header", "many headers", "unfinished path", "path"],
)
async def test_a_head_that_is_too_large_is_refused(head, caplog):
    caplog.set_level("CRITICAL")
    async with serving() as service:
        [answer] = await exchange(service, head)
    status, head, body = parse(answer)
    assert status == 431
    assert b"connection: close" in head
    assert body["error"]["code"] == "request_header_fields_too_large"


async def test_a_trailer_that_is_too_large_is_refused(caplog):
    caplog.set_level("CRITICAL")
    chunked = POST + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving() as service:
        _, answer = await exchange(service, chunked, b"0\r\nX-Trailer: " + LARGE)
    assert parse(answer)[0] == 431


async def test_a_head_just_within_its_size_is_read():
    head = POST.replace(b"completions", b"completions?" + LARGE[:-1000])
    async with serving() as service:
        answers = [
            await exchange(service, head + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
            for _ in range(2)
        ]
    assert [parse(answer)[0] for [answer] in answers] == [200, 200]


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([POST], "headers"),
        ([b"\r\n" + POST], "headers"),
        ([with_length(BODY)[:-1]], "body"),
        ([POST + b"Transfer-Encoding: chunked\r\n\r\n"], "body"),
        ([with_length(BODY), POST], "headers"),
    ],
    ids=["headers", "after a blank line", "body", "body in chunks", "second request"],
)
async def test_a_client_that_stops_sending_is_told_so_and_left(pieces, message):
    async with serving(client_timeout_seconds=0.05) as service:
        *_, answer = await exchange(service, *pieces)
    status, head, body = parse(answer)
    assert status == 408
    assert b"connection: close" in head
    assert message in body["error"]["message"]


@pytest.mark.parametrize("pieces", [[], [b"\r\n"]], ids=["nothing", "a blank line"])
async def test_a_connection_that_nobody_uses_is_closed(pieces):
    async with serving(client_timeout_seconds=0.05) as service:
        answers = await exchange(service, *(pieces or [b""]))
    assert answers == [b""]


async def test_a_body_that_goes_on_after_its_refusal_ends_with_the_connection():
    async with serving(client_timeout_seconds=0.05) as service:
        refusal, end = await exchange(
            service, POST + b"Content-Length: 999999999\r\n\r\n", b"more of it"
        )
    assert parse(refusal)[0] == 413
    assert end == b""


async def test_a_slow_answer_is_no_slow_client():
    async with serving(ScriptedEngine(None), client_timeout_seconds=0.02) as service:
        answering = asyncio.create_task(exchange(service, with_length(BODY), with_length(BODY)))
        for _ in range(2):
            stream = await service.engine.next_stream()
            await asyncio.sleep(0.1)
            stream.begin(0)
            stream.push(tokens_of("a"), "stop")
        answers = await answering
    assert [parse(answer)[0] for answer in answers] == [200, 200]


@pytest.mark.parametrize("path", ["/health/live", "/v1/models", "/nothing", "/metrics"])
async def test_every_answer_tells_browsers_to_do_nothing_with_it(path):
    async with build_service().direct() as http:
        response = await http.get(path)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    assert response.headers["cross-origin-resource-policy"] == "same-origin"
    assert response.headers["cache-control"] == "no-store"


async def test_a_compressed_body_is_refused_by_that_name():
    async with build_service().direct() as http:
        response = await http.post(
            "/v1/chat/completions", content=b"\x1f\x8b", headers={"content-encoding": "gzip"}
        )
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "unsupported_encoding"


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/v1/models", "/metrics"])
async def test_what_can_be_read_can_be_asked_for_with_head(path):
    async with serving() as service, service.http() as http:
        response = await http.head(path)
    assert response.status_code == 200
    assert response.content == b""


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/unknown", "/v1/chat/completions/"])
async def test_an_unknown_path_is_a_404_and_never_a_redirect(path):
    async with build_service().direct() as http:
        response = await http.post(path, json=hello())
    assert response.status_code == 404
    assert path in response.json()["error"]["message"]


async def test_a_method_that_a_path_does_not_take_is_told_with_those_it_does():
    async with build_service().direct() as http:
        response = await http.options("/v1/chat/completions")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert response.json()["error"]["code"] == "method_not_allowed"


async def test_all_methods_of_a_path_are_told_whichever_route_has_them():
    async with build_service().direct() as http:
        response = await http.put("/v1/sessions/one")
    assert response.headers["allow"] == "DELETE, GET, HEAD"


async def test_answers_are_not_compressed_so_that_streams_flow():
    async with build_service().direct() as http:
        response = await http.get("/v1/models", headers={"accept-encoding": "gzip, br"})
    assert "content-encoding" not in response.headers


async def connect(service):
    host, port = service.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def test_one_connection_too_many_is_told_so_and_those_before_it_go_on():
    async with serving(clients=ClientLimits(max_connections=1)) as service:
        reader, writer = await connect(service)
        writer.write(with_length(BODY))
        first = await reader.read(1 << 16)
        [refusal] = await exchange(service, with_length(BODY))
        writer.write(with_length(BODY))
        second = await reader.read(1 << 16)
        writer.close()
    status, head, body = parse(refusal)
    assert [parse(answer)[0] for answer in (first, second)] == [200, 200]
    assert status == 503
    assert b"connection: close" in head
    assert b"retry-after: 1" in head
    assert "too many connections" in body["error"]["message"]
    assert len(service.engine.requests) == 2


async def test_one_connection_too_many_that_says_nothing_is_closed_soon():
    async with serving(clients=ClientLimits(max_connections=1)) as service:
        _, writer = await connect(service)
        reader, second = await connect(service)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
        second.close()


async def stop_reading(service, body):
    """A client that sends its request and takes nothing of the answer."""
    host, port = service.url.removeprefix("http://").split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)  # noqa: FBT003 - its signature
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, (host, int(port)))
    await loop.sock_sendall(client, with_length(json.dumps(body).encode()))
    return client


async def test_a_client_that_stops_reading_is_dropped_and_its_slot_is_free():
    clients = ClientLimits(reading_seconds=0.3)
    async with serving(ScriptedEngine(None), clients=clients) as service:
        client = await stop_reading(service, hello(stream=True))
        stream = await service.engine.next_stream()
        stream.begin(0)
        stream.push(tokens_of("x" * 6_000_000), None)
        assert await service.engine.next_aborted() == "decode"
        await until(lambda: bool(service.log))
        client.close()
    assert service.log[0]["client_left"]


async def test_a_client_that_stops_reading_a_whole_answer_keeps_nothing_here():
    clients = ClientLimits(reading_seconds=0.3)
    async with serving(ScriptedEngine("x" * 6_000_000), clients=clients) as service:
        client = await stop_reading(service, hello())
        await until(lambda: bool(service.log))
        async with asyncio.timeout(5):
            while service.server._http.server_state.connections:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        client.close()


async def test_a_client_that_reads_slowly_is_no_client_that_stops():
    clients = ClientLimits(reading_seconds=0.3)
    async with serving(ScriptedEngine("x" * 6_000_000), clients=clients) as service:
        client = await stop_reading(service, hello())
        loop = asyncio.get_running_loop()
        num_pieces = num_bytes = 0
        async with asyncio.timeout(30):
            while num_bytes < 6_000_000:
                await asyncio.sleep(0.05 if num_pieces < 20 else 0)
                piece = await loop.sock_recv(client, 1 << 16)
                assert piece
                num_pieces += 1
                num_bytes += len(piece)
        client.close()


SMUGGLED = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        b"Content-Length: 4\r\nContent-Length: 9\r\n\r\n" + SMUGGLED,
        b"Content-Length: +4\r\n\r\n" + SMUGGLED,
        b"Content-Length : 4\r\n\r\n" + SMUGGLED,
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + SMUGGLED,
        b"X-Folded: a\r\n Content-Length: 4\r\n\r\n" + SMUGGLED,
        b"X-Bare: a\rContent-Length: 4\r\n\r\n" + SMUGGLED,
        b"X-Zero: a\0b\r\n\r\n" + SMUGGLED,
    ],
    ids=[
        "both lengths",
        "two lengths",
        "signed length",
        "space before the colon",
        "two encodings",
        "unknown encoding",
        "negative chunk",
        "folded header",
        "bare carriage return",
        "zero byte",
    ],
)
async def test_a_request_that_two_servers_could_read_differently_is_refused_whole(headers, caplog):
    caplog.set_level("CRITICAL")
    async with serving() as service:
        [answer] = await exchange(service, POST + headers)
    assert parse(answer)[0] == 400
    assert b"connection: close" in answer
    assert b"smolserve_requests_total" not in answer
