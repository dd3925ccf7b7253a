"""`POST /v1/completions`: prompts without a conversation."""

import asyncio
import json
from typing import Any

import pytest
from openai import BadRequestError, InternalServerError, NotFoundError

from service.core.sampling import TokenLogprobs
from service.errors import WorkerDied
from tests.api.builders import MODEL, ScriptedEngine, build_service, read_events, serving, tokens_of

PATH = "/v1/completions"


def prompting(prompt: Any = "Hi", **changes) -> dict[str, Any]:
    return {"model": MODEL, "prompt": prompt} | changes


async def complete(service, prompt: Any = "Hi", **changes) -> Any:
    async with service.client() as client:
        return await client.completions.create(**prompting(prompt, **changes))


async def refuse(prompt: Any = "Hi", **changes):
    """The error of a request that is refused."""
    async with build_service().direct() as http:
        response = await http.post(PATH, json=prompting(prompt, **changes))
    assert response.status_code == 400
    return response.json()["error"]


async def stream(service, **changes) -> Any:
    async with (
        service.http() as http,
        http.stream("POST", PATH, json=prompting(stream=True, **changes)) as response,
    ):
        *events, last = await read_events(response)
    assert last == "[DONE]"
    return list(map(json.loads, events))


async def test_a_prompt_is_continued():
    async with serving() as service:
        answer = await complete(service)
    [choice] = answer.choices
    assert (choice.text, choice.finish_reason, choice.logprobs) == ("Hello there", "stop", None)
    assert (answer.object, answer.model) == ("text_completion", MODEL)
    assert answer.id.startswith("cmpl-")
    assert answer.usage.prompt_tokens == 2
    assert answer.usage.completion_tokens == 11
    assert answer.usage.total_tokens == 13


async def test_a_prompt_is_taken_as_it_is():
    async with serving() as service:
        await complete(service, " a prompt\n")
        [request] = service.engine.requests
    assert request.prompt == tokens_of(" a prompt\n")


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ([72, 105], [[72, 105]]),
        (["Hi", "Ho"], [tokens_of("Hi"), tokens_of("Ho")]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
async def test_a_prompt_may_be_tokens_and_there_may_be_several(prompt, prompts):
    async with serving() as service:
        answer = await complete(service, prompt)
        assert [request.prompt for request in service.engine.requests] == prompts
    assert [choice.index for choice in answer.choices] == list(range(len(prompts)))
    assert answer.usage.prompt_tokens == sum(map(len, prompts))


async def test_choices_of_one_prompt_stand_together_and_differ_in_their_seeds():
    async with serving() as service:
        answer = await complete(service, ["a", "bc"], n=2, seed=7)
        requests = service.engine.requests
    assert [request.prompt for request in requests] == [*[[97]] * 2, *[[98, 99]] * 2]
    assert len({request.sampling.seed for request in requests}) == 4
    assert requests[0].sampling.seed == 7
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage.prompt_tokens == 3
    assert answer.usage.completion_tokens == 44


async def test_sixteen_tokens_are_generated_unless_more_are_asked_for():
    async with serving() as service:
        for limit in ({}, {"max_tokens": 40}):
            await complete(service, **limit)
        assert [request.max_tokens for request in service.engine.requests] == [16, 40]


async def test_sampling_is_that_of_chat():
    fields = {"temperature": 0.5, "stop": ["x"], "logit_bias": {"5": 2}, "presence_penalty": 1}
    extensions = {"top_k": 3, "min_p": 0.1, "ignore_eos": True, "min_tokens": 2, "priority": 5}
    async with serving() as service:
        await complete(service, **fields, extra_body=extensions)
        [request] = service.engine.requests
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.min_p) == (0.5, 3, 0.1)
    assert (sampling.logit_bias, sampling.presence_penalty) == (((5, 2.0),), 1)
    assert (sampling.ignore_eos, sampling.min_tokens) == (True, 2)
    assert (request.stop, request.priority) == (("x",), 5)


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("prompt", ["Hi ", [72, 105, 32]])
async def test_an_echo_is_the_prompt_before_the_answer(prompt, is_streamed):
    async with serving() as service:
        if is_streamed:
            chunks = await stream(service, prompt=prompt, echo=True)
            text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
        else:
            text = (await complete(service, prompt, echo=True)).choices[0].text
    assert text == "Hi Hello there"


