"""The service that is soaked: its settings, its processes, its folders."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from loadtests.server import running_service

WATCH_KEY, *TENANT_KEYS = ("soak-watch", "soak-red", "soak-blue")
WORKER = "service.engine.worker"

NUM_SLOTS = 8
CONTEXTS = "6x512,2x2048"
MAX_QUEUED = 16
MAX_SESSIONS = 40
HOST_BYTES = 8 << 20
DISK_BYTES = 64 << 20
RUN_BYTES = 2048 * 23_040
"""The longest slot's, with the embedded model."""
STEP_TOKENS = 48
"""Fewer than 64, from where on llama.cpp's fused attention rounds otherwise; and so few that, on a
busy machine too, no step takes nearly as long as the watchdog waits."""
WATCHDOG_SECONDS = 10
CLIENT_TIMEOUT_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    address: tuple[str, int]
    model: str
    service: psutil.Process
    folder: Path
    num_workers: int

    @property
    def url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}"

    @property
    def log_path(self) -> Path:
        return _log_path(self.folder)

    @property
    def kv_folder(self) -> Path:
        return self.folder / "kv"

    @property
    def state_folder(self) -> Path:
        return self.folder / "state"

    @property
    def has_ended(self) -> bool:
        """Whether the API process is gone; nobody has asked it to."""
        return self.service.status() == psutil.STATUS_ZOMBIE  # its parent is us, who do not wait

    def find_workers(self) -> list[psutil.Process]:
        """Those that live, in the order in which they were started."""
        return [process for process in self.children() if _is_worker(process)]

    def children(self) -> list[psutil.Process]:
        return sorted(self.service.children(recursive=True), key=psutil.Process.create_time)


@contextmanager
def running_site(model: Path, *, threads: int, num_workers: int) -> Iterator[Site]:
    """Small budgets, so that an hour fills all of them, and short time limits.

    Attention is fused, in short chunks, so that texts do not depend on the shape of the batch.
    """
    with TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        with running_service(
            _log_path(folder),
            model=str(model),
            api_keys=",".join((WATCH_KEY, *TENANT_KEYS)),
            state_dir=str(folder / "state"),
            log_format="json",
            client_timeout_s=str(CLIENT_TIMEOUT_SECONDS),
            pool__workers=str(num_workers),
            pool__watchdog_s=str(WATCHDOG_SECONDS),
            engine__contexts=CONTEXTS,
            engine__threads=str(threads),
            engine__flash_attention="on",
            scheduler__step_tokens=str(STEP_TOKENS),
            scheduler__max_queued=str(MAX_QUEUED),
            cache__host_bytes=str(HOST_BYTES),
            cache__disk_bytes=str(DISK_BYTES),
            cache__disk_dir=str(folder / "kv"),
            cache__max_sessions=str(MAX_SESSIONS),
        ) as address:
            yield Site(
                address=address,
                model=model.stem,
                service=_find_service(),
                folder=folder,
                num_workers=num_workers,
            )


def _find_service() -> psutil.Process:
    [service] = [
        process
        for process in psutil.Process().children()
        if process.cmdline()[-2:] == ["service", "serve"]
    ]
    return service


def _is_worker(process: psutil.Process) -> bool:
    try:
        return WORKER in process.cmdline()
    except psutil.Error:  # it ended while we looked
        return False


def _log_path(folder: Path) -> Path:
    return folder / "service.log"
