import json

import pytest

from service.api.tools import MAX_PARAMETERS_LEN, MAX_TOOLS
from tests.api.builders import ScriptedEngine, build_service, hello, serving


def function(name="weather", **fields):
    return {"type": "function", "function": {"name": name, **fields}}


def choose(name):
    return {"type": "function", "function": {"name": name}}


def allow(*names, mode="auto"):
    tools = [choose(name) for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def spell(*calls):
    return "\n".join(
        f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'
        for name, arguments in calls
    )


USER = {"role": "user", "content": "x"}
TWO = [function("weather"), function("now")]
TWO_CALLS = spell(("weather", '{"city": "Bern"}'), ("now", "{}"))

REFUSED = {
    "tools": [function(f"f{index}") for index in range(MAX_TOOLS + 1)],
    "tools[0].type": [{"type": "custom", "custom": {"name": "f"}}],
    "tools[0].function": [{"type": "function"}],
    "tools[0].function.name": [function("a b")],
    "tools[1].function.name": [function("f"), function("f")],
    "tools[0].function.foo": [function(foo=1)],
    "tools[0].function.parameters": [function(parameters={"type": "string"})],
    "tools[1].function.parameters": [
        function("f"),
        function(parameters={"description": "x" * MAX_PARAMETERS_LEN}),
    ],
    "tools[0].function.parameters ": [function(parameters={"x-guidance": {"lenient": True}})],
    "tools[0].function.strict": [function(strict="yes")],
    "tool_choice": "required",
    "tool_choice.type": {"type": "custom", "custom": {"name": "f"}},
    "tool_choice.function": {"type": "function"},
    "tool_choice.allowed_tools.mode": allow("weather", mode="none"),
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "messages[1].tool_call_id": [USER, {"role": "tool", "content": "y", "tool_call_id": "q"}],
    "messages[1].tool_calls[0].type": [
        USER,
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "custom", "custom": {}}]},
    ],
}


@pytest.mark.parametrize("param", REFUSED)
async def test_what_is_wrong_with_tools_is_named_by_its_path(param):
    field = param.split(".")[0].split("[")[0]
    error = await refusal(**{field: REFUSED[param]})
    assert error["param"] == param.strip()
    assert field in error["message"]


async def refusal(**fields):
    service = build_service()
    async with service.direct() as http:
        response = await http.post("/v1/chat/completions", json=hello(**fields))
    assert response.status_code == 400
    assert service.engine.requests == []
    return response.json()["error"]


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        (choose("time"), "tool_choice.function.name"),
        (allow("now", "time"), "tool_choice.allowed_tools.tools[1].function.name"),
        ("maybe", "tool_choice"),
        (3, "tool_choice"),
    ],
)
async def test_a_choice_of_what_is_not_offered_is_refused(choice, param):
    assert (await refusal(tools=TWO, tool_choice=choice))["param"] == param


@pytest.mark.parametrize("choice", ["required", choose("now"), allow("now")])
async def test_a_choice_needs_tools_to_choose_from(choice):
    assert (await refusal(tool_choice=choice))["param"] == "tool_choice"


async def test_a_result_must_answer_a_call_that_stands_before_it():
    call = {"id": "1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    result = {"role": "tool", "content": "12:30", "tool_call_id": "1"}
    caller = {"role": "assistant", "content": None, "tool_calls": [call]}
    error = await refusal(messages=[USER, result, caller])
    assert error["param"] == "messages[1].tool_call_id"
    async with serving() as service, service.client() as client:
        await client.chat.completions.create(**hello(messages=[USER, caller, result]))


async def test_calls_are_answered_with_their_names_and_arguments():
    async with serving(ScriptedEngine(TWO_CALLS)) as service, service.client() as client:
        answer = await client.chat.completions.create(**hello(tools=TWO))
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls is not None
    functions = [call.function for call in choice.message.tool_calls]
    assert [function.name for function in functions] == ["weather", "now"]
    assert [json.loads(function.arguments) for function in functions] == [{"city": "Bern"}, {}]


async def test_a_streamed_call_begins_with_its_name_and_goes_on_with_its_index_alone():
    async with serving(ScriptedEngine(TWO_CALLS)) as service, service.direct() as http:
        response = await http.post("/v1/chat/completions", json=hello(tools=TWO, stream=True))
    chunks = [json.loads(line[6:]) for line in response.text.splitlines() if "choices" in line]
    deltas = [
        call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())
    ]
    starts = [delta for delta in deltas if "id" in delta]
    assert [set(start) for start in starts] == [{"index", "id", "type", "function"}] * 2
    assert [start["function"]["arguments"] for start in starts] == ["", ""]
    assert all(set(delta) == {"index", "function"} for delta in deltas if delta not in starts)
    assert chunks[-1]["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "tool_calls",
    }


@pytest.mark.parametrize("cut", [20, 45, len(TWO_CALLS) - 16])
async def test_a_call_that_the_limit_cut_off_ends_in_length(cut):
    engine = ScriptedEngine(TWO_CALLS[:cut], finish_reason="length")
    async with serving(engine) as service, service.client() as client:
        answer = await client.chat.completions.create(**hello(tools=TWO))
    assert answer.choices[0].finish_reason == "length"


async def test_the_sdk_puts_streamed_calls_together():
    async with (
        serving(ScriptedEngine(TWO_CALLS)) as service,
        service.client() as client,
        client.chat.completions.stream(**hello(tools=TWO)) as stream,
    ):
        events = [event async for event in stream]
        completion = await stream.get_final_completion()
    calls = completion.choices[0].message.tool_calls
    assert calls is not None
    assert [(call.function.name, call.function.arguments) for call in calls] == [
        ("weather", '{"city": "Bern"}'),
        ("now", "{}"),
    ]
    done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert [(event.name, event.index) for event in done] == [("weather", 0), ("now", 1)]
