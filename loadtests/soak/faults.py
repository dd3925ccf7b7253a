"""What is done to the service while it is loaded, and when."""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from loadtests.soak.caller import Caller
from loadtests.soak.ledger import Ledger, Wrong
from loadtests.soak.samples import add_up
from loadtests.soak.site import CLIENT_TIMEOUT_SECONDS, MAX_QUEUED, NUM_SLOTS, Site

RECOVERY_SECONDS = 90
"""For a worker to be ready again; its backoff grows to 30 s when it is killed often."""
MILD = ("damage files", "burst", "silent connections", "delete sessions")
DEADLY = ("kill worker", "hang worker")
CALM_SHARE = 1 / 3
"""Of the time, at the end: no worker dies, so that one lives long enough to show growth."""
MILD_SECONDS = (9, 30)
"""Between mild faults, in a short soak and at most."""
DEADLY_SECONDS = (27, 240)
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Planned:
    at: float
    name: str


def plan_faults(seconds: float) -> list[Planned]:
    """All kinds in turn, each at least once in three minutes; none just before the end."""
    mild = _spread(MILD, seconds * 0.9, _clamp(seconds / 20, MILD_SECONDS))
    deadly = _spread(DEADLY, last_death(seconds), _clamp(seconds / 8, DEADLY_SECONDS))
    return sorted([*mild, *deadly], key=lambda planned: planned.at)


def last_death(seconds: float) -> float:
    """When no worker is killed or stopped any more."""
    return seconds * (1 - CALM_SHARE)


def _spread(names: tuple[str, ...], end: float, interval: float) -> Iterable[Planned]:
    count = int(end / interval)
    return [Planned((n + 1) * interval, names[n % len(names)]) for n in range(count)]


