"""The HTTP server and the way it ends."""

import asyncio
import math
import resource
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import cast

import structlog
import uvicorn
from starlette.types import ASGIApp

from service.api.drain import Drain
from service.api.http_protocol import HttpProtocol
from service.errors import SettingsError

logger = structlog.stdlib.get_logger(__name__)

_BACKLOG = 2048
_OTHER_FILES = 256
"""Descriptors that are no connections: databases, files of batches, workers, libraries."""
_IDLE_CONNECTION_SECONDS = 75
"""Longer than clients keep idle connections, so that none is closed under a request."""
_LAST_WRITES_SECONDS = 3
"""For clients that do not even read the error event."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, so that a second service on the port fails now and not after loading.

    Raises SettingsError that says what to do.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingsError(
            f"Cannot listen on {host}: {error.strerror}; set SMOLSERVE_HOST or --host to an "
            "address of this machine."
        ) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"Cannot listen on {host} port {port}: {error.strerror}; end what uses it, or choose "
            "another with SMOLSERVE_PORT or --port."
        ) from None
    return listener


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """What clients may cost before and behind their requests."""

    sending_seconds: float = 30.0
    """How long the head of a request may take, or a body that is read for nobody."""
    reading_seconds: float = 60.0
    """How long a client may take nothing of what it is sent."""
    max_connections: int = 4096


class Server:
    """Serves until it is told to stop; then it drains, and tells the last streams why they end."""

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        drain: Drain,
        *,
        drain_timeout_seconds: float,
        clients: ClientLimits = ClientLimits(),
    ) -> None:
        _drop_stalled_readers(listener, clients.reading_seconds)
        _allow_files(clients.max_connections)
        self._listener = listener
        self._drain = drain
        self._drain_timeout_seconds = drain_timeout_seconds
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._http = _Uvicorn(
            uvicorn.Config(
                app,
                http=cast(
                    "type[asyncio.Protocol]",  # it is only called
                    partial(
                        HttpProtocol,
                        head_seconds=clients.sending_seconds,
                        max_connections=clients.max_connections,
                    ),
                ),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_IDLE_CONNECTION_SECONDS,
                timeout_graceful_shutdown=_LAST_WRITES_SECONDS,
            )
        )

    def stop(self) -> None:
        """Drain and end; a second time, end at once."""
        if self._stopping.is_set():
            self._hurrying.set()
        self._stopping.set()

    async def run(self) -> None:
        """Returns when the last connection is closed; owns and closes the listener."""
        serving = asyncio.create_task(self._http.serve(sockets=[self._listener]))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                await self._wait_for_streams()
        finally:
            stopping.cancel()
            self._http.force_exit = self._hurrying.is_set()
            self._http.end()
            await serving

    async def _wait_for_streams(self) -> None:
        self._drain.begin()
        waits = [
            asyncio.create_task(self._drain.wait_idle()),
            asyncio.create_task(self._hurrying.wait()),
        ]
        await asyncio.wait(
            waits, timeout=self._drain_timeout_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        for wait in waits:
            wait.cancel()
        self._drain.interrupt_all()


def _drop_stalled_readers(listener: socket.socket, seconds: float) -> None:
    """The kernel sees best what a client takes; its connections inherit this."""
    milliseconds = math.ceil(seconds * 1000)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def _allow_files(num_connections: int) -> None:
    """As many descriptors as that takes; shells often allow 1024."""
    needed = num_connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    granted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))
    if granted < needed:
        logger.warning("few_file_descriptors", allowed=granted, connections=num_connections)


@contextmanager
def obey_signals(
    server: Server, drain: Drain, reload: Callable[[], None] | None = None
) -> Generator[None]:
    """SIGTERM and Ctrl-C stop, a second one at once; SIGUSR1 drains and goes on running.

    SIGHUP reloads; where there is nothing to reload it ends the process, as it does by default.
    """
    loop = asyncio.get_running_loop()
    reactions = {
        signal.SIGTERM: server.stop,
        signal.SIGINT: server.stop,
        signal.SIGUSR1: drain.begin,
    }
    if reload is not None:
        reactions[signal.SIGHUP] = reload
    for number, react in reactions.items():
        loop.add_signal_handler(number, react)
    try:
        yield
    finally:
        for number in reactions:
            loop.remove_signal_handler(number)


class _Uvicorn(uvicorn.Server):
    """Sleeps where the original polls."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    def end(self) -> None:
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        """Its tick renews the date header, which has whole seconds."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), timeout=1)

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leaves them to `obey_signals`; uvicorn's own would end the process by the signal."""
        yield
