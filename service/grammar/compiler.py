"""Checks grammars before the engine sees them, without ever compiling one in this process."""

import asyncio
import contextlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from service.errors import EngineUnavailable, InvalidRequest
from service.grammar.compiling import LENGTH, Job, Outcome, Start, frame
from service.grammar.complaint import Origin, explain
from service.grammar.config import GrammarConfig
from service.grammar.tokenizer import TokenList

_MAX_REMEMBERED = 1024
"""Outcomes of the latest grammars."""


class GrammarCompiler:
    """Owns the compiling process, which starts with the first grammar; see `compiling`.

    For one event loop. Every grammar is tried out once and its outcome remembered.
    """

    def __init__(self, config: GrammarConfig, list_tokens: Callable[[], TokenList]) -> None:
        """`list_tokens` may take tenths of a second; it is called off the event loop."""
        self._config = config
        self._list_tokens = list_tokens
        self._bench: _Bench | None = None
        self._opening = asyncio.Lock()
        self._places = asyncio.Semaphore(config.max_compiling)
        self._tried: OrderedDict[tuple[str, bool], asyncio.Task[Outcome]] = OrderedDict()

    async def check(self, grammar: str, origins: Sequence[Origin]) -> None:
        """Raises InvalidRequest, naming the part of the request, for what does not compile."""
        outcome = await self._try(grammar, origins[0].param, is_gbnf=False)
        if outcome.complaint is not None:
            raise explain(outcome.complaint, origins)

    async def convert(self, gbnf: str, param: str) -> str:
        """A grammar of llama.cpp's as Lark; raises InvalidRequest for what is not one."""
        outcome = await self._try(gbnf, param, is_gbnf=True)
        if outcome.complaint is not None:
            raise explain(outcome.complaint, [Origin(param=param)])
        return outcome.lark

    async def close(self) -> None:
        if self._bench is not None:
            await self._bench.close()

    async def _try(self, text: str, param: str, *, is_gbnf: bool) -> Outcome:
        self._check_size(text, param)
        key = (text, is_gbnf)
        task = self._tried.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._tried[key] = asyncio.create_task(self._run(text, is_gbnf=is_gbnf))
        self._tried.move_to_end(key)
        while len(self._tried) > _MAX_REMEMBERED:
            self._tried.popitem(last=False)
        # A client that leaves does not end what others may wait for.
        return await asyncio.shield(task)

    def _check_size(self, text: str, param: str) -> None:
        limit = self._config.max_bytes
        if len(text) > limit or len(text.encode(errors="replace")) > limit:
            raise InvalidRequest(
                f"{param}: is larger than the {limit} bytes allowed here.", param=param
            )

    async def _run(self, text: str, *, is_gbnf: bool) -> Outcome:
        async with self._places:
            bench = await self._open()
            return await bench.run(text, is_gbnf=is_gbnf)

    async def _open(self) -> "_Bench":
        async with self._opening:
            if self._bench is None or not self._bench.is_open:
                tokens = await asyncio.to_thread(self._list_tokens)
                self._bench = await _Bench.open(Start(tokens, self._config))
            return self._bench


class _Bench:
    """This end of a compiling process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._waiting: dict[int, asyncio.Future[Outcome]] = {}
        self._num_jobs = 0
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, start: Start) -> "_Bench":
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "service.grammar.compiling",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        bench = cls(process)
        await bench._write(start)
        return bench

    @property
    def is_open(self) -> bool:
        return not self._reading.done()

    async def run(self, text: str, *, is_gbnf: bool) -> Outcome:
        """Raises EngineUnavailable when the process dies."""
        self._num_jobs += 1
        number = self._num_jobs
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._write(Job(number, text, is_gbnf))
        return await future

    async def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._reading
        await self._process.wait()

    async def _write(self, value: msgspec.Struct) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):  # the reader says that it died
            self._process.stdin.write(frame(value))
            await self._process.stdin.drain()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await self._process.stdout.readexactly(LENGTH.size)
                data = await self._process.stdout.readexactly(LENGTH.unpack(head)[0])
                outcome = msgspec.msgpack.decode(data, type=Outcome)
                self._waiting.pop(outcome.id).set_result(outcome)
        for future in self._waiting.values():
            future.set_exception(EngineUnavailable("The grammar compiler died; send it again."))
        self._waiting.clear()
