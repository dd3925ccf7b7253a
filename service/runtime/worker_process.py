"""One life of a worker process: started, spoken to, ended."""

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq

from service.core.messages import Command, Report
from service.engine.config import EngineConfig, WorkerConfig
from service.engine.roster import Roster

KILL_AFTER_SECONDS = 30


class WorkerProcess:
    """Owns a process, its two sockets, the private folder they lie in, and its roster."""

    def __init__(self, config: EngineConfig, on_report: Callable[[Report], None]) -> None:
        self._config = config
        self._on_report = on_report
        self._folder = tempfile.TemporaryDirectory(prefix="smolserve-")
        self._context = zmq.Context()
        self._commands = self._context.socket(zmq.PUSH)
        self._reports = self._context.socket(zmq.PULL)
        for socket in (self._commands, self._reports):
            # What is sent is bounded by the admission of requests, and never waited for.
            socket.setsockopt(zmq.SNDHWM, 0)
            socket.setsockopt(zmq.RCVHWM, 0)
        self._roster = Roster.create()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Report)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        commands, reports = (self._address(name) for name in ("commands", "reports"))
        self._commands.bind(commands)
        self._reports.bind(reports)
        config = WorkerConfig(
            engine=self._config,
            commands_address=commands,
            reports_address=reports,
            roster_descriptor=self._roster.descriptor,
        )
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "service.engine.worker",
            msgspec.json.encode(config).decode(),
            stdin=asyncio.subprocess.PIPE,
            pass_fds=[self._roster.descriptor],
            cwd=Path(__file__).parents[2],
        )
        # Not before the process is known: a worker may be ready before this one learns its pid.
        asyncio.get_running_loop().add_reader(self._reports.fileno(), self._drain)
        self._drain()

    def send(self, command: Command) -> None:
        # A worker that has just died takes nothing more. Its end is about to be noticed, and what
        # it was given goes to another then.
        with contextlib.suppress(zmq.Again):
            self._commands.send(self._encoder.encode(command), zmq.NOBLOCK)

    async def wait(self) -> int:
        """Its exit status, after its last report has been taken; negative is a signal."""
        assert self._process is not None
        status = await self._process.wait()
        self._drain()
        return status

    def read_roster(self) -> frozenset[int]:
        """Sequences that ran in its last step."""
        return self._roster.read()

    def kill(self) -> None:
        """Make it end, whatever it does."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def stop_listening(self) -> None:
        """Take no report any more."""
        asyncio.get_running_loop().remove_reader(self._reports.fileno())

    async def end(self) -> None:
        """Ask it to end by closing its standard input, then make it."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(KILL_AFTER_SECONDS):
                await process.wait()
        except TimeoutError:
            self.kill()
            await process.wait()

    def close(self) -> None:
        """Free sockets, folder and roster; the process has ended."""
        self._context.destroy(linger=0)
        self._roster.close()
        self._folder.cleanup()

    def _address(self, name: str) -> str:
        return f"ipc://{self._folder.name}/{name}"

    def _drain(self) -> None:
        # The socket's descriptor signals a change, not a state: take all there is. A PULL socket
        # only receives, so no other call can swallow a signal. Nearly always there is one report,
        # and asking before it is taken would cost as much as taking it.
        with contextlib.suppress(zmq.Again):
            while True:
                self._on_report(self._decoder.decode(self._reports.recv(zmq.NOBLOCK)))
                if not self._reports.get(zmq.EVENTS):
                    return
