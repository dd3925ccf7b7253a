"""What connects a worker to the API process, and to threads of its own."""

import math
import os
import sys
from dataclasses import dataclass
from queue import SimpleQueue

import msgspec
import zmq

from service.core.messages import Command, Report, Shutdown
from service.engine.config import WorkerConfig
from service.engine.roster import Roster

MAX_WAIT_MS = 2**31 - 1
"""The poller's."""
LAST_WORDS_MS = 1000
"""How long an ending worker waits for its last report to be taken."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A thread of the engine's says that a sequence can run now."""

    sequence_id: int


class Channel:
    """The two sockets of a worker, and the roster that it leaves behind."""

    def __init__(self, config: WorkerConfig) -> None:
        self._context = zmq.Context()
        self._commands = self._context.socket(zmq.PULL)
        self._commands.connect(config.commands_address)
        self._reports = self._context.socket(zmq.PUSH)
        # The API process reads reports as they come; a full socket means it hangs, and then
        # waiting for it is right.
        self._reports.connect(config.reports_address)
        self._poller = zmq.Poller()
        self._poller.register(self._commands, zmq.POLLIN)
        # The parent's end of standard input closes when it dies, however it dies.
        self._poller.register(sys.stdin.fileno(), zmq.POLLIN)
        self._posted: SimpleQueue[Prepared] = SimpleQueue()
        self._wakes, self._wake = os.pipe()
        self._poller.register(self._wakes, zmq.POLLIN)
        self.roster = Roster(config.roster_descriptor)
        self._decoder = msgspec.msgpack.Decoder(Command)
        self._encoder = msgspec.msgpack.Encoder()

    def wake_on(self, descriptor: int) -> None:
        """Let `receive` return when `descriptor` is readable, whether commands came or not."""
        self._poller.register(descriptor, zmq.POLLIN)

    def receive(self, *, timeout: float) -> list[Command | Prepared]:
        """What has come; waits for it at most `timeout` seconds. Shutdown if the parent is gone."""
        milliseconds = min(math.ceil(max(timeout, 0) * 1000), MAX_WAIT_MS)
        ready = dict(self._poller.poll(milliseconds))
        if sys.stdin.fileno() in ready:
            return [Shutdown()]
        commands: list[Command | Prepared] = []
        while self._commands.poll(0):
            commands.append(self._decoder.decode(self._commands.recv()))
        if self._wakes in ready:
            os.read(self._wakes, 1)
            commands.append(self._posted.get())
        return commands

    def post(self, prepared: Prepared) -> None:
        """To be received; called by any thread."""
        self._posted.put(prepared)
        os.write(self._wake, b"\0")

    def send(self, report: Report) -> None:
        self._reports.send(self._encoder.encode(report))

    def close(self) -> None:
        self._commands.close(linger=0)
        self._reports.close(linger=LAST_WORDS_MS)
        self._context.term()
