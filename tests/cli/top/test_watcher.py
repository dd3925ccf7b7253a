"""Looking at a service that comes and goes."""

from typing import Any

import httpx
import pytest

from service.cli.top.watcher import Watcher
from service.errors import MetricsUnavailable
from tests.cli.top.builders import Service


class Outlet:
    """Answers as the test says; a look takes a second."""

    def __init__(self, service):
        self.service = service
        self.failure: Exception | int | None = None
        self.keys = []
        self._now = 0

    def watcher(self, **headers) -> Any:
        transport = httpx.MockTransport(self._answer)
        http = httpx.Client(base_url="http://there", transport=transport, headers=headers)
        return Watcher(http, clock=self._tick)

    def _tick(self):
        self._now += 1
        return self._now

    def _answer(self, request):
        assert request.url.path == "/metrics"
        self.keys.append(request.headers.get("authorization"))
        if isinstance(self.failure, Exception):
            raise self.failure
        if self.failure is not None:
            return httpx.Response(self.failure)
        return httpx.Response(200, text=self.service.text())


def test_the_second_look_has_rates():
    outlet = Outlet(Service())
    watcher = outlet.watcher(authorization="Bearer sesame")
    assert watcher.look().view.rates is None
    outlet.service.answer()
    assert watcher.look().view.rates.requests == 1
    assert outlet.keys == ["Bearer sesame"] * 2


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (httpx.ConnectError("refused"), "nothing answers there"),
        (httpx.ReadTimeout("slow"), "it does not answer in time"),
        (httpx.RemoteProtocolError("gone"), "it broke off: gone"),
        (401, "it refuses the key; give one with --api-key"),
        (502, "it answers 502"),
    ],
)
def test_a_service_that_cannot_be_read_says_why(failure, told):
    outlet = Outlet(Service())
    outlet.failure = failure
    watcher = outlet.watcher()
    look = watcher.look()
    assert look.view is None
    assert look.problem.startswith(told)
    with pytest.raises(MetricsUnavailable, match=told):
        watcher.read()


def test_a_service_that_comes_back_begins_anew():
    outlet = Outlet(Service())
    watcher = outlet.watcher()
    known = watcher.look().view
    outlet.failure = httpx.ConnectError("refused")
    gone = watcher.look()
    assert gone.view is known
    outlet.failure, outlet.service = None, Service()
    outlet.service.answer()
    back = watcher.look()
    assert back.problem is None
    assert back.view.rates is None
    outlet.service.answer()
    assert watcher.look().view.rates.requests == 1
