"""What guests keep at the service: responses, files and batches; and vectors."""

import asyncio
import json

import numpy as np

from loadtests.soak.caller import Json
from loadtests.soak.chats import CANARIES, CANARY_TOKENS, canary_fields
from loadtests.soak.guest import Guest
from loadtests.soak.ledger import Wrong

TEXTS = ("A cat sits on the mat.", "Interest rates rose.", "The boat leaves at noon.")
NUM_LINES = 12
POLL_SECONDS = 1.0
BATCH_SECONDS = 600
_UNFINISHED = {"validating", "in_progress", "finalizing"}


async def embed(guest: Guest) -> None:
    """Vectors are those of the idle service, whatever runs beside."""
    body = {"model": guest.model, "input": list(TEXTS)}
    answer = await guest.caller.send("embeddings", "POST", "/v1/embeddings", json=body)
    for text, one in zip(TEXTS, answer.json()["data"], strict=True):
        cosine = np.dot(one["embedding"], guest.references.vectors[text])
        if abs(cosine - 1) > 1e-3:
            raise Wrong(f"the vector of {text!r} is another: cosine {cosine}")


async def respond(guest: Guest) -> None:
    """A chain of two stored responses, read, hidden from others, and deleted."""
    body = {"model": guest.model, "input": f"Name three {guest.topic()}.", "max_output_tokens": 16}
    first = await guest.caller.stream_response("response", body)
    body |= {"input": "One more.", "previous_response_id": first["id"]}
    answer = await guest.caller.send("response", "POST", "/v1/responses", json=body, num_texts=1)
    for response in (first, answer.json()):
        path = f"/v1/responses/{response['id']}"
        found = (await guest.caller.send("kept response", "GET", path)).json()
        if found["output"] != response["output"]:
            raise Wrong(f"kept {found['output']}, answered {response['output']}")
        await guest.stranger.send("another's response", "GET", path, expected=404)
        await guest.caller.send("deleted response", "DELETE", path)
        await guest.caller.send("response that was deleted", "GET", path, expected=404)


async def respond_unkept(guest: Guest) -> None:
    body = {
        "model": guest.model,
        "input": f"Praise {guest.topic()}.",
        "max_output_tokens": 16,
        "store": False,
    }
    response = await guest.caller.stream_response("response not kept", body)
    path = f"/v1/responses/{response['id']}"
    await guest.caller.send("response that was not kept", "GET", path, expected=404)


async def run_batch(guest: Guest) -> None:
    """Every line is answered once, in order, and the canaries among them as ever."""
    prompts = [guest.chance.choice(CANARIES) for _ in range(NUM_LINES)]
    file_id = await _upload(guest, prompts)
    body = {
        "input_file_id": file_id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    batch = (await guest.caller.send("batch", "POST", "/v1/batches", json=body)).json()
    path = f"/v1/batches/{batch['id']}"
    async with asyncio.timeout(BATCH_SECONDS):
        while batch["status"] in _UNFINISHED:
            await asyncio.sleep(POLL_SECONDS)
            batch = (await guest.caller.send("batch's state", "GET", path)).json()
    if batch["status"] != "completed" or batch["error_file_id"] is not None:
        raise Wrong(f"a batch that is not completed: {batch}")
    await guest.stranger.send("another's batch", "GET", path, expected=404)
    await _check_output(guest, batch["output_file_id"], prompts)
    for each in (file_id, batch["output_file_id"]):
        await guest.caller.send("deleted file", "DELETE", f"/v1/files/{each}")


async def _upload(guest: Guest, prompts: list[str]) -> str:
    lines = [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": guest.body(prompt, CANARY_TOKENS, **canary_fields()),
        }
        for number, prompt in enumerate(prompts)
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    answer = await guest.caller.send(
        "file",
        "POST",
        "/v1/files",
        files={"file": ("in.jsonl", content)},
        data={"purpose": "batch"},
    )
    return answer.json()["id"]


async def _check_output(guest: Guest, file_id: str, prompts: list[str]) -> None:
    path = f"/v1/files/{file_id}/content"
    await guest.stranger.send("another's file", "GET", path, expected=404)
    content = (await guest.caller.send("file's content", "GET", path)).text
    lines: list[Json] = [json.loads(line) for line in content.splitlines()]
    if [line["custom_id"] for line in lines] != [str(n) for n in range(len(prompts))]:
        raise Wrong(f"lines that were not asked for, or not all: {lines}")
    for prompt, line in zip(prompts, lines, strict=True):
        [choice] = line["response"]["body"]["choices"]
        text = choice["message"]["content"]
        guest.ledger.note_canary(prompt, guest.references.texts[prompt], text)
        guest.ledger.note("batch line", "complete", num_texts=1)
