"""What a step costs the worker outside llama.cpp: `python -m loadtests.step_cost`.

Drives the worker's own loop body with the simulated engine, which takes no time, and counts
everything: planning, applying, statistics, encoding and sending the report.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time

import zmq
from rich.console import Console
from rich.table import Table

from service.core.messages import Submit
from service.core.plan import Plan, StepResult
from service.core.sampling import SamplingParams
from service.engine.config import EngineConfig, SimulatedModel, WorkerConfig
from service.engine.roster import Roster
from service.engine.simulated_engine import SimulatedEngine
from service.engine.worker import Channel, Worker
from service.kvcache.size_class import parse_size_classes

SIZES = (1, 2, 4, 8, 16, 32, 64)
PROMPT_LEN = 64


def measure(num_running: int, num_waiting: int, steps: int) -> float:
    """Median seconds of a step of the worker's, less the simulated engine's part."""
    contexts = f"{num_running}x4096"
    config = EngineConfig(
        model_path="", contexts=contexts, threads=1, simulate=SimulatedModel(eog_tokens=())
    )
    with tempfile.TemporaryDirectory() as folder, zmq.Context() as context:
        sink = context.socket(zmq.PULL)
        sink.bind(f"ipc://{folder}/reports")
        channel = Channel(
            WorkerConfig(
                engine=config,
                commands_address=f"ipc://{folder}/commands",
                reports_address=f"ipc://{folder}/reports",
                roster_descriptor=Roster.create().descriptor,
            )
        )
        assert config.simulate is not None
        engine = TimedEngine(config.simulate, parse_size_classes(contexts))
        worker = Worker(engine, config, channel)
        for sequence_id in range(num_running + num_waiting):
            worker.obey(_submit(sequence_id))
        for _ in range(PROMPT_LEN):
            worker.step(time.monotonic())
        costs: list[float] = []
        for _ in range(steps):
            engine.seconds = 0.0
            started = time.monotonic()
            worker.step(started)
            costs.append(time.monotonic() - started - engine.seconds)
            while sink.poll(0):
                sink.recv()
        channel.close()
        sink.close(linger=0)
    return statistics.median(costs)


class TimedEngine(SimulatedEngine):
    """Notes how long it took, so that only what is around an engine is counted."""

    seconds = 0.0

    def execute(self, plan: Plan) -> StepResult:
        started = time.monotonic()
        result = super().execute(plan)
        self.seconds += time.monotonic() - started
        return result


def _submit(sequence_id: int) -> Submit:
    return Submit(
        sequence_id=sequence_id,
        prompt=[sequence_id % 40000 + 3] * PROMPT_LEN,
        sampling=SamplingParams(temperature=0),
        max_tokens=None,
        tenant="",
        session=None,
        share="",
        thinking=None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = [
        {
            "sequences": count,
            "microseconds": measure(count, 0, arguments.steps) * 1e6,
            "with_queue": measure(count, arguments.queued, arguments.steps) * 1e6,
            "allowed": 100 + 30 * count,
        }
        for count in SIZES
    ]
    if arguments.json:
        json.dump(rows, sys.stdout, indent=2)
        return
    table = Table(title="A step outside the engine, microseconds (median)")
    for heading in ("sequences", "step", f"with {arguments.queued:,} queued", "allowed"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            str(row["sequences"]),
            f"{row['microseconds']:.0f}",
            f"{row['with_queue']:.0f}",
            str(row["allowed"]),
        )
    Console().print(table)


if __name__ == "__main__":
    main()
