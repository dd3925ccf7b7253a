"""The service's Prometheus instruments: a method for each thing that happens.

Intervals, in seconds of the monotonic clock of the API process: queue time is from admission to the
beginning of the step that first runs the sequence; TTFT from admission to the first token; ITL is
each gap between arrivals of tokens, those of one step together; E2E from admission to the last
token; TPOT = (E2E - TTFT) / (tokens - 1).
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, get_args

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service.core.messages import Ready, StepReport
from service.telemetry.rates import RateWindow
from service.telemetry.workers import SizeClass, WorkersCollector

AbortStage = Literal["queued", "prefill", "decode"]
Finish = Literal["stop", "length", "error"]

RATE_WINDOW_SECONDS = 5

_TTFT = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 3, 5, 10, 20, 40, 80)
_ITL = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.4, 1, 4)
_E2E = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 240, 480)
_STEP = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
_BATCH = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128, 256)


class Metrics:
    """Not thread-safe beyond what prometheus_client is; the API process's event loop owns it."""

    def __init__(
        self, registry: CollectorRegistry, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.registry = registry
        self._clock = clock
        self._workers = WorkersCollector(psutil.Process(os.getpid()))
        self._prompt_rate = RateWindow(RATE_WINDOW_SECONDS)
        self._generated_rate = RateWindow(RATE_WINDOW_SECONDS)
        registry.register(self._workers)
        registry.register(_RatesCollector(self._prompt_rate, self._generated_rate, clock))

        def counter(name: str, documentation: str, *labels: str) -> Counter:
            return Counter(f"smolserve_{name}", documentation, labels, registry=registry)

        def seconds(
            name: str, documentation: str, buckets: Sequence[float], *labels: str
        ) -> Histogram:
            full_name = f"smolserve_{name}_seconds"
            return Histogram(full_name, documentation, labels, registry=registry, buckets=buckets)

        self._requests = counter("requests", "Requests admitted")
        self._prompt_tokens = counter("prompt_tokens", "Prompt tokens of requests that began")
        self._cached_tokens = counter("cached_tokens", "Prompt tokens that the cache had")
        self._generated_tokens = counter("generated_tokens", "Tokens generated")
        finished = counter("requests_finished", "Requests that ran to their end", "reason")
        aborts = counter("aborts", "Requests whose client left", "stage")
        self._finished = {reason: finished.labels(reason) for reason in get_args(Finish)}
        self._aborts = {stage: aborts.labels(stage) for stage in get_args(AbortStage)}
        self._rejections = counter("rejections", "Requests refused, by error code", "code")
        self._restarts = counter("worker_restarts", "Workers started again", "worker")
        self._hangs = counter("watchdog_kills", "Workers killed for their silence", "worker")
        self._resubmissions = counter("resubmissions", "Requests sent again after a worker's death")
        self._quarantines = counter("quarantines", "Requests failed because workers died of them")
        self._sessions = Gauge(
            "smolserve_sessions", "Sessions that are remembered", registry=registry
        )
        self._batches = Gauge(
            "smolserve_batches", "Batches that are known", ("status",), registry=registry
        )
        self._batch_lines = counter("batch_lines", "Lines of batches that got a result", "outcome")
        self._drafts = counter("draft_tokens", "Tokens that were guessed and computed ahead")
        self._accepted = counter("accepted_draft_tokens", "Guessed tokens that were right")
        self._embeddings = counter("embeddings", "Texts that were made vectors")
        self._embedding_tokens = counter("embedding_tokens", "Tokens of those texts")
        self._queue = seconds("queue_time", "Admission to first step", _TTFT)
        self._ttft = seconds("time_to_first_token", "Admission to first token", _TTFT)
        self._itl = seconds("inter_token_latency", "Gap between tokens", _ITL)
        self._tpot = seconds("time_per_output_token", "(E2E - TTFT) / (tokens - 1)", _ITL)
        self._e2e = seconds("request_duration", "Admission to last token", _E2E)
        step = seconds("step_duration", "One step of a worker, by what it computed", _STEP, "kind")
        self._step = {kind: step.labels(kind) for kind in ("decode", "prefill", "mixed")}
        spent = counter("step_seconds", "Time of steps, inside llama.cpp and around it", "where")
        self._passes = counter("forward_passes", "Passes through the model that steps took")
        self._inside_llama, self._around_llama = spent.labels("llama"), spent.labels("python")
        self._batch = Histogram(
            "smolserve_batch_sequences",
            "Sequences that run in a step",
            registry=registry,
            buckets=_BATCH,
        )

    def count_sessions(self, count: Callable[[], int]) -> None:
        """`count` is asked when Prometheus asks."""
        self._sessions.set_function(count)

    def request_admitted(self) -> None:
        self._requests.inc()

    def request_began(self, queue_seconds: float) -> None:
        """The step that computes its first chunk began."""
        self._queue.observe(queue_seconds)

    def first_token(
        self, ttft_seconds: float, *, num_prompt_tokens: int, num_cached_tokens: int
    ) -> None:
        self._ttft.observe(ttft_seconds)
        self._prompt_tokens.inc(num_prompt_tokens)
        self._cached_tokens.inc(num_cached_tokens)

    def next_token(self, gap_seconds: float) -> None:
        self._itl.observe(gap_seconds)

    def request_finished(
        self, reason: Finish, *, e2e_seconds: float, ttft_seconds: float, num_tokens: int
    ) -> None:
        self._finished[reason].inc()
        self._e2e.observe(e2e_seconds)
        if num_tokens > 1:
            self._tpot.observe((e2e_seconds - ttft_seconds) / (num_tokens - 1))

    def request_failed(self) -> None:
        """The engine's fault; has no duration worth a histogram."""
        self._finished["error"].inc()

    def request_aborted(self, stage: AbortStage) -> None:
        self._aborts[stage].inc()

    def request_rejected(self, code: str) -> None:
        """`code` is the refusing error's; a small fixed set."""
        self._rejections.labels(code).inc()

    def text_embedded(self, num_tokens: int) -> None:
        self._embeddings.inc()
        self._embedding_tokens.inc(num_tokens)

    def worker_started(self, worker: int, pid: int) -> None:
        self._workers.state(worker).process = psutil.Process(pid)
        # Series that begin at 0: Prometheus sees the first event only as a rise.
        self._restarts.labels(str(worker))
        self._hangs.labels(str(worker))

    def worker_restarted(self, worker: int) -> None:
        self._restarts.labels(str(worker)).inc()

    def worker_hung(self, worker: int) -> None:
        """It had work and said nothing; it is killed."""
        self._hangs.labels(str(worker)).inc()

    def request_resubmitted(self) -> None:
        self._resubmissions.inc()

    def request_quarantined(self) -> None:
        """Failed as well, which `request_failed` counts."""
        self._quarantines.inc()

    def batches_counted(self, num_by_status: Mapping[str, int]) -> None:
        for status, count in num_by_status.items():
            self._batches.labels(status).set(count)

    def batch_lines_ended(self, outcome: str, count: int = 1) -> None:
        """`outcome` is completed or failed, or the ending that came before they ran."""
        self._batch_lines.labels(outcome).inc(count)

    def worker_lost(self, worker: int) -> None:
        """Its gauges fall to zero with its process; its counters stay."""
        self._workers.state(worker).end_life()

    def observe_ready(self, worker: int, ready: Ready, classes: Sequence[SizeClass]) -> None:
        """`classes` in the order of StepStats.classes."""
        state = self._workers.state(worker)
        state.ready = ready
        state.classes = tuple(classes)

    def observe_step(self, worker: int, report: StepReport) -> None:
        stats = report.stats
        state = self._workers.state(worker)
        state.stats = stats
        if stats.cache is not None:
            state.cache.now = stats.cache
        num_generated = sum(len(output.token_ids) for output in report.outputs)
        if num_generated:
            self._generated_tokens.inc(num_generated)
            self._generated_rate.add(num_generated, self._clock())
        if stats.num_draft_tokens:
            self._drafts.inc(stats.num_draft_tokens)
            self._accepted.inc(stats.num_accepted_tokens)
        if stats.num_prefill_tokens:
            self._prompt_rate.add(stats.num_prefill_tokens, self._clock())
            kind = "mixed" if stats.num_decode_tokens else "prefill"
        elif stats.num_decode_tokens:
            kind = "decode"
        else:
            return  # a drained command, which computed nothing
        self._step[kind].observe(stats.step_seconds)
        self._batch.observe(stats.num_running)
        self._passes.inc(stats.num_passes)
        self._inside_llama.inc(stats.decode_seconds)
        self._around_llama.inc(max(0.0, stats.step_seconds - stats.decode_seconds))


class _RatesCollector(Collector):
    def __init__(
        self, prompt: RateWindow, generated: RateWindow, clock: Callable[[], float]
    ) -> None:
        self._prompt = prompt
        self._generated = generated
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        now = self._clock()
        span = f"over the last {RATE_WINDOW_SECONDS} whole seconds"
        yield GaugeMetricFamily(
            "smolserve_prompt_tokens_per_second",
            f"Prompt tokens computed a second, {span}",
            value=self._prompt.rate(now),
        )
        yield GaugeMetricFamily(
            "smolserve_generated_tokens_per_second",
            f"Tokens generated a second, {span}",
            value=self._generated.rate(now),
        )
