"""Loads a server with the users of a scenario: `make loadtest SCENARIO=steady USERS=8`.

Without --url it starts our service, as it is set in the environment, and ends it after.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from loadtests.server import running_service
from loadtests.traffic.arguments import count, scenario_name
from loadtests.traffic.locust_run import API_KEY_VARIABLE, ROOT, LocustRun
from loadtests.traffic.scenarios import SCENARIOS
from service.errors import SettingsError
from service.settings import Settings


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="loadtest",
        description=__doc__,
        epilog="\n".join(f"{each.name}: {each.description}" for each in SCENARIOS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scenario", type=scenario_name, default="steady")
    parser.add_argument("--users", type=count, default=8)
    parser.add_argument("--duration", type=count, default=30, help="seconds")
    parser.add_argument("--url", help="of the server; ours is started where there is none")
    parser.add_argument("--seed", type=int, help="of what is asked; default: another each time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser


@contextmanager
def own_service() -> Iterator[tuple[str, dict[str, str]]]:
    """Its URL, and the environment of a client that it lets in."""
    try:
        keys = [key.get_secret_value() for key in Settings.load().api_keys]
    except SettingsError as error:
        sys.exit(f"loadtest: {error}")
    print("loadtest: starting the service …", file=sys.stderr)
    settings = {"api_keys": ",".join(keys)} if keys else {}
    with running_service(**settings) as (host, port):
        yield f"http://{host}:{port}", {API_KEY_VARIABLE: keys[0]} if keys else {}


def run_locust(run: LocustRun, variables: dict[str, str]) -> int:
    environment = {**os.environ, **variables}  # noqa: TID251 - a script hands its environment on
    return subprocess.run(run.command(), cwd=ROOT, env=environment, check=False).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)

    def load(url: str, variables: dict[str, str]) -> int:
        run = LocustRun(
            url=url,
            scenario=options.scenario,
            users=options.users,
            seconds=options.duration,
            seed=options.seed,
            figures_file=options.json,
        )
        return run_locust(run, variables)

    if options.url:
        return load(options.url, {})
    with own_service() as (url, variables):
        return load(url, variables)


if __name__ == "__main__":
    sys.exit(main())
