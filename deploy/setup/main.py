"""The order of the set-up. Every part does nothing when it is already there."""

import argparse
import dataclasses
import errno
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.setup.environment import Environment
from deploy.setup.errors import SetupError
from deploy.setup.wheel import WheelBuild

ROOT = Path(__file__).resolve().parents[2]
TESTED_MODEL = "smollm2-135m-instruct"
CLIENTS_LOCK = "requirements-compat.txt"


def main(argv: Sequence[str]) -> int:
    arguments = _parse(argv)
    signal.signal(signal.SIGTERM, _exit)  # so that what is half-made is removed
    try:
        prepare(ROOT, os.environ, arguments)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        advice = "; free some space and run it again" if error.errno == errno.ENOSPC else ""
        print(f"setup: {error}{advice}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


def _exit(signum: int, _frame: object) -> None:
    sys.exit(128 + signum)


def prepare(root: Path, env: Mapping[str, str], arguments: argparse.Namespace) -> None:
    backend = env.get("SMOLSERVE_BACKEND") or "cpu"
    if backend not in ("cpu", "cuda"):
        raise SetupError(f"SMOLSERVE_BACKEND is {backend!r}; it must be cpu or cuda")
    portable = env.get("SMOLSERVE_PORTABLE") or "0"
    if portable not in ("0", "1"):
        raise SetupError(f"SMOLSERVE_PORTABLE is {portable!r}; it must be 0 or 1")
    cache = _cache_folder(env)
    environment = Environment(root=root, logs=cache / "logs", env=env)
    environment.make()
    environment.install_packages(dev=arguments.dev)
    environment.install_llama(
        WheelBuild(root=root, cache=cache, backend=backend, env=env, portable=portable == "1")
    )
    environment.install_checkout()
    if arguments.dev:  # the service fetches what it serves by itself
        environment.fetch_model(TESTED_MODEL)
        # Other projects' clients want other versions of what .venv has.
        clients = dataclasses.replace(environment, name=".venv-compat")
        clients.make()
        clients.install_clients(CLIENTS_LOCK, uv=environment.folder / "bin" / "uv")


def _cache_folder(env: Mapping[str, str]) -> Path:
    chosen = env.get("SMOLSERVE_SETUP_CACHE") or env.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(chosen).expanduser().absolute() / "smolserve"


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m deploy.setup", description=__doc__)
    what = "install the development tools as well, and fetch the model that the tests run"
    parser.add_argument("--dev", action="store_true", help=what)
    return parser.parse_args(argv)