async def test_a_stream_says_what_the_whole_answer_says():
    async with serving() as service:
        *deltas, end = await stream(service)
    assert "".join(chunk["choices"][0]["text"] for chunk in deltas) == "Hello there"
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in deltas)
    assert end["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}]
    assert {(chunk["id"], chunk["object"]) for chunk in [*deltas, end]} == {
        (end["id"], "text_completion")
    }
    assert not any("usage" in chunk for chunk in [*deltas, end])


async def test_a_stream_tells_its_usage_last_when_asked():
    async with serving() as service:
        *chunks, last = await stream(
            service, prompt=["a", "b"], n=2, stream_options={"include_usage": True}
        )
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (2, 44)


async def test_chunks_of_several_choices_say_whose_they_are():
    async with serving() as service:
        chunks = await stream(service, prompt=["a", "b"])
    texts = {0: "", 1: ""}
    for chunk in chunks:
        [choice] = chunk["choices"]
        texts[choice["index"]] += choice["text"]
    assert texts == {0: "Hello there", 1: "Hello there"}


def score(stream, text):
    """Says it token by token; each is certain, and `z` the next best."""
    tokens = tokens_of(text)
    logprobs = [TokenLogprobs(-0.5, [(token, -0.5), (ord("z"), -2.0)]) for token in tokens]
    stream.begin(0)
    stream.push(tokens, "stop", logprobs)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_logprobs_are_told_as_they_were_before_chat(is_streamed):
    async with serving(ScriptedEngine(None)) as service:
        asking = stream(service, logprobs=2) if is_streamed else complete(service, logprobs=2)
        asked = asyncio.create_task(asking)
        score(await service.engine.next_stream(), "aé!")
        answer = await asked
        assert service.engine.requests[0].num_logprobs == 2
    if is_streamed:
        logprobs = answer[0]["choices"][0]["logprobs"]
    else:
        logprobs = answer.choices[0].logprobs.to_dict()
    assert logprobs == {
        "tokens": ["a", "é", "!"],
        "token_logprobs": [-0.5] * 3,
        "top_logprobs": [{token: -0.5, "z": -2.0} for token in "aé!"],
        "text_offset": [0, 1, 2],
    }


async def test_without_top_logprobs_those_of_the_drawn_tokens_are_told():
    async with serving(ScriptedEngine(None)) as service:
        asked = asyncio.create_task(complete(service, logprobs=0))
        stream = await service.engine.next_stream()
        stream.begin(0)
        stream.push(tokens_of("a"), "stop", [TokenLogprobs(-0.5, [])])
        answer = await asked
    assert answer.choices[0].logprobs.top_logprobs == [{"a": -0.5}]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"echo": True, "logprobs": 1}, "logprobs"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(changes, param):
    error = await refuse(**changes)
    assert (error["param"], error["code"]) == (param, "unsupported_parameter")


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ("", "prompt"),
        ([], "prompt"),
        ([""], "prompt[0]"),
        (["a", 1], "prompt[1]"),
        ([1, "a"], "prompt[1]"),
        ([[1], []], "prompt[1]"),
        ([[1], [2, -1]], "prompt[1][1]"),
        ([3, 50_000], "prompt[1]"),
        ([[3], [4, 50_000]], "prompt[1][1]"),
        (7, "prompt"),
        (None, "prompt"),
        (["a"] * 129, "prompt"),
        ("x" * 2000, "prompt"),
        (["a", "x" * 2000], "prompt[1]"),
    ],
    ids=repr,
)
async def test_a_prompt_that_cannot_be_continued_is_refused_with_its_place(prompt, param):
    assert (await refuse(prompt))["param"] == param


@pytest.mark.parametrize(
    "changes",
    [
        {"logprobs": 6},
        {"logprobs": True},
        {"max_tokens": 0},
        {"n": 0},
        {"n": 129},
        {"messages": []},
    ],
    ids=str,
)
async def test_values_out_of_range_are_refused(changes):
    assert (await refuse(**changes))["param"] == next(iter(changes))


async def test_choices_of_all_prompts_together_are_bounded():
    error = await refuse(["a"] * 3, n=43)
    assert error["param"] == "n"
    assert "128" in error["message"]


async def test_a_prompt_over_the_context_says_both_lengths():
    error = await refuse("x" * 2345)
    assert error["code"] == "context_length_exceeded"
    assert "2000" in error["message"]
    assert "2345" in error["message"]


async def test_an_unknown_model_is_a_404():
    async with serving() as service, service.client() as client:
        with pytest.raises(NotFoundError):
            await client.completions.create(model="gpt-4", prompt="Hi")


async def test_an_unknown_field_is_named():
    async with serving() as service, service.client() as client:
        with pytest.raises(BadRequestError, match="surprise"):
            await client.completions.create(**prompting(), extra_body={"surprise": 1})


async def test_an_engine_that_fails_before_the_first_text_is_an_http_error():
    async with serving(ScriptedEngine(None)) as service:
        asked = asyncio.create_task(complete(service, stream=True))
        (await service.engine.next_stream()).fail(WorkerDied("It died."))
        with pytest.raises(InternalServerError):
            await asked


async def test_an_engine_that_fails_later_ends_the_stream_with_an_error():
    async def ask(http):
        async with http.stream("POST", PATH, json=prompting(stream=True)) as response:
            return list(map(json.loads, await read_events(response)))

    async with serving(ScriptedEngine(None)) as service, service.http() as http:
        asked = asyncio.create_task(ask(http))
        stream = await service.engine.next_stream()
        stream.begin(0)
        stream.push(tokens_of("a"), None)
        stream.fail(WorkerDied("It died."))
        text, end = await asked
    assert text["choices"][0]["text"] == "a"
    assert end["error"]["code"] == "worker_died"


async def test_a_client_that_leaves_frees_every_choice():
    async with serving(ScriptedEngine(None)) as service, service.client() as client:
        asked = asyncio.create_task(client.completions.create(**prompting(["a", "b"])))
        for _ in range(2):
            await service.engine.next_stream()
        asked.cancel()
        assert [await service.engine.next_aborted() for _ in range(2)] == ["queued", "queued"]
