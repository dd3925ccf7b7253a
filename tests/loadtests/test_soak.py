"""The short form of the soak: three minutes of mixed load with faults on the embedded model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_nothing_is_lost_and_nothing_grows_in_three_minutes_with_faults(tmp_path):
    plot = tmp_path / "soak.png"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "loadtests.soak", "--minutes", "3"),
            *("--plot", str(plot), "--json"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr[-4000:]
    findings = json.loads(done.stdout)
    failed = [check for check in findings["checks"] if not check["holds"]]
    assert (failed, findings["wrongs"]) == ([], [])
    assert done.returncode == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert {fault["name"] for fault in findings["faults"]} == {
        "kill worker",
        "hang worker",
        "damage files",
        "burst",
        "silent connections",
        "delete sessions",
    }
