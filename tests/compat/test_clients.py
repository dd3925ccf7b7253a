"""Other projects' clients, each in a process of the environment that has them."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLIENTS = Path(__file__).parent / "clients"
PYTHON = ROOT / ".venv-compat" / "bin" / "python"
QUIET = {
    "AGENTS_DISABLE_TRACING": "1",
    "LANGCHAIN_TRACING_V2": "false",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "LITELLM_MODE": "PRODUCTION",  # it would read a .env else
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "OTEL_SDK_DISABLED": "true",
}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("file", [file.name for file in sorted(CLIENTS.glob("test_*.py"))])
def test_a_client_is_content(target, file):
    if not PYTHON.exists():
        pytest.fail(f"{PYTHON} is missing; make setup-dev makes it")
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}  # noqa: TID251 - a child's environment
    done = subprocess.run(
        [PYTHON, "-m", "pytest", "-c", CLIENTS / "pytest.ini", "-q", CLIENTS / file],
        env={**kept, **QUIET, **target.as_environment()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
