"""Asks whether holes are known in the locked packages: `python -m deploy.audit [--if-possible]`.

pip-audit asks an advisory service, and where that does not answer for a package it skips it and
ends well. Here a skipped package is not an audited one. Nothing of it works offline.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_LOCKS = ("requirements.txt", "requirements-llama.txt")
"""What the service runs with; what it is developed and built with serves nobody."""
_ANSWER_SECONDS = 5
"""For the service to answer one question."""
_WHOLE_SECONDS = 120
_TRY_SECONDS = 20
"""The same where it may be skipped."""
_IF_POSSIBLE = "--if-possible"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    holes: Sequence[str]
    num_audited: int
    skipped: Sequence[str]


def main(arguments: Sequence[str]) -> int:
    """0 is sound, 1 has holes, 2 could not be said; with --if-possible that is 0 as well."""
    may_skip = _IF_POSSIBLE in arguments
    output = ask(_LOCKS, _TRY_SECONDS if may_skip else _WHOLE_SECONDS)
    findings = read_findings(output) if output else None
    if findings is None or not findings.num_audited:
        print("audit: skipped: no advisory service answers for these packages from here")
        return 0 if may_skip else 2
    for line in findings.holes:
        print(f"audit: {line}")
    for name in findings.skipped:
        print(f"audit: not audited: {name}")
    print(f"audit: {findings.num_audited} packages, {len(findings.holes)} known holes")
    if findings.holes:
        return 1
    return 2 if findings.skipped and not may_skip else 0


def ask(locks: Sequence[str], seconds: float) -> bytes | None:
    """pip-audit's own words as JSON; None where they did not come in time or are none."""
    files = [option for lock in locks for option in ("--requirement", lock)]
    try:
        asked = subprocess.run(
            [
                Path(sys.executable).with_name("pip-audit"),
                *files,
                "--disable-pip",
                "--require-hashes",
                "--progress-spinner=off",
                "--format=json",
                f"--timeout={_ANSWER_SECONDS}",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=seconds,
            cwd=_ROOT,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout or None


def read_findings(output: bytes) -> Findings:
    packages: list[Mapping[str, Any]] = json.loads(output)["dependencies"]
    audited = [package for package in packages if "skip_reason" not in package]
    return Findings(
        holes=[
            f"{package['name']} {package['version']}: {hole['id']}, mended in "
            f"{', '.join(hole['fix_versions']) or 'no version yet'}"
            for package in audited
            for hole in package["vulns"]
        ],
        num_audited=len(audited),
        skipped=[package["name"] for package in packages if "skip_reason" in package],
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
