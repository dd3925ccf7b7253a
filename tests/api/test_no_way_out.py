"""No word of a request becomes a path, an address or a program of this machine.

The interpreter tells of all that it opens, connects to and starts; requests carry a word that none
of these may contain.
"""

import sys
from contextlib import contextmanager

import pytest

from service.errors import StorageError
from tests.api.builders import MODEL, build_service, hello
from tests.api.test_batches import serving_batches

WORD = "marker7f3a"
PATHS = (f"../../{WORD}", f"/etc/{WORD}", f"..%2f..%2f{WORD}", f"%2e%2e/{WORD}", f"{WORD}%00")
URL = f"http://{WORD}.invalid/x"


class Audit:
    """What the interpreter did while it was watched; a hook cannot be taken away again."""

    def __init__(self):
        self.deeds: list[str] | None = None
        sys.addaudithook(self._note)

    def _note(self, event, arguments):
        if self.deeds is not None and WORD in repr(arguments):
            self.deeds.append(f"{event}{arguments}")

    @contextmanager
    def watching(self):
        self.deeds = deeds = []
        try:
            yield deeds
        finally:
            self.deeds = None


AUDIT = Audit()


def chat_of(part):
    return hello(messages=[{"role": "user", "content": [part]}])


def schema_of(reference):
    schema = {"name": "x", "schema": {"$ref": reference}}
    return hello(response_format={"type": "json_schema", "json_schema": schema})


REQUESTS = [
    *(
        (method, path.format(word))
        for word in PATHS
        for method, path in (
            ("GET", "/v1/files/{}"),
            ("DELETE", "/v1/files/{}"),
            ("GET", "/v1/files/{}/content"),
            ("GET", "/v1/batches/{}"),
            ("POST", "/v1/batches/{}/cancel"),
            ("GET", "/v1/responses/{}"),
            ("DELETE", "/v1/responses/{}"),
            ("GET", "/v1/responses/{}/input_items"),
            ("GET", "/v1/sessions/{}"),
            ("DELETE", "/v1/sessions/{}"),
            ("GET", "/v1/models/{}"),
        )
    ),
    *(
        ("POST", path, body)
        for word in PATHS
        for path, body in (
            (
                "/v1/batches",
                {
                    "input_file_id": word,
                    "endpoint": "/v1/chat/completions",
                    "completion_window": "24h",
                },
            ),
            ("/v1/responses", {"model": MODEL, "input": "Hi", "previous_response_id": word}),
            ("/v1/responses", {"model": MODEL, "input": "Hi", "prompt_cache_key": word}),
            ("/v1/chat/completions", hello(model=word)),
            ("/v1/chat/completions", hello(prompt_cache_key=word, user=word, metadata={"a": word})),
            ("/v1/chat/completions", hello(chat_template_kwargs={"template": word, "path": word})),
        )
    ),
    *(
        ("POST", "/v1/chat/completions", body)
        for body in (
            chat_of({"type": "image_url", "image_url": {"url": URL}}),
            chat_of({"type": "image_url", "image_url": {"url": f"file:///etc/{WORD}"}}),
            chat_of({"type": "file", "file": {"file_id": WORD}}),
            chat_of({"type": "input_audio", "input_audio": {"data": WORD, "format": "wav"}}),
            schema_of(URL),
            schema_of(f"file:///etc/{WORD}"),
        )
    ),
    (
        "POST",
        "/v1/responses",
        {
            "model": MODEL,
            "input": "Hi",
            "tools": [{"type": "mcp", "server_label": "x", "server_url": URL}],
        },
    ),
]


async def test_the_watch_sees_what_is_opened(tmp_path):
    with AUDIT.watching() as deeds, pytest.raises(FileNotFoundError):
        (tmp_path / WORD).read_bytes()
    assert [deed for deed in deeds if deed.startswith("open")]


async def test_nothing_that_a_request_names_is_opened_or_asked(tmp_path):
    async with serving_batches(tmp_path) as service, service.direct() as http:
        with AUDIT.watching() as deeds:
            for method, path, *body in REQUESTS:
                headers = {"X-Session-Id": f"../{WORD}", "X-Request-Id": f"../{WORD}"}
                response = await http.request(method, path, json=(body or [{}])[0], headers=headers)
                assert response.status_code < 500, (method, path, response.text)
            await http.post(
                "/v1/files",
                data={"purpose": "batch"},
                files={"file": (f"../../{WORD}", b"{}", "application/jsonl")},
            )
    assert deeds == []


async def test_what_is_kept_cannot_be_used_and_no_client_is_told_where_it_is():
    service = build_service()
    async with service.direct() as http:  # whose records nobody opened
        files = await http.get("/v1/files")
        response = await http.get("/v1/responses/resp_1")
    for answer in (files, response):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (507, "storage_failed")
        assert "What is kept here cannot be used" in error["message"]
        assert "/" not in error["message"]
        assert ":memory:" not in error["message"]


def test_the_operator_is_told_where_it_is():
    error = StorageError("no space is left.", path="/state/x.sqlite")
    assert str(error) == "/state/x.sqlite: no space is left."
    assert "/state" not in error.message
