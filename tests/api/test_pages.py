"""Pages that somebody reads, and a service on their machine that needs no key."""

import pytest

from service.api.pages import is_loopback, read_host
from tests.api.builders import build_service, hello

LOOPBACK = frozenset()
"""What is allowed beside loopback's names."""
UPLOAD = {"purpose": (None, "batch"), "file": ("lines.jsonl", b"{}")}


async def ask(service, host, path="/v1/models", **headers):
    async with service.direct(headers={"Host": host, **headers}) as http:
        return await http.get(path)


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8000", "LOCALHOST", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000", ""],
)
async def test_a_service_on_loopback_answers_to_loopbacks_names(host):
    assert (await ask(build_service(hosts=LOOPBACK), host)).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.168.0.1",
        "[::2]",
        "user@localhost",
        "localhost:8000:x",
        "[::1",
    ],
)
async def test_a_name_that_was_made_to_point_here_is_refused_everywhere(host):
    service = build_service(hosts=LOOPBACK)
    for path in ("/v1/models", "/metrics", "/health/live", "/nothing"):
        response = await ask(service, host, path)
        error = response.json()["error"]
        assert response.status_code == 403
        assert (error["code"], error["param"]) == ("foreign_page", "Host")
        assert "SMOLSERVE_ALLOWED_HOSTS" in error["message"]


async def test_a_second_host_does_not_hide_behind_the_first():
    service = build_service(hosts=LOOPBACK)
    async with service.direct() as http:
        headers = [("Host", "localhost"), ("Host", "evil.example")]
        response = await http.get("/v1/models", headers=headers)
    assert response.status_code == 403


async def test_names_that_are_set_are_answered_to():
    service = build_service(hosts=frozenset({"Models.lan"}))
    assert (await ask(service, "models.lan:8000")).status_code == 200
    assert (await ask(service, "evil.example")).status_code == 403


async def test_a_service_that_everybody_may_reach_answers_to_any_name():
    assert (await ask(build_service(hosts=None), "evil.example")).status_code == 200


async def test_with_keys_the_name_does_not_matter_because_a_page_has_no_key():
    service = build_service(hosts=LOOPBACK, api_keys=("one",))
    key = {"Authorization": "Bearer one"}
    assert (await ask(service, "models.lan", **key)).status_code == 200
    assert (await ask(service, "evil.example")).status_code == 401


async def upload(service, origin):
    async with service.direct(headers={"Origin": origin} if origin else {}) as http:
        return await http.post("/v1/files", files=UPLOAD)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:3000"])
async def test_a_page_of_elsewhere_uploads_nothing(origin):
    response = await upload(build_service(), origin)
    error = response.json()["error"]
    assert response.status_code == 403
    assert (error["code"], error["param"]) == ("foreign_page", "Origin")
    assert "SMOLSERVE_CORS_ORIGINS" in error["message"]


@pytest.mark.parametrize("origin", [None, "http://direct", "https://allowed.example"])
async def test_programs_pages_of_this_service_and_allowed_ones_may_upload(origin):
    response = await upload(build_service(cors_origins=("https://allowed.example",)), origin)
    assert response.json()["error"]["code"] == "storage_failed"  # no folder is open in this test


async def test_a_page_of_elsewhere_cannot_send_json_without_asking():
    async with build_service().direct() as http:
        headers = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
        response = await http.post("/v1/chat/completions", content=b"{}", headers=headers)
        asking = await http.options("/v1/chat/completions", headers=headers)
    assert (response.status_code, asking.status_code) == (415, 405)
    assert "access-control-allow-origin" not in asking.headers


@pytest.mark.parametrize(
    ("host", "name"),
    [("A.b:1", "a.b"), ("[::1]:80", "::1"), ("a b", "a b"), ("a:b:c", None), ("[::1", None)],
)
def test_a_hosts_name_is_read_without_its_port(host, name):
    assert read_host(host) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("127.0.0.1", True),
        ("127.255.0.9", True),
        ("::1", True),
        ("app.localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("localhost.example", False),
    ],
)
def test_loopback_is_what_never_leaves_the_machine(name, expected):
    assert is_loopback(name) is expected


async def test_a_request_for_text_is_refused_before_it_reaches_the_engine():
    service = build_service(hosts=LOOPBACK)
    async with service.direct(headers={"Host": "evil.example"}) as http:
        response = await http.post("/v1/chat/completions", json=hello())
    assert response.status_code == 403
    assert service.engine.requests == []
