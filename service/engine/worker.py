"""The loop of a worker process: drain → plan → execute → apply → publish.

One thread, no asyncio. Idle, it sleeps on its command socket.
"""

import gc
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from service.core.messages import (
    Abort,
    CacheStats,
    Command,
    Embed,
    Failed,
    Forget,
    Forgotten,
    SequenceOutput,
    Shutdown,
    StepReport,
    StepStats,
    Submit,
)
from service.core.plan import Plan
from service.engine.channel import Channel, Prepared
from service.engine.config import EngineConfig, WorkerConfig
from service.engine.disk_tier import DiskTier, open_disk_tier
from service.engine.embedding_lane import EmbeddingLane
from service.engine.engine import Engine
from service.engine.llama_engine import LlamaEngine
from service.engine.simulated_engine import SimulatedEngine
from service.engine.stats import describe_cache, describe_classes
from service.errors import SmolserveError
from service.kvcache.allocator import SlotAllocator
from service.kvcache.size_class import parse_size_classes
from service.kvcache.store import SnapshotStore
from service.scheduler.passes import count_passes
from service.scheduler.scheduler import Scheduler
from service.telemetry.logs import configure_logging

DIGESTS = "digests.json"
"""Beside the folders of all workers."""


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
        self._lane = EmbeddingLane(target_seconds=config.scheduler.target_itl_seconds)
        self._engine = engine
        self._channel = channel
        self._unprepared: dict[int, tuple[Submit, bool]] = {}
        """Those whose grammar is being compiled, and whether their session was forgotten since."""
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
        return tuple((*session, num_tokens) for session, num_tokens in self._store.sessions)

    def run(self) -> None:
        while self._is_running:
            started = self._clock()
            is_idle = not (
                self._scheduler.has_work or self._lane.has_work or self._store.has_operations
            )
            until = min(self._expiry, self._scheduler.next_timeout)
            commands = self._channel.receive(timeout=until - started if is_idle else 0)
            if is_idle:
                started = self._clock()
            self._store.now = started
            for command in commands:
                self.obey(command)
            has_settled = self._settle()
            if self._scheduler.has_work:
                self.step(started)
            elif commands or has_settled or self._store.has_operations:
                self._engine.execute(self._scheduler.plan())
                self._publish([], Plan(), 0.0, 0.0)
            self._embed(self._clock() - started)

    def flush(self) -> None:
        """Write what is worth it to disk, as the last thing."""
        if self._disk is not None:
            self._allocator.flush()
            self._engine.execute(Plan(self._allocator.take_operations()))
            self._disk.close(self._store)

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
                self._add(command)
            case Prepared(sequence_id):
                if sequence_id in self._unprepared:
                    submit, is_forgotten = self._unprepared.pop(sequence_id)
                    self._scheduler.add(submit, is_forgotten=is_forgotten)
            case Abort(sequence_id=sequence_id):
                self._unprepared.pop(sequence_id, None)
                self._scheduler.abort(sequence_id)
                self._lane.abort(sequence_id)
            case Forget(tenant=tenant, session=session):
                for sequence_id, (submit, _) in self._unprepared.items():
                    if (submit.tenant, submit.session) == (tenant, session):
                        self._unprepared[sequence_id] = submit, True
                freed = self._scheduler.forget((tenant, session))
                self._channel.send(Forgotten(tenant=tenant, session=session, num_tokens=freed))
            case Embed():
                self._lane.add(command)
            case Shutdown():
                self._is_running = False

    def _add(self, command: Submit) -> None:
        self._channel.roster.write([command.sequence_id])
        if self._is_prepared(command):
            self._scheduler.add(command)
        else:
            self._unprepared[command.sequence_id] = command, False

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
        self._publish(outputs, plan, result.decode_seconds, self._clock() - started)

    def _embed(self, step_seconds: float) -> None:
        """Give texts what the chats' step leaves, after its tokens are on their way."""
        chunk = self._lane.plan(beside_seconds=step_seconds if self._scheduler.has_work else None)
        if chunk is None:
            return
        self._channel.roster.write([chunk.sequence_id])
        started = self._clock()
        states = self._engine.embed(chunk.tokens, chunk.start, chunk.end)
        self._channel.send(self._lane.apply(chunk, states, self._clock() - started))

    def _publish(
        self, outputs: list[SequenceOutput], plan: Plan, decode_seconds: float, step_seconds: float
    ) -> None:
        num_decode, num_prefill = self._scheduler.count_rows() if plan.contexts else (0, 0)
        stats = StepStats(
            num_decode_tokens=num_decode,
            num_prefill_tokens=num_prefill,
            num_passes=sum(count_passes(context) for context in plan.contexts),
            decode_seconds=decode_seconds,
            step_seconds=step_seconds,
            num_waiting=self._scheduler.num_waiting + len(self._unprepared),
            num_running=self._scheduler.num_running,
            num_preemptions=self._scheduler.num_preemptions,
            classes=describe_classes(self._allocator),
            cache=self._describe_changes(),
            num_draft_tokens=self._scheduler.num_drafted if plan.contexts else 0,
            num_accepted_tokens=self._scheduler.num_accepted if plan.contexts else 0,
        )
        self._channel.send(StepReport(outputs=outputs, stats=stats))

    def _describe_changes(self) -> CacheStats | None:
        """None while nothing of the cache has changed."""
        if self._store.num_changes == self._reported_cache:
            return None
        self._reported_cache = self._store.num_changes
        return describe_cache(self._allocator, self._engine.bytes_per_token)


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
    # Ctrl-C, a terminal that closes, and SIGTERM from systemd or timeout reach the whole process
    # group; the API process obeys them, and decides when workers end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    engine = config.engine
    configure_logging(engine.log_level, engine.log_format, with_content=engine.log_prompts)
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
