"""What callers with a name have used, read when Prometheus asks."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerUse:
    """Since the start."""

    num_requests: int
    num_refused: int
    num_tokens: int


class CallersCollector(Collector):
    """Names come from the operator's file, so there are as many series as it has callers."""

    def __init__(self) -> None:
        self.read: Callable[[], Mapping[str, CallerUse]] = dict

    def collect(self) -> Iterator[Metric]:
        requests = _counter("requests", "Requests of a caller that were read")
        refusals = _counter("refusals", "Requests of a caller that its limits refused")
        tokens = _counter("tokens", "Tokens of a caller's requests, prompts and answers")
        for name, use in self.read().items():
            requests.add_metric([name], use.num_requests)
            refusals.add_metric([name], use.num_refused)
            tokens.add_metric([name], use.num_tokens)
        yield from (requests, refusals, tokens)


def _counter(noun: str, documentation: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"smolserve_caller_{noun}", documentation, labels=("caller",))
