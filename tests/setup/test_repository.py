"""What the packaging files promise each other."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = (
    "requirements.txt",
    "requirements-dev.txt",
    "requirements-build.txt",
    "requirements-compat.txt",
    "requirements-llama.txt",
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def read_lock(name: str) -> dict[str, set[str]]:
    """Package to its pinned versions; some packages have one per Python version."""
    pins: dict[str, set[str]] = {}
    text = (ROOT / name).read_text()
    for package, version in re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE):
        pins.setdefault(package, set()).add(version)
    return pins


def names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[=<>~! ;]", text)[0].lower() for text in requirements}


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_index_and_hashes_everything(name):
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert not re.search(r"^\s*--(?!hash=sha256:)", text, re.MULTILINE)
    blocks = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())
    assert all("==" in block and "--hash=sha256:" in block for block in blocks)


def test_the_locks_hold_what_the_project_asks_for():
    compiled = {"llama-cpp-python"}
    assert names_of(PROJECT["dependencies"]) - compiled <= set(read_lock("requirements.txt"))
    extra = names_of(PROJECT["optional-dependencies"]["dev"])
    assert extra <= set(read_lock("requirements-dev.txt"))
    clients = (ROOT / "tests" / "compat" / "requirements.in").read_text().splitlines()
    asked = names_of([line for line in clients if not line.startswith("#")])
    assert asked <= set(read_lock("requirements-compat.txt"))


def test_llama_cpp_python_is_in_a_lock_of_its_own():
    assert read_lock("requirements-llama.txt") == {"llama-cpp-python": {"0.3.36"}}
    assert all("llama-cpp-python" not in read_lock(name) for name in LOCKS[:4])
    assert {"diskcache", "jinja2", "numpy", "typing-extensions"} <= set(
        read_lock("requirements.txt")
    )


def test_the_development_lock_agrees_with_the_runtime_lock():
    development = read_lock("requirements-dev.txt")
    assert {name: development.get(name) for name in read_lock("requirements.txt")} == read_lock(
        "requirements.txt"
    )


def test_every_make_target_in_the_readme_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    readme = (ROOT / "README.md").read_text()
    code = re.findall(r"```.*?```|`[^`\n]+`|^ {4}[^\n]*$", readme, re.DOTALL | re.MULTILINE)
    used = set(re.findall(r"\bmake ([a-z-]+)", "\n".join(code)))
    assert {"serve", "test"} <= used <= targets


def test_settings_given_to_make_reach_the_service_as_environment():
    command = [
        "make",
        "--eval",
        "show: ; @env",
        "show",
        "PORT=9000",
        "ENGINE__THREADS=4",
        "PYTHON=p",
        "MINUTES=3",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "SMOLSERVE_PORT=9000\n" in done.stdout
    assert "SMOLSERVE_ENGINE__THREADS=4\n" in done.stdout
    assert "SMOLSERVE_PYTHON" not in done.stdout
    assert "SMOLSERVE_MINUTES" not in done.stdout


def test_the_ci_script_can_be_run():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)


def test_what_the_image_copies_exists_and_is_not_ignored():
    dockerfile = (ROOT / "Dockerfile").read_text()
    sources = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    allowed = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    for source in " ".join(sources).split():
        assert list(ROOT.glob(source)), source
        assert any(source == name or source.startswith(f"{name}/") for name in allowed), source


def test_the_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
