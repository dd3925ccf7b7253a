"""One tenant's way to the service: sends again what was refused, and judges every answer."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from loadtests.soak.ledger import Ledger, Wrong

Json = dict[str, Any]

ANSWER_SECONDS = 300
"""For an answer with all that delays it: a full queue, a worker that hangs, and its successor."""
REFUSALS = {429: "queue_full", 503: "engine_unavailable"}
CHAT = "/v1/chat/completions"
_MAX_PAUSE_SECONDS = 1.0
_ENDINGS = {"stop", "length", "tool_calls"}


class Caller:
    """Raises Wrong for whatever is neither complete nor a documented refusal."""

    def __init__(
        self, http: httpx.AsyncClient, ledger: Ledger, *, key: str, chance: random.Random
    ) -> None:
        self._http = http
        self._ledger = ledger
        self._chance = chance
        self.key = key

    async def send(
        self,
        kind: str,
        method: str,
        path: str,
        *,
        expected: int = 200,
        num_texts: int = 0,
        secret: str | None = None,
        **options: Any,  # noqa: ANN401 - httpx's own
    ) -> httpx.Response:
        """The whole answer, which has the status `expected`."""
        async with _deadline():
            while True:
                request = self._build(method, path, options)
                response = await self._http.send(request)
                if not await self._is_refused(kind, response):
                    break
        if response.status_code != expected:
            raise Wrong(f"{method} {path}: {response.status_code} {response.text}")
        self._ledger.check_secrets(response.text, secret)
        outcome = "complete" if response.is_success else "rejected"
        self._ledger.note(kind, outcome, num_texts=num_texts)
        return response

    async def delete_if_there(self, kind: str, path: str) -> None:
        async with _deadline():
            while True:
                response = await self._http.send(self._build("DELETE", path, {}))
                if not await self._is_refused(kind, response):
                    break
        if response.status_code not in {200, 404}:
            raise Wrong(f"DELETE {path}: {response.status_code} {response.text}")
        self._ledger.note(kind, "complete" if response.is_success else "rejected")

    async def try_once(self, kind: str, body: Json) -> bool:
        """Whether a chat was answered, and not refused."""
        async with _deadline():
            response = await self._http.send(self._build("POST", CHAT, {"json": body}))
        if is_refusal(response):
            self._ledger.note(kind, "refused")
            return False
        if not response.is_success:
            raise Wrong(f"{response.status_code} {response.text}")
        self._ledger.check_secrets(response.text, None)
        self._ledger.note(kind, "complete", num_texts=1)
        return True

    async def chat(
        self, kind: str, body: Json, *, secret: str | None = None, session: str | None = None
    ) -> list[Json]:
        """The choices of a complete answer."""
        answer = await self.send(
            kind,
            "POST",
            CHAT,
            json=body,
            headers=_session_header(session),
            num_texts=body.get("n", 1),
            secret=secret,
        )
        found: Json = answer.json()
        choices: list[Json] = found["choices"]
        if len(choices) != body.get("n", 1):
            raise Wrong(f"{len(choices)} choices: {answer.text}")
        for choice in choices:
            _check_ending(choice["finish_reason"])
        _check_usage(found["usage"], body)
        return choices

    async def stream_chat(
        self, kind: str, body: Json, *, secret: str | None = None, session: str | None = None
    ) -> list[Json]:
        """The events of a stream with one choice, which came to its end."""
        options = {
            "json": {**body, "stream": True, "stream_options": {"include_usage": True}},
            "headers": _session_header(session),
        }
        async with _deadline():
            events = await self._read_stream(kind, CHAT, options, end="[DONE]")
        endings = [choice["finish_reason"] for choice in _choices(events)]
        _check_ending(next((ending for ending in endings if ending), None))
        _check_usage(events[-1]["usage"], body)
        self._ledger.check_secrets(text_of(events), secret)
        self._ledger.note(kind, "complete", num_texts=1)
        return events

    async def stream_response(self, kind: str, body: Json) -> Json:
        """The response that a stream of /v1/responses ends with."""
        options = {"json": {**body, "stream": True}}
        async with _deadline():
            events = await self._read_stream(kind, "/v1/responses", options, end=None)
        if events[-1]["type"] not in {"response.completed", "response.incomplete"}:
            raise Wrong(f"the stream ends with {events[-1]}")
        self._ledger.check_secrets(json.dumps(events[-1]), None)
        self._ledger.note(kind, "complete", num_texts=1)
        return events[-1]["response"]

    async def leave(self, kind: str, body: Json, *, num_events: int, seconds: float) -> None:
        """Go away after so many events or seconds, whatever comes first."""
        options = {"json": {**body, "stream": True}}
        try:
            async with asyncio.timeout(seconds), self._opened("POST", CHAT, options) as response:
                if is_refusal(response):
                    self._ledger.note(kind, "refused")
                    return
                async for _ in response.aiter_lines():
                    num_events -= 1
                    if num_events <= 0:
                        break
        except TimeoutError:
            pass
        self._ledger.note(kind, "left", num_texts=1)

    async def _read_stream(
        self, kind: str, path: str, options: Json, *, end: str | None
    ) -> list[Json]:
        """The events before `end`."""
        while True:
            async with self._opened("POST", path, options) as response:
                if await self._is_refused(kind, response):
                    continue
                if response.status_code != 200:
                    raise Wrong(f"{response.status_code} {response.text}")
                data = [line[6:] async for line in response.aiter_lines() if line[:6] == "data: "]
            break
        if not data or (end is not None and data.pop() != end):
            raise Wrong(f"a stream without its end: {data[-2:]}")
        events: list[Json] = [json.loads(one) for one in data]
        failure = next((event for event in events if event.get("error")), None)
        if failure is not None:
            raise Wrong(f"the stream failed: {failure}")
        return events

    @asynccontextmanager
    async def _opened(self, method: str, path: str, options: Json) -> AsyncIterator[httpx.Response]:
        response = await self._http.send(self._build(method, path, options), stream=True)
        try:
            if response.status_code != 200:
                await response.aread()
            yield response
        finally:
            await response.aclose()

    async def _is_refused(self, kind: str, response: httpx.Response) -> bool:
        """After a pause, as clients make one."""
        if not is_refusal(response):
            return False
        self._ledger.note(kind, "refused")
        await asyncio.sleep(self._chance.uniform(0.25, _MAX_PAUSE_SECONDS))
        return True

    def _build(self, method: str, path: str, options: Json) -> httpx.Request:
        headers = {"Authorization": f"Bearer {self.key}", **(options.get("headers") or {})}
        return self._http.build_request(method, path, **{**options, "headers": headers})


def is_refusal(response: httpx.Response) -> bool:
    """Whether it says to come again later. Raises Wrong if it says so otherwise than documented."""
    code = REFUSALS.get(response.status_code)
    if code is None:
        return False
    if response.json()["error"]["code"] != code or "retry-after" not in response.headers:
        raise Wrong(f"{response.status_code} with {response.headers}: {response.text}")
    return True


def text_of(events: list[Json]) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in _choices(events))


def _choices(events: list[Json]) -> list[Json]:
    return [choice for event in events for choice in event["choices"]]


def _session_header(session: str | None) -> dict[str, str]:
    return {} if session is None else {"X-Session-Id": session}


def _check_ending(reason: str | None) -> None:
    if reason not in _ENDINGS:
        raise Wrong(f"finish_reason is {reason!r}")


def _check_usage(usage: Json, body: Json) -> None:
    limit = body["max_tokens"] * body.get("n", 1)
    if not 0 < usage["completion_tokens"] <= limit:
        raise Wrong(f"{usage} for at most {limit} tokens")


@asynccontextmanager
async def _deadline() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            yield
    except TimeoutError:
        raise Wrong(f"no end within {ANSWER_SECONDS} s") from None
