"""A service over HTTP whose engine does what the test says."""

import asyncio
import json
import time
import traceback
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import httpx
import structlog
from openai import AsyncOpenAI, OpenAI
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Message

from service.api.application import build_application
from service.api.config import ApiConfig
from service.api.drain import Drain
from service.api.keys import ApiKey, ApiKeys, Caller, digest_key
from service.api.rate_limits import UNLIMITED
from service.api.served_model import ServedModel
from service.api.server import ClientLimits, Server, bind
from service.batches.batches import Batches
from service.batches.config import BatchesConfig
from service.chat.parser import TaggedParser, Tags
from service.chat.prompt import plain
from service.core.request import FIRST_PRIORITY, ThinkingBudget
from service.core.sampling import SamplingParams
from service.errors import InvalidRequest
from service.records.database import MEMORY
from service.records.responses import ResponseRecords
from service.runtime.sessions import SessionRegistry
from service.runtime.stream import OutputStream
from service.telemetry.metrics import Metrics

MODEL = "scripted"


def tokens_of(text):
    """A token is a character."""
    return [ord(character) for character in text]


class CharacterVocabulary:
    bos = eos = None
    add_bos = False
    special_texts: frozenset[str] = frozenset()
    chat_template = None
    num_tokens = 50_000

    def __init__(self):
        self.metadata: dict[str, str] = {}

    def tokenize(self, text, *, parse_special):  # noqa: ARG002
        return tokens_of(text)

    def token_bytes(self, token_id):
        return chr(token_id).encode()

    def token_text(self, token_id):
        return chr(token_id)

    def special_id(self, text):  # noqa: ARG002
        return None


class PlainFormat:
    """One line a message; thinks in <think> and calls in <tool_call> when the model does."""

    name = "plain"
    native_tools = True

    def __init__(self, *, supports_thinking=True):
        self.supports_thinking = supports_thinking

    def render(self, conversation):
        if any("explode" in message.content for message in conversation.messages):
            raise ZeroDivisionError
        return [plain(f"{each.role}: {each.content}\n") for each in conversation.messages]

    def thinks(self, conversation):
        return conversation.enable_thinking is not False

    def parser(self, conversation):  # noqa: ARG002
        return TaggedParser(Tags(thinking=True, tool_calls=True), lambda: "call_1")

    def thinking_budget(self, vocab, max_tokens):  # noqa: ARG002
        return ThinkingBudget(max_tokens=max_tokens, end_token=1, closing_tokens=(1,))


class ScriptedEngine:
    """Streams say `answer` at once, or what the test pushes when there is none."""

    def __init__(
        self,
        answer: str | None = "Hello there",
        *,
        finish_reason: Literal["stop", "length"] = "stop",
        context_len: int = 2000,
    ):
        self.is_ready = True
        self.max_context_len = context_len
        self.embedding_len = 0
        self.num_slots = 4
        self.answer = answer
        self.finish_reason: Literal["stop", "length"] = finish_reason
        self.num_cached_tokens = 0
        self.refusal: Exception | None = None
        self.requests = []
        self.sessions = SessionRegistry()
        self.forgotten = []
        self._streams = asyncio.Queue()
        self._aborted = asyncio.Queue()

    def check_room(self, num_requests):  # noqa: ARG002
        if self.refusal is not None:
            raise self.refusal

    def count_before(self, priority):  # noqa: ARG002
        return 0

    def submit(self, request):
        self.requests.append(request)
        stream = OutputStream(
            request, token_bytes=lambda token: chr(token).encode(), on_abort=self._note_abort
        )
        self._streams.put_nowait(stream)
        if self.answer is not None:
            stream.begin(self.num_cached_tokens)
            stream.push(tokens_of(self.answer), self.finish_reason)
        return stream

    async def forget_session(self, tenant, session):
        if self.refusal is not None:
            raise self.refusal
        self.forgotten.append((tenant, session))
        return None if self.sessions.remove(tenant, session) is None else 1

    async def embed(self, texts):
        raise NotImplementedError

    async def next_stream(self):
        """The stream of the next request, in the order of arrival."""
        async with asyncio.timeout(5):
            return await self._streams.get()

    async def next_aborted(self):
        """The stage that the next aborted request was in."""
        async with asyncio.timeout(5):
            return await self._aborted.get()

    def _note_abort(self, stream):
        self._aborted.put_nowait(stream.stage)


class AnyGrammar:
    """Takes every grammar but those that contain `refused`."""

    def __init__(self, refused="\0"):
        self.refused = refused

    async def check(self, grammar, origins):
        if self.refused in grammar:
            raise InvalidRequest("no", param=origins[0].param)

    async def convert(self, gbnf, param):  # noqa: ARG002
        return gbnf


def keeping_logger(lines):
    """A logger that puts what it is told into a list."""

    def keep(_logger, _method, event):
        if event.get("exc_info"):
            event["exc_info"] = traceback.format_exc()
        lines.append(event)
        raise structlog.DropEvent

    return structlog.wrap_logger(
        None, processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(0)
    )


