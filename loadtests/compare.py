"""Servers side by side: `python -m loadtests.compare ours=http://127.0.0.1:8000 http://…:8080`.

Every scenario runs against every server in turn, one at a time, and that several rounds long, so
that what else the machine does meets all of them alike. Within a round all are asked the same; each
round asks something else, so that nothing is found in a cache. The order of the servers changes
from round to round.

Writes into the folder: comparison.md and comparison.json, and a plot for each of TTFT, ITL and
tokens per second. LOADTEST_API_KEY is the key for all servers.
"""

import argparse
import json
import random
import subprocess
import sys
from argparse import ArgumentTypeError
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from loadtests.traffic.arguments import count, scenario_name
from loadtests.traffic.comparison import Comparison, Run
from loadtests.traffic.figures import ALL, show_number
from loadtests.traffic.locust_run import ROOT, LocustRun
from loadtests.traffic.plots import draw_plots
from loadtests.traffic.scenarios import SCENARIOS
from loadtests.traffic.target import TargetError, trim_url


def named_url(text: str) -> tuple[str, str]:
    """`name=URL`, or a URL that is its own name."""
    name, equals, url = text.partition("=")
    is_named = bool(equals) and "/" not in name
    try:
        trimmed = trim_url(url if is_named else text)
    except TargetError as error:
        raise ArgumentTypeError(str(error)) from None
    return (name if is_named else trimmed.partition("//")[2]), trimmed


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("servers", nargs="+", type=named_url, metavar="[NAME=]URL")
    parser.add_argument(
        "--scenarios", nargs="+", type=scenario_name, default=list(SCENARIOS), metavar="SCENARIO"
    )
    parser.add_argument("--users", type=count, default=8)
    parser.add_argument("--duration", type=count, default=20, help="seconds of each run")
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--seed", type=int, help="of what is asked; default: another each time")
    parser.add_argument("--output", type=Path, default=ROOT / ".cache" / "comparison")
    return parser


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = build_parser()
    options = parser.parse_args(arguments)
    names = [name for name, _ in options.servers]
    for name in names:
        if names.count(name) > 1:
            parser.error(f"two servers are called {name!r}; give each a name of its own: NAME=URL")
    return options


def order_servers(servers: Mapping[str, str], round_number: int) -> list[str]:
    """Another one begins each round."""
    names = list(servers)
    start = round_number % len(names)
    return names[start:] + names[:start]


def measure(run: LocustRun) -> Mapping[str, Mapping]:
    """The figures of one run. Exits with what locust said if there are none."""
    assert run.figures_file is not None
    run.figures_file.unlink(missing_ok=True)
    done = subprocess.run(run.command(), cwd=ROOT, capture_output=True, text=True, check=False)
    if not run.figures_file.exists():
        sys.exit(f"compare: {run.scenario} at {run.url} gave no figures:\n{done.stderr}")
    return json.loads(run.figures_file.read_text())["figures"]


def run_all(options: argparse.Namespace, console: Console) -> list[Run]:
    servers = dict(options.servers)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    runs: list[Run] = []
    with TemporaryDirectory() as folder:
        for round_number in range(options.rounds):
            for scenario in options.scenarios:
                for server in order_servers(servers, round_number):
                    run = LocustRun(
                        url=servers[server],
                        scenario=scenario,
                        users=options.users,
                        seconds=options.duration,
                        seed=seed + round_number,
                        figures_file=Path(folder) / "figures.json",
                    )
                    figures = measure(run)
                    runs.append(Run(scenario, server, round_number, figures))
                    say_progress(runs[-1], options.rounds, console)
    return runs


def say_progress(run: Run, num_rounds: int, console: Console) -> None:
    figures = run.figures[ALL]
    ttft = figures["ttft_ms"]
    failed = f", {figures['num_failed']} failed" if figures["num_failed"] else ""
    why = f": {figures['first_error']}" if failed else ""
    console.print(
        f"round {run.round_number + 1} of {num_rounds}, {run.scenario}, {run.server}: "
        f"{figures['tokens_per_second']:.1f} tokens/s, "
        f"TTFT p50 {show_number(ttft and ttft['p50'])} ms{failed}{why}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def write(comparison: Comparison, options: argparse.Namespace) -> list[Path]:
    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comparison.md").write_text(comparison.to_markdown())
    document = {
        "servers": dict(options.servers),
        "users": options.users,
        "seconds of a run": options.duration,
        "rounds": options.rounds,
        "results": comparison.to_json(),
    }
    (folder / "comparison.json").write_text(json.dumps(document, indent=2) + "\n")
    plots = draw_plots(comparison, folder)
    return [folder / "comparison.md", folder / "comparison.json", *plots]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    runs = run_all(options, Console(stderr=True))
    comparison = Comparison([name for name, _ in options.servers], runs)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(comparison.build_table())
    for path in write(comparison, options):
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
