"""Runs locust with a scenario in a process of its own, since it changes the one that it is in."""

import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
API_KEY_VARIABLE = "LOADTEST_API_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocustRun:
    url: str
    scenario: str
    users: int
    seconds: int
    seed: int | None = None
    figures_file: Path | None = None

    def command(self) -> list[str]:
        """To be run in `ROOT`; the API key is in the environment."""
        command = [
            *(sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py"),
            *("--headless", "--only-summary", "--loglevel", "WARNING"),
            *("--host", self.url, "--scenario", self.scenario),
            *("--users", str(self.users), "--spawn-rate", str(self.users)),
            *("--run-time", f"{self.seconds}s"),
        ]
        if self.seed is not None:
            command += ["--seed", str(self.seed)]
        if self.figures_file is not None:
            command += ["--figures-file", str(self.figures_file.absolute())]
        return command