@dataclass
class Service:
    """What a test holds of a service; without a server it is called as an application."""

    app: ASGIApp
    engine: ScriptedEngine
    drain: Drain
    registry: CollectorRegistry
    log: list[dict[str, Any]]
    batches: Batches
    records: ResponseRecords
    keys: ApiKeys
    url: str = "http://direct"
    server: Server = field(init=False)

    def sync_client(self):
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def client(self, api_key="none"):
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0)

    def http(self, **options):
        return httpx.AsyncClient(base_url=self.url, **options)

    def direct(self, **options):
        """Without a socket, where a test is not about one."""
        return self.http(transport=httpx.ASGITransport(self.app), **options)

    def value(self, name, **labels):
        return self.registry.get_sample_value(f"smolserve_{name}", labels)


def as_api_key(key):
    """A test that is not about callers names the key only."""
    return ApiKey.of_digest(digest_key(key)) if isinstance(key, str) else key


def build_service(  # noqa: PLR0913 - each is what some test is about
    engine=None,
    *,
    supports_thinking=True,
    sampling=None,
    batching=None,
    records=None,
    clock=time.time,  # noqa: TID251 - files and batches go by the calendar
    tracer=None,
    log=None,
    **config,
):
    """`batching` is the BatchesConfig, for tests that start the service's batches.

    `records` are the ResponseRecords, for tests in which they outlive the service. `log` is for
    tests of what is really written; what it is told is not in the service's own. `limit_clock` is
    what callers' limits are refilled by.
    """
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    anyone = Caller(
        limits=config.pop("rate_limits", UNLIMITED),
        best_priority=config.pop("best_priority", FIRST_PRIORITY),
    )
    keys = ApiKeys(map(as_api_key, config.pop("api_keys", ())), anyone=anyone)
    limit_clock = config.pop("limit_clock", time.monotonic)
    engine = engine or ScriptedEngine()
    drain = Drain()
    batches = Batches(
        batching or BatchesConfig(directory=Path("nowhere")),
        capacity=engine,
        is_closed=lambda: drain.has_begun,
        metrics=metrics,
        clock=clock,
    )
    records = records or ResponseRecords(MEMORY, ttl_seconds=3600, max_bytes=10**8, now=clock)
    lines: list[dict[str, Any]] = []
    app = build_application(
        ApiConfig(**config),
        keys=keys,
        model=ServedModel(
            id=MODEL,
            created=1_700_000_000,
            context_len=4096,
            vector_len=8,
            fingerprint="fp_test",
            sampling=sampling or SamplingParams(),
            format=PlainFormat(supports_thinking=supports_thinking),
            vocab=CharacterVocabulary(),
        ),
        engine=engine,
        grammars=AnyGrammar(),
        batches=batches,
        records=records,
        drain=drain,
        metrics=metrics,
        log=log or keeping_logger(lines),
        tracer=tracer,
        clock=limit_clock,
    )
    return Service(app, engine, drain, registry, lines, batches, records, keys)


@asynccontextmanager
async def serving(engine=None, *, drain_timeout_seconds=5.0, clients=None, **options):
    service = build_service(engine, **options)
    listener = bind("127.0.0.1", 0)
    service.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    service.server = Server(
        service.app,
        listener,
        service.drain,
        drain_timeout_seconds=drain_timeout_seconds,
        clients=replace(
            clients or ClientLimits(), sending_seconds=options.get("client_timeout_seconds", 30)
        ),
    )
    await service.records.open()
    running = asyncio.create_task(service.server.run())
    try:
        yield service
    finally:
        service.server.stop()
        service.server.stop()
        await running
        await service.records.close()


def hello(**changes):
    """A request body that is answered."""
    return {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]} | changes


async def read_events(response):
    """The data of each server-sent event, and comments with their colon."""
    return [line.removeprefix("data: ") async for line in response.aiter_lines() if line]


async def until(condition):
    """Waits for what nothing announces."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - a signal handler or a log line sets no event
            await asyncio.sleep(0)


async def start_stream(service, client, **changes):
    """A request's stream, and its chunks behind the role; "a" has been said."""
    creating = asyncio.create_task(client.chat.completions.create(**hello(stream=True, **changes)))
    stream = await service.engine.next_stream()
    stream.begin(0)
    stream.push(tokens_of("a"), None)
    chunks = await creating
    assert (await anext(chunks)).choices[0].delta.role == "assistant"
    return stream, chunks


def post_scope():
    """An ASGI scope of a chat request, for tests that are the socket themselves."""
    return {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }


def one_body(body):
    """An ASGI receive that gives the body, and then waits as a socket does."""
    messages: list[Message] = [{"type": "http.request", "body": json.dumps(body).encode()}]

    async def receive():
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    return receive
