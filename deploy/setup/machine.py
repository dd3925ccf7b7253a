"""What of this machine decides how llama.cpp is compiled."""

import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from deploy.setup.errors import SetupError

_GIB = 1 << 30


def architecture() -> str:
    return platform.machine()


def cpu_features() -> str:
    """The architecture and the feature flags that the kernel reports; native code needs them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return " ".join([architecture(), *sorted(flags[1].split() if flags else [])])


def libc() -> str:
    return " ".join(platform.libc_ver())


def require_compiler(env: Mapping[str, str]) -> str:
    """The C++ compiler's kind and major version.

    Raises:
        SetupError: there is none, or it cannot link a program of one line.
    """
    cxx = env.get("CXX") or _find(env, "c++", "g++", "clang++")
    cc = env.get("CC") or _find(env, "cc", "gcc", "clang")
    advice = "install one with: sudo apt install build-essential"
    if cxx is None or cc is None:
        raise SetupError(f"no C{'++' if cxx is None else ''} compiler on PATH; {advice}")
    program = "#include <vector>\nint main() { return std::vector<int>(1).front(); }\n"
    with tempfile.TemporaryDirectory() as scratch:
        command = [*cxx.split(), "-x", "c++", "-", "-o", f"{scratch}/a.out"]
        if _run(command, env, program) is None:
            raise SetupError(f"the C++ compiler {cxx} cannot build a program of one line; {advice}")
    macros = _run([*cxx.split(), "-dM", "-E", "-x", "c++", os.devnull], env) or ""
    version = re.search(r"#define (__clang_major__) (\d+)", macros) or re.search(
        r"#define (__GNUC__) (\d+)", macros
    )
    return " ".join(version.groups()) if version else "unknown"


def require_nvcc(env: Mapping[str, str]) -> str:
    """Path of CUDA's compiler.

    Raises:
        SetupError: there is none.
    """
    home = env.get("CUDA_HOME") or "/usr/local/cuda"
    found = _find(env, env.get("CUDACXX") or "nvcc", f"{home}/bin/nvcc")
    if found is not None:
        return found
    raise SetupError(
        "SMOLSERVE_BACKEND=cuda needs nvcc, and none is on PATH, in CUDACXX or in CUDA_HOME; "
        "install the CUDA toolkit (sudo apt install nvidia-cuda-toolkit, or NVIDIA's own packages)"
    )


def require_cuda_gpus(env: Mapping[str, str]) -> str:
    """The architectures of the GPUs here, as CMake writes them: 80;90.

    Raises:
        SetupError: there is no GPU to ask.
    """
    listed = _run(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"], env) or ""
    found = {line.strip().replace(".", "") for line in listed.splitlines()}
    if architectures := ";".join(sorted(arch for arch in found if arch.isdigit())):
        return architectures
    raise SetupError(
        "nvidia-smi shows no GPU to build for; say for which ones to build, "
        "for example CUDAARCHS='80;90' for A100 and H100"
    )


def num_build_jobs(gib_per_job: int) -> int:
    """As many compilers at once as there are cores, and memory for."""
    try:
        num_cores = len(os.sched_getaffinity(0))
        memory = Path("/proc/meminfo").read_text()
    except (AttributeError, OSError):
        return os.cpu_count() or 1
    available = re.search(r"^MemAvailable:\s*(\d+) kB", memory, re.MULTILINE)
    if available is None:
        return num_cores
    return max(1, min(num_cores, int(available[1]) * 1024 // (gib_per_job * _GIB)))


def require_space(folder: Path, gib: float, purpose: str) -> None:
    """Raise SetupError unless the disk that `folder` is (or will be) on has `gib` GiB free."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / _GIB
    if free < gib:
        raise SetupError(
            f"{purpose} needs {gib:g} GiB free in {existing}, which has {free:.1f}; "
            "free some space and run it again"
        )


def _find(env: Mapping[str, str], *names: str) -> str | None:
    path = env.get("PATH", os.defpath)
    return next(filter(None, (shutil.which(name, path=path) for name in names)), None)


def _run(command: list[str], env: Mapping[str, str], stdin: str = "") -> str | None:
    """What `command` prints, or None when it fails."""
    try:
        done = subprocess.run(
            command, env=dict(env), input=stdin, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout
