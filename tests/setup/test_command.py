"""`python3 -m deploy.setup` as a newcomer meets it: one line on stderr, exit code not 0."""

import ast
import dataclasses
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy.setup.environment import Environment
from deploy.setup.errors import SetupError
from deploy.setup.main import CLIENTS_LOCK
from deploy.setup.wheel import WheelBuild

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.txt", "requirements-dev.txt")


def build_checkout(folder: Path) -> Path:
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    for file in (*ROOT.glob("requirements*.txt"), ROOT / "pyproject.toml"):
        shutil.copy(file, folder)
    return folder


def install_everything_but_llama(checkout: Path) -> None:
    """An environment that says it is complete, but for llama-cpp-python."""
    binaries = checkout / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (checkout / ".venv" / "pyvenv.cfg").write_text(f"version = {platform.python_version()}\n")
    for name in ("python", "pip", "smolserve"):
        (binaries / name).write_text("#!/bin/sh\n")
        (binaries / name).chmod(0o755)
    stamps = {name: digest(checkout / name) for name in LOCKS}
    stamps["checkout"] = digest(checkout / "pyproject.toml")
    (checkout / ".venv" / "smolserve-setup.json").write_text(json.dumps(stamps))
    shutil.copytree(checkout / ".venv", checkout / ".venv-compat")
    clients = {CLIENTS_LOCK: digest(checkout / CLIENTS_LOCK)}
    (checkout / ".venv-compat" / "smolserve-setup.json").write_text(json.dumps(clients))


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def run_setup(
    checkout: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.defpath, "SMOLSERVE_SETUP_CACHE": f"{checkout}/cache", **variables}
    command = [sys.executable, "-m", "deploy.setup", *arguments]
    return subprocess.run(
        command, cwd=checkout, env=env, capture_output=True, text=True, check=False
    )


def test_a_missing_compiler_is_one_line_that_says_what_to_install(tmp_path):
    checkout = build_checkout(tmp_path / "checkout")
    install_everything_but_llama(checkout)
    (tmp_path / "empty").mkdir()
    done = run_setup(checkout, PATH=f"{tmp_path}/empty")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "setup: no C++ compiler on PATH; install one with: sudo apt install build-essential"
    ]


def test_a_build_that_is_ended_leaves_nothing_half_made(tmp_path):
    checkout = build_checkout(tmp_path / "checkout")
    install_everything_but_llama(checkout)
    for compiler in ("c++", "cc"):
        (tmp_path / compiler).write_text("#!/bin/sh\n")
        (tmp_path / compiler).chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.defpath}", "SMOLSERVE_SETUP_CACHE": f"{tmp_path}"}
    wheels = tmp_path / "smolserve" / "wheels"
    with subprocess.Popen([sys.executable, "-m", "deploy.setup"], cwd=checkout, env=env) as child:
        while not list(wheels.glob(".building-*/tools")):
            assert child.poll() is None
        child.terminate()
    assert child.returncode == 143
    assert list(wheels.iterdir()) == []


def test_an_unknown_backend_is_one_line(tmp_path):
    done = run_setup(build_checkout(tmp_path / "checkout"), SMOLSERVE_BACKEND="tpu")
    assert done.returncode == 1
    assert done.stderr == "setup: SMOLSERVE_BACKEND is 'tpu'; it must be cpu or cuda\n"


@pytest.mark.parametrize("value", ["yes", "2"])
def test_an_unknown_answer_to_portable_is_one_line(tmp_path, value):
    done = run_setup(build_checkout(tmp_path / "checkout"), SMOLSERVE_PORTABLE=value)
    assert done.returncode == 1
    assert done.stderr == f"setup: SMOLSERVE_PORTABLE is {value!r}; it must be 0 or 1\n"


def test_a_complete_set_up_does_nothing_and_says_nothing(tmp_path):
    checkout = build_checkout(tmp_path / "checkout")
    install_everything_but_llama(checkout)
    stamps_file = checkout / ".venv" / "smolserve-setup.json"
    (checkout / "models").mkdir()
    (checkout / "models" / "smollm2-135m-instruct.gguf").write_bytes(b"GGUF")
    for portable in (False, True):
        build = WheelBuild(root=checkout, cache=tmp_path, backend="cpu", env={}, portable=portable)
        stamps = {**json.loads(stamps_file.read_text()), "llama": build.identity()}
        stamps_file.write_text(json.dumps(stamps))
        for arguments in ((), ("--dev",)):
            done = run_setup(checkout, *arguments, PATH="", SMOLSERVE_PORTABLE=f"{portable:d}")
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (checkout / "cache").exists()


def test_a_model_that_cannot_be_fetched_fails_the_set_up(tmp_path):
    checkout = build_checkout(tmp_path / "checkout")
    install_everything_but_llama(checkout)
    stamps_file = checkout / ".venv" / "smolserve-setup.json"
    build = WheelBuild(root=checkout, cache=tmp_path, backend="cpu", env={})
    stamps_file.write_text(
        json.dumps({**json.loads(stamps_file.read_text()), "llama": build.identity()})
    )
    (checkout / ".venv" / "bin" / "smolserve").write_text("#!/bin/sh\necho why >&2\nexit 1\n")
    done = run_setup(checkout, "--dev")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "why"


def test_a_python_that_is_too_old_is_one_line():
    old = "import sys, runpy; sys.version_info = (3, 9, 2, 'final', 0);"
    run = "runpy.run_module('deploy.setup', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", old + run], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "needs Python 3.11 or newer" in done.stderr
    assert "make serve PYTHON=python3.11" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["__init__.py", "__main__.py"])
def test_what_is_read_before_the_version_is_checked_parses_on_an_old_python(name):
    ast.parse((ROOT / "deploy" / "setup" / name).read_text(), feature_version=(3, 7))


def build_environment(folder: Path) -> Environment:
    return Environment(root=folder, logs=folder / "logs", env={"PATH": os.defpath})


def test_a_python_without_ensurepip_is_named_with_its_package(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ensurepip" else find_spec(name)
    )
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    with pytest.raises(SetupError, match=f"sudo apt install python{version}-venv"):
        build_environment(tmp_path).make()
    assert not (tmp_path / ".venv").exists()


def test_a_full_disk_is_found_before_the_environment_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(SetupError, match="needs 1 GiB free"):
        build_environment(tmp_path).make()
    assert not (tmp_path / ".venv").exists()


def test_clients_are_installed_by_uv_or_else_by_pip(tmp_path):
    (tmp_path / "clients.txt").write_text("# none\n")
    environment = dataclasses.replace(build_environment(tmp_path), name=".venv-clients")
    environment.make()
    for uv, installed in (("true", "clients.txt"), ("false", "clients.txt-with-pip")):
        (tmp_path / ".venv-clients" / "smolserve-setup.json").unlink(missing_ok=True)
        environment.install_clients("clients.txt", uv=Path(shutil.which(uv) or uv))
        assert (tmp_path / "logs" / f"installing-{installed}.log").exists()
    environment.install_clients("clients.txt", uv=Path("not asked"))


def test_an_environment_of_another_python_is_made_anew(tmp_path):
    environment = build_environment(tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "pyvenv.cfg").write_text("version = 3.11.0\n")
    (tmp_path / ".venv" / "stale").touch()
    environment.make()
    assert not (tmp_path / ".venv" / "stale").exists()
    assert (tmp_path / ".venv" / "bin" / "pip").exists()


def test_without_python_make_says_what_to_install():
    command = ["make", "serve", "PYTHON=python-of-nobody"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "setup: no python-of-nobody on PATH; install one with: sudo apt" in done.stderr
