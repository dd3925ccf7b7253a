"""What HTTP clients and the machines between them do, beside sending good requests."""

import asyncio
import json

import pytest

from tests.api.builders import build_service, hello, serving

BODY = json.dumps(hello()).encode()
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"


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


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_the_body_is_json_whatever_its_type_says(content_type):
    headers = {"content-type": content_type} if content_type else {}
    async with build_service().direct() as http:
        response = await http.post("/v1/chat/completions", content=BODY, headers=headers)
    assert response.status_code == 200


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


async def test_answers_are_not_compressed_so_that_streams_flow():
    async with build_service().direct() as http:
        response = await http.get("/v1/models", headers={"accept-encoding": "gzip, br"})
    assert "content-encoding" not in response.headers
