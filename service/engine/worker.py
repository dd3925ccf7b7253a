"""The loop of a worker process: drain → plan → execute → apply → publish.

One thread, no asyncio. Idle, it sleeps on its command socket.
"""

import gc
import os
import signal
import sys
import time
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue

import msgspec
import zmq

from service.core.messages import (
    Abort,
    ClassStats,
    Command,
    Failed,
    Forget,
    Forgotten,
    Report,
    SequenceOutput,
    Shutdown,
    StepReport,
    StepStats,
    Submit,
)
from service.core.plan import Plan
from service.engine.config import EngineConfig, WorkerConfig
from service.engine.engine import Engine
from service.engine.llama_engine import LlamaEngine
from service.engine.roster import Roster
from service.engine.simulated_engine import SimulatedEngine
from service.errors import SmolserveError
from service.kvcache.allocator import Slot, SlotAllocator
from service.kvcache.size_class import parse_size_classes
from service.kvcache.store import SnapshotStore
from service.scheduler.passes import count_passes
from service.scheduler.scheduler import Scheduler

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

    def receive(self, *, wait: bool) -> list[Command | Prepared]:
        """What has come; with `wait`, at least one. Shutdown when the parent is gone."""
        ready = dict(self._poller.poll(None if wait else 0))
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


class Worker:
    """Owns an engine and the scheduler of its sequences."""

    def __init__(self, engine: Engine, config: EngineConfig, channel: Channel) -> None:
        self._store = SnapshotStore(
            host_bytes=config.host_cache_bytes,
            bytes_per_token=engine.bytes_per_token,
            ttl_seconds=config.cache_ttl_seconds,
            costs=engine.costs,
        )
        self._allocator = SlotAllocator(
            parse_size_classes(config.contexts), self._store, can_copy=engine.can_copy
        )
        self._scheduler = Scheduler(config.scheduler, self._allocator, engine.eog_tokens)
        self._engine = engine
        self._channel = channel
        self._unprepared: dict[int, Submit] = {}
        self._is_running = True

    def run(self) -> None:
        while self._is_running:
            started = time.monotonic()
            is_idle = not self._scheduler.has_work
            commands = self._channel.receive(wait=is_idle)
            if is_idle:
                started = time.monotonic()
            for command in commands:
                self.obey(command)
            if self._scheduler.has_work:
                self.step(started)
            elif commands:
                self._publish([], Plan(), 0.0, 0.0)

    def obey(self, command: Command | Prepared) -> None:
        match command:
            case Submit():
                self._channel.roster.write([command.sequence_id])
                if self._is_prepared(command):
                    self._scheduler.add(command)
                else:
                    self._unprepared[command.sequence_id] = command
            case Prepared(sequence_id):
                if sequence_id in self._unprepared:
                    self._scheduler.add(self._unprepared.pop(sequence_id))
            case Abort(sequence_id=sequence_id):
                self._unprepared.pop(sequence_id, None)
                self._scheduler.abort(sequence_id)
            case Forget(tenant=tenant, session=session):
                freed = self._scheduler.forget((tenant, session))
                self._channel.send(Forgotten(tenant=tenant, session=session, num_tokens=freed))
            case Shutdown():
                self._is_running = False

    def _is_prepared(self, command: Submit) -> bool:
        """If not, `Prepared` comes when it is: nobody's step waits for a grammar to be compiled."""
        if command.constraint is None:
            return True
        on_ready = partial(self._channel.post, Prepared(command.sequence_id))
        return self._engine.prepare(command.constraint, on_ready)

    def step(self, started: float) -> None:
        plan = self._scheduler.plan()
        self._channel.roster.write([sequence.id for sequence in self._scheduler.running])
        result = self._engine.execute(plan)
        outputs = self._scheduler.apply(result)
        self._publish(outputs, plan, result.decode_seconds, time.monotonic() - started)

    def _publish(
        self, outputs: list[SequenceOutput], plan: Plan, decode_seconds: float, step_seconds: float
    ) -> None:
        num_decode = num_prefill = 0
        for chunk in plan.chunks():
            num_tokens = chunk.end - chunk.start
            if num_tokens == 1 and chunk.draw is not None:
                num_decode += 1
            else:
                num_prefill += num_tokens
        stats = StepStats(
            num_decode_tokens=num_decode,
            num_prefill_tokens=num_prefill,
            num_passes=sum(count_passes(context) for context in plan.contexts),
            decode_seconds=decode_seconds,
            step_seconds=step_seconds,
            num_waiting=self._scheduler.num_waiting + len(self._unprepared),
            num_running=self._scheduler.num_running,
            num_preemptions=self._scheduler.num_preemptions,
            classes=self._class_stats(),
            num_snapshots=self._store.num_segments,
            snapshot_bytes=self._store.host_bytes,
        )
        self._channel.send(StepReport(outputs=outputs, stats=stats))

    def _class_stats(self) -> list[ClassStats]:
        return [_class_stats(slots) for slots in self._allocator.classes]


def _class_stats(slots: list[Slot]) -> ClassStats:
    num_running = num_cached = running_tokens = cached_tokens = 0
    for slot in slots:
        if slot.owner is not None:
            num_running += 1
            running_tokens += slot.num_held
        elif slot.num_held:
            num_cached += 1
            cached_tokens += slot.num_held
    return ClassStats(num_running, num_cached, running_tokens, cached_tokens)


def open_engine(config: EngineConfig) -> Engine:
    if config.simulate is not None:
        classes = parse_size_classes(config.contexts)
        return SimulatedEngine(config.simulate, classes, extra_buffers=config.extra_buffers)
    return LlamaEngine(config)


def main() -> int:
    """Run a worker to its end; the exit status says whether it ended as asked."""
    config = msgspec.json.decode(sys.argv[1], type=WorkerConfig)
    # Ctrl-C, and SIGTERM from systemd or timeout, reach the whole process group; the API process
    # drains and then decides when workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel = Channel(config)
    try:
        engine = open_engine(config.engine)
        channel.send(engine.warm_up())
        worker = Worker(engine, config.engine, channel)
        gc.collect()
        gc.freeze()
        worker.run()
        engine.close()
    except SmolserveError as error:
        channel.send(Failed(message=str(error), code=error.code))
        return 1
    except Exception as error:  # the top of the worker's loop: say why, then end
        channel.send(Failed(message=f"{type(error).__name__}: {error}", code="internal_error"))
        raise
    finally:
        channel.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
