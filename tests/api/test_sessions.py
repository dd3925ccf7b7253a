import pytest

from service.errors import EngineUnavailable
from tests.api.builders import ScriptedEngine, build_service, hello, serving
from tests.runtime.builders import running_pool

CHAT = "/v1/chat/completions"
KEYS = ("one", "two")


def key(name):
    return {"Authorization": f"Bearer {name}"}


async def ask(http, headers=None, **changes):
    return await http.post(CHAT, json=hello(**changes), headers=headers)


def use(service, *names, tenant="", num_tokens=7):
    for name in names:
        sessions = service.engine.sessions
        sessions.end(sessions.begin(tenant, name), num_tokens=num_tokens)


async def session_named_by(headers=None, **changes):
    """What the engine and the answer's header call the session; they must agree."""
    service = build_service()
    async with service.direct() as http:
        response = await ask(http, headers, **changes)
    assert response.status_code == 200
    [request] = service.engine.requests
    assert response.headers["x-session-id"] == request.session
    assert service.log[0]["session_id"] == request.session
    return request.session


async def test_the_header_names_the_session():
    assert await session_named_by({"X-Session-Id": "chat-1"}) == "chat-1"


async def test_the_cache_key_of_the_body_names_it_where_no_header_does():
    assert await session_named_by(prompt_cache_key="user:42") == "user:42"


async def test_the_header_wins_over_the_body():
    named = await session_named_by({"X-Session-Id": "header"}, prompt_cache_key="body")
    assert named == "header"


@pytest.mark.parametrize("changes", [{}, {"prompt_cache_key": ""}, {"prompt_cache_key": None}])
async def test_where_nobody_names_it_a_new_name_is_made(changes):
    first, second = [await session_named_by(**changes) for _ in range(2)]
    assert first != second
    assert first.startswith("sess_")


@pytest.mark.parametrize("name", ["zwei Wörter", "line\nbreak", "a/b", "..", "x" * 129, "日本"])
async def test_a_name_that_no_header_can_say_is_told_by_its_digest(name):
    first, second = [await session_named_by(prompt_cache_key=name) for _ in range(2)]
    assert first == second
    assert first.startswith("key_")
    assert first != await session_named_by(prompt_cache_key=f"{name}x")


async def test_a_name_in_the_header_is_the_same_name_in_the_body():
    in_header = await session_named_by({"X-Session-Id": "zwei Wörter".encode()})
    assert in_header == await session_named_by(prompt_cache_key="zwei Wörter")


async def test_a_stream_says_its_session_too():
    service = build_service()
    async with service.direct() as http:
        response = await ask(http, prompt_cache_key="chat", stream=True)
    assert response.headers["x-session-id"] == "chat"


async def test_a_session_is_told_with_its_times_and_its_tokens():
    service = build_service()
    use(service, "chat", "chat", num_tokens=30)
    async with service.direct() as http:
        session = (await http.get("/v1/sessions/chat")).json()
    assert session.pop("created_at") <= session.pop("last_used_at")
    assert session == {
        "id": "chat",
        "object": "session",
        "model": "scripted",
        "num_requests": 2,
        "num_running": 0,
        "num_tokens": 30,
    }


async def test_sessions_are_listed_newest_first_and_page_by_page():
    service = build_service()
    use(service, "a", "b", "c", "d", "e")
    async with service.direct() as http:
        first = (await http.get("/v1/sessions", params={"limit": 2})).json()
        second = (await http.get("/v1/sessions", params={"limit": 2, "after": "d"})).json()
        third = (await http.get("/v1/sessions", params={"limit": 2, "after": "b"})).json()
    assert [each["id"] for each in first["data"]] == ["e", "d"]
    assert (first["object"], first["first_id"], first["last_id"]) == ("list", "e", "d")
    assert [each["id"] for each in second["data"]] == ["c", "b"]
    assert [each["id"] for each in third["data"]] == ["a"]
    assert [page["has_more"] for page in (first, second, third)] == [True, True, False]


async def test_a_list_without_sessions_is_empty():
    async with build_service().direct() as http:
        listed = (await http.get("/v1/sessions")).json()
    expected = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert listed == expected


@pytest.mark.parametrize("limit", ["0", "101", "-1", "ten", "1.5", "", "9" * 5000])
async def test_a_limit_that_is_none_is_refused_by_name(limit):
    async with build_service().direct() as http:
        response = await http.get("/v1/sessions", params={"limit": limit})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "limit"


async def test_a_page_after_a_session_that_is_gone_is_a_404():
    async with build_service().direct() as http:
        response = await http.get("/v1/sessions", params={"after": "gone"})
    assert response.status_code == 404
    assert response.json()["error"]["param"] == "after"


async def test_a_deleted_session_is_freed_in_the_engine_and_gone():
    service = build_service()
    use(service, "chat")
    async with service.direct() as http:
        deleted = await http.delete("/v1/sessions/chat")
        again = await http.delete("/v1/sessions/chat")
    assert deleted.json() == {"id": "chat", "object": "session.deleted", "deleted": True}
    assert service.engine.forgotten[0] == ("", "chat")
    assert again.status_code == 404


async def test_a_deletion_that_no_worker_can_confirm_is_to_be_tried_again():
    engine = ScriptedEngine()
    engine.refusal = EngineUnavailable("a worker is restarting")
    async with build_service(engine).direct() as http:
        response = await http.delete("/v1/sessions/chat")
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_session_of_another_key_is_answered_as_one_that_never_was(method):
    service = build_service(api_keys=KEYS)
    async with service.direct() as http:
        await ask(http, key("one"))
        [request] = service.engine.requests
        use(service, "secret", tenant=request.tenant)
        others = await http.request(method, "/v1/sessions/secret", headers=key("two"))
        unknown = await http.request(method, "/v1/sessions/nothing", headers=key("two"))
        own = await http.request(method, "/v1/sessions/secret", headers=key("one"))
    assert others.status_code == unknown.status_code == 404
    assert others.text == unknown.text.replace("nothing", "secret")
    assert own.status_code == 200


async def test_a_key_sees_its_own_sessions_only():
    service = build_service(api_keys=KEYS)
    async with service.direct() as http:
        for name in KEYS:
            await ask(http, key(name))
            use(service, f"of-{name}", tenant=service.engine.requests[-1].tenant)
        listed = (await http.get("/v1/sessions", headers=key("two"))).json()
        beyond = await http.get("/v1/sessions", params={"after": "of-one"}, headers=key("two"))
    assert [each["id"] for each in listed["data"]] == ["of-two"]
    assert beyond.status_code == 404


async def test_a_deleted_conversation_is_computed_again_and_another_one_is_not():
    def say(text, session):
        messages = [{"role": "user", "content": text}]
        return hello(messages=messages, prompt_cache_key=session, max_tokens=2, ignore_eos=True)

    async with running_pool() as bench, serving(bench.pool) as service, service.http() as http:

        async def cached(text, session):
            usage = (await http.post(CHAT, json=say(text, session))).json()["usage"]
            return usage["prompt_tokens_details"]["cached_tokens"]

        for text in ("kept words", "gone for good"):
            assert await cached(text, text[:4]) < 10
        assert (await http.delete("/v1/sessions/gone")).status_code == 200
        listed = (await http.get("/v1/sessions")).json()["data"]
        assert [each["id"] for each in listed] == ["kept"]
        assert await cached("kept words", "kept") == listed[0]["num_tokens"] - 3
        assert await cached("gone for good", "new") < 10
