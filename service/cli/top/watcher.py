"""Looks at a service again and again, whether it is there or not."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

import httpx

from service.cli.top.reading import build_view
from service.cli.top.snapshot import Snapshot, read_snapshot
from service.cli.top.view import View
from service.errors import MetricsUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    view: View | None
    """What is known; older where there is a problem, None where the service was never seen."""
    problem: str | None = None
    """Why there is nothing new."""


class Watcher:
    def __init__(self, http: httpx.Client, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`http` knows the service's address and key."""
        self._http = http
        self._clock = clock
        self._last: Snapshot | None = None
        self._view: View | None = None

    def look(self) -> Look:
        """After an outage rates begin anew: they would be means over it."""
        try:
            view = self.read()
        except MetricsUnavailable as error:
            self._last = None
            return Look(view=self._view, problem=str(error))
        return Look(view=view)

    def read(self) -> View:
        """Raises MetricsUnavailable."""
        now = self._scrape()
        self._view = build_view(now, self._last)
        self._last = now
        return self._view

    def _scrape(self) -> Snapshot:
        try:
            answer = self._http.get("/metrics")
        except httpx.HTTPError as error:
            raise MetricsUnavailable(_explain(error)) from None
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            raise MetricsUnavailable(
                "it refuses the key; give one with --api-key or SMOLSERVE_API_KEYS"
            )
        if not answer.is_success:
            raise MetricsUnavailable(f"it answers {answer.status_code} to GET /metrics")
        return read_snapshot(answer.text, self._clock())


def _explain(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.ConnectError):
        return "nothing answers there; see whether it runs, and at this address"
    if isinstance(error, httpx.TimeoutException):
        return "it does not answer in time"
    return f"it broke off: {error or type(error).__name__}"
