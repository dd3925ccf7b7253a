"""What well-behaved guests ask: chats of every kind."""

import asyncio
import json
import math

import jsonschema

from loadtests.soak.caller import Json, text_of
from loadtests.soak.guest import Conversation, Guest
from loadtests.soak.ledger import Wrong

CANARIES = tuple(
    f"{question} {topic}."
    for question in ("Write a line about", "Say who needs", "Name two kinds of")
    for topic in ("rivers", "violins", "comets", "maps")
)
CANARY_TOKENS = 16
OPENING = (
    "You are the porter of a small hotel by the sea. You are polite and brief. Breakfast is from "
    "seven to ten, the boat leaves at noon, and the key of the garden hangs by the door."
)
MAX_CONVERSATIONS = 4
"""Of a guest at a time; together they are more than host memory has room for."""
MAX_MESSAGES = 13
QUESTIONS = ("Repeat the code word.", "When is breakfast?", "Say the code word again.")
FILLER = "The river ran past the old mill and the children counted the boats. "
NUM_TOP = 5

SCHEMA = {
    "type": "object",
    "properties": {
        "sku": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{2}$"},
        "paid": {"type": "boolean"},
        "size": {"enum": ["small", "medium", "large"]},
    },
    "required": ["sku", "paid", "size"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
        },
    },
}


async def ask(guest: Guest) -> None:
    prompt = f"Tell me about {guest.topic()}."
    await guest.caller.chat("chat", guest.body(prompt, 24, temperature=0.8))


async def ask_twice(guest: Guest) -> None:
    """Two choices of one request."""
    prompt = f"Invent a name for {guest.topic()}."
    await guest.caller.chat("two choices", guest.body(prompt, 12, n=2, temperature=1))


async def stream(guest: Guest) -> None:
    prompt = f"Tell me story {guest.number()} about {guest.topic()}."
    await guest.caller.stream_chat("stream", guest.body(prompt, 48, temperature=0.8))


def canary_fields() -> Json:
    return {"temperature": 0, "ignore_eos": True}


async def ask_canary(guest: Guest) -> None:
    prompt = guest.chance.choice(CANARIES)
    body = guest.body(prompt, CANARY_TOKENS, **canary_fields())
    if guest.chance.random() < 0.5:
        text = text_of(await guest.caller.stream_chat("canary", body))
    else:
        [choice] = await guest.caller.chat("canary", body)
        text = choice["message"]["content"]
    guest.ledger.note_canary(prompt, guest.references.texts[prompt], text)


async def read_long(guest: Guest) -> None:
    """A prompt of some 700 to 1,400 tokens that no other begins with."""
    prompt = f"Text {guest.number()}. " + FILLER * guest.chance.randrange(45, 90)
    await guest.caller.stream_chat("long prompt", guest.body(prompt, 8))


async def converse(guest: Guest) -> None:
    """A new session, or an old one that has left slots and memory meanwhile; it has a secret."""
    if len(guest.conversations) < MAX_CONVERSATIONS:
        guest.conversations.append(_begin(guest))
    conversation = guest.chance.choice(guest.conversations)
    for _ in range(guest.chance.randrange(1, 4)):
        await _say(guest, conversation)
        await asyncio.sleep(guest.chance.uniform(0, 0.5))
    path = f"/v1/sessions/{conversation.session}"
    await guest.stranger.send("another's session", "GET", path, expected=404)
    if len(conversation.messages) > MAX_MESSAGES:
        guest.conversations.remove(conversation)


def _begin(guest: Guest) -> Conversation:
    secret = guest.ledger.make_secret(guest.chance)
    system = {"role": "system", "content": f"{OPENING} The code word is {secret}."}
    session = f"{guest.name}-{guest.number()}"
    return Conversation(session=session, secret=secret, messages=[system])


async def _say(guest: Guest, conversation: Conversation) -> None:
    """A turn; some sessions are deleted while it runs."""
    messages, session = conversation.messages, conversation.session
    question = QUESTIONS[len(messages) // 2 % len(QUESTIONS)]
    asked: list[Json] = [*messages, {"role": "user", "content": question}]
    body = guest.body(asked, 24, temperature=0)
    turn = guest.caller.stream_chat("session", body, secret=conversation.secret, session=session)
    if guest.chance.random() < 0.1:
        events, _ = await asyncio.gather(turn, _forget(guest, session))
    else:
        events = await turn
    conversation.messages = [*asked, {"role": "assistant", "content": text_of(events)}]


async def _forget(guest: Guest, session: str) -> None:
    """Delete a session that a request has just begun; it may not be known yet."""
    await asyncio.sleep(guest.chance.uniform(0.05, 0.5))
    await guest.caller.delete_if_there("deleted session", f"/v1/sessions/{session}")


async def fill_form(guest: Guest) -> None:
    prompt = f"Write order {guest.number()} of a shop for {guest.topic()} as JSON."
    form = {"type": "json_schema", "json_schema": {"name": "order", "schema": SCHEMA}}
    body = guest.body(prompt, 96, temperature=1, response_format=form)
    [choice] = await guest.caller.chat("structured", body)
    if choice["finish_reason"] != "stop":
        raise Wrong(f"a form that was cut: {choice}")
    jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)


async def call_tool(guest: Guest) -> None:
    body = guest.body("What is the weather in Bern?", 64, tools=[TOOL], tool_choice="required")
    [choice] = await guest.caller.chat("tool", body)
    if choice["finish_reason"] != "tool_calls":
        raise Wrong(f"no whole call: {choice}")
    for call in choice["message"]["tool_calls"]:
        jsonschema.validate(
            json.loads(call["function"]["arguments"]), TOOL["function"]["parameters"]
        )


async def ask_probabilities(guest: Guest) -> None:
    prompt = f"Count {guest.topic()} from {guest.number()}."
    fields: Json = {"logprobs": True, "top_logprobs": NUM_TOP, "ignore_eos": True}
    events = await guest.caller.stream_chat("logprobs", guest.body(prompt, 12, **fields))
    tokens = [
        token
        for event in events
        for choice in event["choices"]
        for token in (choice["logprobs"] or {}).get("content") or ()
    ]
    if len(tokens) != 12:
        raise Wrong(f"{len(tokens)} tokens with logprobs, not 12")
    for token in tokens:
        total = sum(math.exp(top["logprob"]) for top in token["top_logprobs"])
        if len(token["top_logprobs"]) != NUM_TOP or total > 1.001:
            raise Wrong(f"the probabilities of {NUM_TOP} tokens are {total} together: {token}")
