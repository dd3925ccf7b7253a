"""`/tokenize`, `/detokenize`, and how many tokens a conversation is."""

import pytest

from tests.api.builders import MODEL, ScriptedEngine, build_service, hello, serving, tokens_of

COUNT = "/v1/chat/completions/input_tokens"


async def post(path, body, **config):
    async with build_service(**config).direct() as http:
        return await http.post(path, json=body)


async def refuse(path, body):
    response = await post(path, body)
    assert response.status_code == 400
    return response.json()["error"]


async def test_a_prompt_is_shown_as_its_tokens():
    answer = await post("/tokenize", {"prompt": "Hi"}, engine=ScriptedEngine(context_len=2048))
    assert answer.json() == {
        "count": 2,
        "max_model_len": 2048,
        "tokens": [72, 105],
        "token_strs": None,
    }


async def test_tokens_are_shown_as_the_vocabulary_writes_them_when_asked():
    answer = await post("/tokenize", {"model": MODEL, "prompt": "Hi", "return_token_strs": True})
    assert answer.json()["token_strs"] == ["H", "i"]


async def test_a_conversation_has_the_tokens_that_its_answer_is_generated_from():
    async with serving() as service, service.client() as client, service.http() as http:
        usage = (await client.chat.completions.create(**hello())).usage
        tokens = (await http.post("/tokenize", json=hello())).json()["tokens"]
        count = (await http.post(COUNT, json=hello())).json()
        assert service.engine.requests[0].prompt == tokens
    assert count == {"object": "chat.completion.input_tokens", "input_tokens": usage.prompt_tokens}


async def test_a_conversation_may_have_the_fields_of_a_chat_request():
    body = hello(max_tokens=5, add_generation_prompt=True, continue_final_message=None, stream=True)
    assert (await post("/tokenize", body)).status_code == 200
    assert (await post(COUNT, hello(max_tokens=5, stream=True))).status_code == 200


async def test_an_empty_prompt_has_no_tokens():
    assert (await post("/tokenize", {"prompt": ""})).json()["tokens"] == []


async def test_tokens_are_shown_as_their_text():
    answer = await post("/detokenize", {"tokens": tokens_of("Hé ")})
    assert answer.json() == {"prompt": "Hé "}


async def test_tokenising_does_not_wait_for_a_worker():
    engine = ScriptedEngine()
    engine.is_ready = False
    assert (await post("/tokenize", {"prompt": "Hi"}, engine=engine)).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": 7}, "prompt"),
        ("/tokenize", {"prompt": "Hi", "surprise": 1}, "surprise"),
        ("/tokenize", hello(messages=[]), "messages"),
        ("/tokenize", hello(messages=[{"role": "user", "content": 7}]), "messages[0].content"),
        ("/tokenize", hello(add_special_tokens=True), "add_special_tokens"),
        ("/detokenize", {"tokens": [1, -1]}, "tokens[1]"),
        ("/detokenize", {"tokens": [1, 50_000]}, "tokens[1]"),
        ("/detokenize", {"tokens": "Hi"}, "tokens"),
        (COUNT, {"model": MODEL}, "messages"),
    ],
    ids=str,
)
async def test_a_mistake_is_refused_with_its_place(path, body, param):
    assert (await refuse(path, body))["param"] == param


@pytest.mark.parametrize("body", [b"7", b"[]", b"null", b'"text"', b"{"])
async def test_a_body_that_is_no_object_is_refused(body):
    async with build_service().direct() as http:
        headers = {"content-type": "application/json"}
        response = await http.post("/tokenize", content=body, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("path", "body"),
    [("/tokenize", {"prompt": "Hi"}), ("/detokenize", {"tokens": []}), ("/tokenize", hello())],
    ids=str,
)
async def test_another_model_is_a_404(path, body):
    assert (await post(path, body | {"model": "gpt-4"})).status_code == 404