def _clamp(value: float, bounds: tuple[float, float]) -> float:
    return max(bounds[0], min(bounds[1], value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Struck:
    at: float
    name: str
    outcome: str


@dataclass(slots=True, kw_only=True)
class Faults:
    site: Site
    ledger: Ledger
    caller: Caller
    """Of a tenant."""
    read_metrics: Callable[[], Awaitable[Mapping[str, float]]]
    chance: random.Random
    struck: list[Struck] = field(default_factory=list)
    num_damaged: int = 0
    _num_admitted: float = 0
    """Requests that there were when the last worker had been replaced."""

    async def wait_settled(self, until: float) -> bool:
        """Whether, before `until`, so many requests ended that the last death is got over.

        Whoever ran in a worker that hung is tried alone, and fails if the next one hangs as well
        (docs/decisions/worker-death.md). Those go first, so none is on trial any more then.
        """
        while self.ledger.elapsed < until:
            metrics = await self.read_metrics()
            ended = add_up(metrics, "smolserve_requests_finished_total")
            if ended + add_up(metrics, "smolserve_aborts_total") >= self._num_admitted:
                return True
            await asyncio.sleep(_POLL_SECONDS)
        return False

    async def strike(self, name: str) -> None:
        """Do it, and see it through; what the service makes of it wrongly is noted."""
        faults: dict[str, Callable[[], Awaitable[str]]] = {
            "damage files": self._damage_files,
            "burst": self._burst,
            "silent connections": self._open_silent_connections,
            "delete sessions": self._delete_sessions,
            "kill worker": self._kill_worker,
            "hang worker": self._hang_worker,
        }
        at = self.ledger.elapsed
        try:
            outcome = await faults[name]()
        except Exception as error:  # noqa: BLE001 - the top of a fault; any failure is a finding
            outcome = f"{type(error).__name__}: {error}"
            self.ledger.note_wrong(name, outcome)
        self.struck.append(Struck(at=at, name=name, outcome=outcome))

    async def _kill_worker(self) -> str:
        worker = self._choose_worker()
        worker.kill()
        return f"ready again after {await self._wait_replaced(worker):.1f} s"

    async def _hang_worker(self) -> str:
        """It has work, since guests ask all the time; the watchdog has to notice."""
        worker = self._choose_worker()
        worker.send_signal(signal.SIGSTOP)
        try:
            seconds = await self._wait_replaced(worker)
        finally:
            with suppress(psutil.NoSuchProcess):
                worker.send_signal(signal.SIGCONT)
        return f"ready again after {seconds:.1f} s"

    def _choose_worker(self) -> psutil.Process:
        workers = self.site.find_workers()
        if not workers:
            raise Wrong("there is no worker, though none was killed just now")
        return self.chance.choice(workers)

    async def _wait_replaced(self, worker: psutil.Process) -> float:
        """Seconds until it has ended and as many workers as ever are up."""
        started = time.monotonic()
        while time.monotonic() < started + RECOVERY_SECONDS:
            await asyncio.sleep(_POLL_SECONDS)
            metrics = await self.read_metrics()
            up = add_up(metrics, "smolserve_worker_up")
            if not worker.is_running() and up == self.site.num_workers:
                self._num_admitted = metrics["smolserve_requests_total"]
                return time.monotonic() - started
        raise Wrong(f"no worker took the place of {worker.pid} within {RECOVERY_SECONDS} s")

    async def _damage_files(self) -> str:
        """Cut a third of the files, and flip a byte in another third."""
        files = sorted(self.site.kv_folder.rglob("*.kv"))
        self.chance.shuffle(files)
        third = -(-len(files) // 3)
        for number, path in enumerate(files[: 2 * third]):
            with suppress(FileNotFoundError), path.open("r+b") as file:
                size = path.stat().st_size
                place = self.chance.randrange(size) if size else 0
                if number < third:
                    file.truncate(place)
                else:
                    file.seek(place)
                    byte = file.read(1)
                    file.seek(place)
                    file.write(bytes([byte[0] ^ 0x40]) if byte else b"")
                self.num_damaged += 1
        return f"{min(2 * third, len(files))} of {len(files)} files"

    async def _burst(self) -> str:
        """More than slots and queue take; a part of those who wait goes away."""
        count = NUM_SLOTS * self.site.num_workers + MAX_QUEUED + 24
        answers = await asyncio.gather(*map(self._ask_in_burst, range(count)))
        num_refused = answers.count(False)
        if not num_refused:
            raise Wrong(f"{count} requests at once, and none was refused")
        return f"{num_refused} of {count} refused"

    async def _ask_in_burst(self, number: int) -> bool:
        body = {
            "model": self.site.model,
            "messages": [{"role": "user", "content": f"Count from {number}."}],
            "max_tokens": 24,
            "ignore_eos": True,
        }
        if number % 4 == 0:
            seconds = self.chance.uniform(0.1, 2)
            await self.caller.leave("leaves in a burst", body, num_events=1, seconds=seconds)
            return True
        return await self.caller.try_once("burst", body)

    async def _open_silent_connections(self) -> str:
        """Nothing, half a head, half a body: the service has to end all of them."""
        authorization = f"Authorization: Bearer {self.caller.key}\r\n".encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\n" + authorization
        half_body = head + b"Content-Type: application/json\r\nContent-Length: 500\r\n\r\n{"
        waits = [self._wait_closed(sent) for sent in (b"", head, half_body) for _ in range(4)]
        answers = await asyncio.gather(*waits)
        if not all(b" 408 " in answer for answer in answers[4:]):
            raise Wrong(f"half a request was not answered 408: {answers}")
        return f"{len(answers)} connections were ended"

    async def _wait_closed(self, sent: bytes) -> bytes:
        """What came before the service ended the connection."""
        reader, writer = await asyncio.open_connection(*self.site.address)
        try:
            writer.write(sent)
            async with asyncio.timeout(6 * CLIENT_TIMEOUT_SECONDS):
                return await reader.read()
        except TimeoutError:
            raise Wrong(f"a connection that sent {sent[:40]!r} is not ended") from None
        finally:
            writer.close()

    async def _delete_sessions(self) -> str:
        """All that the tenant has, whether they run or not."""
        answer = await self.caller.send("sessions", "GET", "/v1/sessions?limit=100")
        names = [session["id"] for session in answer.json()["data"]]
        deletions = [
            self.caller.delete_if_there("deleted session", f"/v1/sessions/{name}") for name in names
        ]
        await asyncio.gather(*deletions)
        return f"{len(names)} sessions"
