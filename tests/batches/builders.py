"""Batches over an engine that does what the test says, and time that the test moves."""

import asyncio
import json
from contextlib import asynccontextmanager

import orjson
from prometheus_client import CollectorRegistry

from service.batches.batches import Batches
from service.batches.config import BatchesConfig
from service.batches.gate import PRIORITY
from service.batches.page import Cursor
from service.batches.results import Answer
from service.telemetry.metrics import Metrics

ENDPOINT = "/v1/chat/completions"
CURSOR = Cursor(limit=100)
CONFIG = {"window_seconds": 3600}


class Clock:
    """The wall's."""

    def __init__(self, now=1_700_000_000.0):
        self.now = now

    def __call__(self):
        return self.now


class Slots:
    """An engine's capacity; the test says what others use of it."""

    def __init__(self, num_slots=4):
        self.is_ready = True
        self.num_slots = num_slots
        self.num_others = 0

    def count_before(self, priority):
        assert priority == PRIORITY
        return self.num_others


class Lines:
    """Answers lines, or holds them when it is told to; remembers what it was asked."""

    def __init__(self, *, held=()):
        """`held` are lines, by what they say, that are never answered."""
        self.held = frozenset(held)
        self.calls = []
        self.num_running = self.most_running = 0
        self.statuses = {}
        """Of the next answers to a line, by what it says; 200 when there are none left."""
        self._may_answer = asyncio.Event()
        self._may_answer.set()

    def hold(self):
        self._may_answer.clear()

    def release(self):
        self._may_answer.set()

    async def __call__(self, call):
        self.calls.append(call)
        said = json.loads(call.body)["say"]
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        try:
            await (asyncio.Event() if said in self.held else self._may_answer).wait()
        finally:
            self.num_running -= 1
        status = self.statuses[said].pop(0) if self.statuses.get(said) else 200
        usage = {"prompt_tokens": 3, "completion_tokens": 2}
        return Answer(
            status=status,
            request_id=f"req_{len(self.calls)}",
            body=orjson.dumps({"said": said, "usage": usage}),
            retry_after_seconds=0.01,
        )

    @property
    def said(self):
        return [json.loads(call.body)["say"] for call in self.calls]


class Bench:
    """Batches that are open, and what they are joined to."""

    def __init__(self, directory, *, num_slots=4, lines=None, clock=None, **config):
        self.config = BatchesConfig(directory=directory, **CONFIG | config)
        self.clock = clock or Clock()
        self.slots = Slots(num_slots)
        self.lines = lines or Lines()
        self.registry = CollectorRegistry()
        self.is_closed = False
        self.batches = Batches(
            self.config,
            capacity=self.slots,
            is_closed=lambda: self.is_closed,
            metrics=Metrics(self.registry),
            clock=self.clock,
        )

    async def upload(self, content, *, tenant="", name="in.jsonl", seconds=None):
        async with self.batches.files.receive(tenant) as upload:
            await upload.write(content)
            return await self.batches.files.keep(upload, tenant=tenant, name=name, seconds=seconds)

    async def create(self, content=None, *, tenant="", num_lines=3, **options):
        file = await self.upload(input_of(num_lines) if content is None else content, tenant=tenant)
        asked = {"endpoint": ENDPOINT, "metadata": None, "output_seconds": None} | options
        return await self.batches.create(tenant, input_file_id=file.id, **asked)

    async def ended(self, batch):
        """The batch as it is when it is over."""
        async with asyncio.timeout(10):
            while not batch.is_over:
                await asyncio.sleep(0.005)  # nobody announces it
                batch = await self.batches.get(batch.tenant, batch.id)
        return batch

    async def read(self, tenant, file_id):
        """A file's lines."""
        if file_id is None:
            return []
        file = await self.batches.files.get(tenant, file_id)
        with await self.batches.files.open_content(file) as content:
            return [json.loads(line) for line in content]

    async def results(self, batch):
        """(custom_id, error code or said) of its output, then of its errors."""
        output = await self.read(batch.tenant, batch.output_file_id)
        errors = await self.read(batch.tenant, batch.error_file_id)
        return (
            [(each["custom_id"], each["response"]["body"]["said"]) for each in output],
            [
                (each["custom_id"], each["error"]["code"] if each["error"] else None)
                for each in errors
            ],
        )

    def list_files(self):
        return sorted(path.name for path in (self.config.directory / "files").iterdir())

    def value(self, name, **labels):
        return self.registry.get_sample_value(f"smolserve_{name}", labels)


@asynccontextmanager
async def open_bench(directory, **options):
    bench = Bench(directory, **options)
    await bench.batches.start(bench.lines)
    try:
        yield bench
    finally:
        await bench.batches.stop()


def line(number, **changes):
    request = {
        "custom_id": f"line-{number}",
        "method": "POST",
        "url": ENDPOINT,
        "body": {"say": f"word {number}"},
    }
    return json.dumps(request | changes)


def input_of(num_lines):
    return "".join(line(number) + "\n" for number in range(1, num_lines + 1)).encode()


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.002)
