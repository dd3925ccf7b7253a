"""What a step costs the worker outside llama.cpp: `python -m loadtests.step_cost`.

Drives the worker's own loop body with the simulated engine, which takes no time, and counts
everything: planning, applying, statistics, encoding and sending the report. With a queue, also
where answers of 16 tokens end and others of one tenant or of a thousand begin.
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
SHORT_ANSWER = 16
NUM_TENANTS = 1000


def measure(
    num_running: int,
    num_waiting: int,
    steps: int,
    *,
    num_tenants: int = 1,
    max_tokens: int | None = None,
) -> list[float]:
    """Seconds of each step of the worker's, less the simulated engine's part."""
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
            worker.obey(_submit(sequence_id, f"t{sequence_id % num_tenants}", max_tokens))
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
    return costs


class TimedEngine(SimulatedEngine):
    """Notes how long it took, so that only what is around an engine is counted."""

    seconds = 0.0

    def execute(self, plan: Plan) -> StepResult:
        started = time.monotonic()
        result = super().execute(plan)
        self.seconds += time.monotonic() - started
        return result


def compare(num_running: int, num_queued: int, steps: int) -> dict[str, float]:
    """Microseconds: medians where nothing changes, means where answers end in some steps."""
    alone = measure(num_running, 0, steps)
    queued = measure(num_running, num_queued, steps, num_tenants=NUM_TENANTS)
    # As many steps as the queue lasts for, less some.
    changing = min(steps, (num_queued // num_running - 8) * SHORT_ANSWER)
    changes = [
        measure(num_running, num_queued, changing, num_tenants=tenants, max_tokens=SHORT_ANSWER)
        for tenants in (1, NUM_TENANTS)
    ]
    return {
        "sequences": num_running,
        "microseconds": statistics.median(alone) * 1e6,
        "with_queue": statistics.median(queued) * 1e6,
        "changing_one_tenant": statistics.fmean(changes[0]) * 1e6,
        "changing_many_tenants": statistics.fmean(changes[1]) * 1e6,
        "allowed": 100 + 30 * num_running,
    }


def _submit(sequence_id: int, tenant: str, max_tokens: int | None) -> Submit:
    return Submit(
        sequence_id=sequence_id,
        prompt=[sequence_id % 40000 + 3] * PROMPT_LEN,
        sampling=SamplingParams(temperature=0),
        max_tokens=max_tokens,
        tenant=tenant,
        session=None,
        share=tenant,
        thinking=None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = [compare(count, arguments.queued, arguments.steps) for count in SIZES]
    if arguments.json:
        json.dump(rows, sys.stdout, indent=2)
        return
    table = Table(title="A step outside the engine, microseconds")
    for heading in (
        "sequences",
        "step",
        f"with {arguments.queued:,} queued",
        "and changing",
        f"of {NUM_TENANTS:,} tenants",
        "allowed",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*(f"{figure:.0f}" for figure in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
