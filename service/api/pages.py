"""Keeps pages that somebody reads in a browser away from a service that needs no key.

A browser puts the name that a page used into Host, and the page's own origin into Origin; a page
can change neither.
"""

import ipaddress
import re
from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.body import UPLOAD_PATHS
from service.api.exchange import read_header, read_headers
from service.errors import ForeignPage

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(:[0-9]*)?")
_ANY = "*"


class PageMiddleware:
    """Refuses names that do not belong here, and uploads from pages of elsewhere.

    A page whose name was made to point here (DNS rebinding) counts as ours for a browser, but calls
    us by its name. An upload is a form, which a page may send anywhere without asking.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Collection[str] | None, origins: Collection[str]
    ) -> None:
        """`hosts` are names beside loopback's; None is any. `origins` may do what they like."""
        self._app = app
        self._hosts = None if hosts is None else {host.lower() for host in hosts}
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            hosts = [host.decode("latin-1") for host in read_headers(scope, b"host")]
            for host in hosts:
                self._check_host(host)
            if scope["path"] in UPLOAD_PATHS:
                self._check_origin(read_header(scope, b"origin"), hosts)
        await self._app(scope, receive, send)

    def _check_host(self, host: str) -> None:
        if self._hosts is None or not host:  # a browser always says one
            return
        name = read_host(host)
        if name is None or not (is_loopback(name) or name in self._hosts):
            raise ForeignPage(
                f"This service needs no key, so it does not answer to the name {host[:100]!r}: "
                "call it by localhost, or add the name to SMOLSERVE_ALLOWED_HOSTS, or set "
                "SMOLSERVE_API_KEYS.",
                param="Host",
            )

    def _check_origin(self, origin: bytes | None, hosts: Collection[str]) -> None:
        if origin is None or _ANY in self._origins:
            return
        given = origin.decode("latin-1")
        if given not in self._origins and _host_of(given) not in hosts:
            raise ForeignPage(
                f"This service needs no key, so it takes no files from the page {given[:100]!r}: "
                "add it to SMOLSERVE_CORS_ORIGINS, or set SMOLSERVE_API_KEYS.",
                param="Origin",
            )


def _host_of(origin: str) -> str:
    return origin.partition("://")[2]


def read_host(host: str) -> str | None:
    """The name without its port, in small letters; None for what is none."""
    match = _HOST.fullmatch(host)
    return match["name"].lower().strip("[]") if match else None


def is_loopback(name: str) -> bool:
    """Of an address without brackets, or a name that never leaves the machine."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
