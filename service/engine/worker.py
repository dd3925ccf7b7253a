"""The loop of a worker process: drain → plan → execute → apply → publish.

One thread, no asyncio. Idle, it sleeps on its command socket.
"""

import gc
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import msgspec
import zmq

from service.core.messages import (
    Abort,
    CacheStats,
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
from service.engine.disk_tier import DiskTier, open_disk_tier
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

MAX_WAIT_MS = 2**31 - 1
"""The poller's."""
DIGESTS = "digests.json"
"""Beside the folders of all workers."""
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


class Worker:
    """Owns an engine and the scheduler of its sequences."""

    def __init__(
        self,
        engine: Engine,
        config: EngineConfig,
        channel: Channel,
        *,
        disk: DiskTier | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = SnapshotStore(
            host_bytes=config.host_cache_bytes,
            disk_bytes=0 if disk is None else config.disk_cache_bytes,
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
        self._clock = clock
        self._reported_cache = -1
        self._store.now = clock()
        self._disk = disk
        if disk is not None:
            engine.use_files(disk)
            channel.wake_on(disk.wakeup_fd)
            disk.fill(self._store)
        self._expiry = self._allocator.expire()

    def list_sessions(self) -> tuple[tuple[str, str, int], ...]:
        """(tenant, session, tokens) of what the disk tier had at the start."""
        return tuple((*session, num_tokens) for session, num_tokens in self._store.list_sessions())

    def run(self) -> None:
        while self._is_running:
            started = self._clock()
            is_idle = not self._scheduler.has_work
            commands = self._channel.receive(timeout=self._expiry - started if is_idle else 0)
            if is_idle:
                started = self._clock()
            self._store.now = started
            for command in commands:
                self.obey(command)
            has_settled = self._settle()
            if self._scheduler.has_work:
                self.step(started)
            elif commands or has_settled:
                self._engine.execute(self._scheduler.plan())
                self._publish([], Plan(), 0.0, 0.0)

    def flush(self) -> None:
        """Write what is worth it to disk, as the last thing."""
        if self._disk is not None:
            self._allocator.flush()
            self._engine.execute(Plan(self._allocator.take_operations()))
            self._disk.close()

    def _settle(self) -> bool:
        """Take in what a disk has done and time has brought; whether that was anything."""
        has_expired = self._store.now >= self._expiry
        if has_expired:
            self._expiry = self._allocator.expire()
        if self._disk is None:
            return has_expired
        return self._disk.settle(self._scheduler, self._store, self._engine) or has_expired

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
            cache=self._cache_stats(),
        )
        self._channel.send(StepReport(outputs=outputs, stats=stats))

    def _cache_stats(self) -> CacheStats | None:
        """None while nothing of it has changed."""
        if self._store.num_changes == self._reported_cache:
            return None
        self._reported_cache = self._store.num_changes
        counters = self._store.counters
        slots = [slot for slots in self._allocator.classes for slot in slots if slot.num_held]
        slot_bytes = sum(slot.num_held for slot in slots) * self._engine.bytes_per_token
        return CacheStats(
            hits=dict(counters.hits),
            hit_tokens=dict(counters.hit_tokens),
            evictions=dict(counters.evictions),
            bytes={
                "slot": slot_bytes,
                "host": self._store.host_bytes,
                "disk": self._store.disk_bytes,
            },
            segments={
                "slot": len(slots),
                "host": self._store.num_segments,
                "disk": self._store.num_files,
            },
            saves=counters.saves,
            restores=counters.restores,
            save_seconds=counters.save_seconds,
            restore_seconds=counters.restore_seconds,
            disk_reads=counters.disk_reads,
            disk_writes=counters.disk_writes,
            disk_read_seconds=counters.disk_read_seconds,
            disk_write_seconds=counters.disk_write_seconds,
            disk_errors=counters.disk_errors,
        )

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


def _open_disk(engine: Engine, config: EngineConfig) -> DiskTier | None:
    """None without a budget, and where segments proved not to fit."""
    if config.disk_cache_bytes == 0 or not engine.can_copy:
        return None
    folder = Path(config.disk_cache_dir)
    return open_disk_tier(folder, engine.fingerprint(folder.parent / DIGESTS))


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
        ready = engine.warm_up()
        worker = Worker(engine, config.engine, channel, disk=_open_disk(engine, config.engine))
        channel.send(msgspec.structs.replace(ready, sessions=worker.list_sessions()))
        gc.collect()
        gc.freeze()
        worker.run()
        worker.flush()
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
