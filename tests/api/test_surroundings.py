import pytest
from openai import AuthenticationError, NotFoundError

from tests.api.builders import MODEL, ScriptedEngine, build_service, hello, serving


async def test_the_model_is_listed_with_its_lengths():
    async with serving(ScriptedEngine(context_len=2048)) as service, service.client() as client:
        [model] = (await client.models.list()).data
        assert model == await client.models.retrieve(MODEL)
        with pytest.raises(NotFoundError) as caught:
            await client.models.retrieve("gpt-4")
    assert (model.id, model.object, model.owned_by) == (MODEL, "model", "smolserve")
    assert model.model_extra == {
        "max_model_len": 2048,
        "context_length": 4096,
        "capabilities": {
            "tools": "native",
            "reasoning": True,
            "structured_output": True,
            "vision": False,
        },
    }
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/health/live", 405, "method_not_allowed"),
    ],
)
async def test_what_the_router_refuses_has_the_form_of_all_errors(method, path, status, code):
    service = build_service()
    async with service.direct() as http:
        response = await http.request(method, path)
    error = response.json()["error"]
    assert response.status_code == status
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, None)
    assert path in error["message"]


async def test_without_keys_anybody_may_call():
    async with serving() as service, service.client() as client:
        await client.chat.completions.create(**hello())
        assert service.engine.requests[0].tenant == ""


async def test_with_keys_each_one_is_a_tenant_of_its_own():
    async with serving(api_keys=("one", "two")) as service:
        for key in ("one", "two", "one"):
            async with service.client(api_key=key) as client:
                await client.chat.completions.create(**hello())
        first, second, third = (request.tenant for request in service.engine.requests)
    assert first == third != second
    assert "one" not in first


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Basic one", "one", "Bearer"])
async def test_a_wrong_key_is_a_401(authorization):
    headers = {"Authorization": authorization} if authorization else {}
    service = build_service(api_keys=("one",))
    async with service.direct(headers=headers) as http:
        response = await http.post("/v1/chat/completions", json=hello())
        assert service.engine.requests == []
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"


async def test_the_official_client_knows_the_error():
    async with serving(api_keys=("one",)) as service, service.client() as client:
        with pytest.raises(AuthenticationError):
            await client.models.list()


async def test_liveness_alone_needs_no_key():
    service = build_service(api_keys=("one",))
    async with service.direct() as http:
        paths = ("/health/live", "/health/ready", "/metrics", "/v1/models", "/nothing")
        statuses = {path: (await http.get(path)).status_code for path in paths}
    assert statuses.pop("/health/live") == 200
    assert set(statuses.values()) == {401}


async def test_ids_of_the_client_are_echoed_and_logged():
    service = build_service()
    async with service.direct() as http:
        response = await http.post(
            "/v1/chat/completions",
            json=hello(),
            headers={"X-Request-Id": "my-request", "X-Session-Id": "my-session"},
        )
    assert response.headers["x-request-id"] == "my-request"
    assert response.headers["x-session-id"] == "my-session"
    assert int(response.headers["openai-processing-ms"]) >= 0
    assert service.log[0]["request_id"] == "my-request"


@pytest.mark.parametrize("given", [{}, {"X-Request-Id": "a b"}, {"X-Request-Id": "x" * 200}])
async def test_missing_and_insane_ids_are_minted(given):
    service = build_service()
    async with service.direct() as http:
        responses = [await http.get("/nothing", headers=given) for _ in range(2)]
    minted = {response.headers["x-request-id"] for response in responses}
    assert len(minted) == 2
    assert all(name.startswith("req_") for name in minted)


async def test_a_request_is_one_line_in_the_log_without_its_words():
    async with serving(ScriptedEngine("secret answer")) as service, service.client() as client:
        messages = [{"role": "user", "content": "secret question"}]
        await client.chat.completions.create(**hello(messages=messages))
    [line] = service.log
    assert "secret" not in str(line)
    assert (line["method"], line["path"]) == ("POST", "/v1/chat/completions")
    assert (line["status"], line["finish_reason"]) == (200, "stop")
    assert (line["prompt_tokens"], line["completion_tokens"]) == (22, 13)
    assert line["duration_ms"] >= 0


async def test_metrics_answer_whatever_the_engine_does():
    service = build_service()
    async with service.direct() as http:
        service.engine.is_ready = False
        response = await http.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    assert "smolserve_requests_total 0.0" in response.text


async def test_browsers_of_other_origins_are_refused_unless_allowed():
    origin = {"Origin": "https://example.com"}
    service = build_service()
    async with service.direct() as http:
        closed = await http.get("/v1/models", headers=origin)
    async with (
        serving(cors_origins=("https://example.com",), api_keys=("one",)) as service,
        service.http() as http,
    ):
        preflight = await http.options(
            "/v1/chat/completions",
            headers=origin
            | {
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type",
            },
        )
        refused = await http.get("/v1/models", headers=origin)
    assert "access-control-allow-origin" not in closed.headers
    assert preflight.status_code == 200
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://example.com"


async def test_a_path_is_not_logged_with_its_query():
    service = build_service()
    async with service.direct() as http:
        await http.get("/nothing?key=secret")
    assert "secret" not in str(service.log)
