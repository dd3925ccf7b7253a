"""llama-cpp-python, compiled once, for this machine or for any, and kept as a wheel.

PyPI has its source only. The wheel is `py3-none`: it loads llama.cpp through ctypes, so one serves
every version of Python. It is kept outside the checkout, for every checkout of this user.
"""

import fcntl
import hashlib
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.setup import machine
from deploy.setup.console import run_logged, say
from deploy.setup.errors import SetupError

_INCLUDE = "-DCMAKE_PROJECT_llama_cpp_INCLUDE="
# GCC takes _tile_loadconfig to read 8 of the 64 bytes it reads, removes the stores to the other 56
# as dead, and the first batch on a CPU with AMX ends in SIGSEGV. Without dead-store elimination the
# code is right, and AMX four times as fast at prompts as AVX-512.
_CXX_FLAGS = "-DCMAKE_CXX_FLAGS=-fno-tree-dse -fno-dse"
_VARIANTS: tuple[str, ...] = (
    "-DGGML_BACKEND_DL=ON",
    "-DGGML_CPU_ALL_VARIANTS=ON",
    # The package installs libraries that it knows by name; ggml puts its modules with programs.
    "-DCMAKE_INSTALL_BINDIR=llama_cpp/lib",
)
_BUILD_GIB = 2.0
_NINJA_COUNTER = r"\[\d+/\d+\]"


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelBuild:
    """Which wheel this machine wants, and where it is kept.

    A `portable` one runs on other CPUs as well. On x86-64 its backends are modules that are loaded
    at run time: the CPU code of each generation, of which ggml takes the best that the CPU can run,
    and CUDA, so that such a wheel can be built and tried where there is no driver. Elsewhere there
    is one build, for what every CPU of the architecture has.
    """

    root: Path
    cache: Path
    backend: str
    env: Mapping[str, str]
    portable: bool = False

    def identity(self) -> str:
        """Changes when the installed wheel no longer fits: version, flags, CPU or C library."""
        parts = [
            self._requirements.read_text(),
            *(file.read_text() for file in self._cmake_files),
            *self._flags(),
            machine.architecture() if self.portable else machine.cpu_features(),
            machine.libc(),
        ]
        return _digest(parts)

    def obtain(self, log: Path) -> Path:
        """The wheel from the cache, built first if it is not there.

        Raises:
            SetupError: something that the build needs is missing, or it failed; the cache is then
                as it was.
        """
        compiler = machine.require_compiler(self.env)
        flags = self._flags() + (self._detect_cuda() if self.backend == "cuda" else [])
        folder = self.cache / "wheels" / _digest([self.identity(), compiler, *flags])
        if (wheel := _wheel_in(folder)) is not None:
            say(f"llama-cpp-python: reusing the wheel built before, {wheel}")
            return wheel
        with _locked(self.cache):
            if (wheel := _wheel_in(folder)) is None:
                machine.require_space(self.cache, _BUILD_GIB, "building llama-cpp-python")
                self._build(folder, log, flags)
                wheel = _wheel_in(folder)
        if wheel is None:
            raise SetupError(f"building llama-cpp-python left no wheel. Full log: {log}")
        return wheel

    def _build(self, folder: Path, log: Path, flags: list[str]) -> None:
        wheels = folder.parent
        wheels.mkdir(parents=True, exist_ok=True)
        for left_over in wheels.glob(
            ".building-*"
        ):  # of a set-up that was killed: we hold the lock
            shutil.rmtree(left_over, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=wheels) as name:
            scratch = Path(name)
            env = self._build_env(scratch, flags)
            python = self._make_build_tools(scratch, env, log.with_name("build-tools.log"))
            pip_wheel = [
                *(python, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-build-isolation"),
                "--no-cache-dir",  # pip's own cache of built wheels knows nothing of our flags
                *("--require-hashes", "-r", f"{self._requirements}"),
                *("--wheel-dir", f"{scratch}/out"),
            ]
            which = "any" if self.portable else "this"
            title = f"building llama-cpp-python for {which} {self.backend.upper()}, minutes, once"
            run_logged(title, pip_wheel, log=log, env=env, counter=_NINJA_COUNTER)
            shutil.rmtree(folder, ignore_errors=True)
            (scratch / "out").rename(folder)

    def _make_build_tools(self, scratch: Path, env: Mapping[str, str], log: Path) -> str:
        """A throw-away environment with the locked CMake, ninja and build backend."""
        python = f"{scratch}/tools/bin/python"
        make_venv = [sys.executable, "-m", "venv", f"{scratch}/tools"]
        run_logged("making an environment for the build", make_venv, log=log, env=env)
        lock = f"{self.root / 'requirements-build.txt'}"
        install = [python, "-m", "pip", "install", "--require-hashes", "-r", lock]
        run_logged("installing the build tools", install, log=log, env=env)
        return python

    def _build_env(self, scratch: Path, flags: list[str]) -> dict[str, str]:
        temporary = scratch / "tmp"
        temporary.mkdir()
        jobs = machine.num_build_jobs(gib_per_job=3 if self.backend == "cuda" else 1)
        return {
            "CMAKE_BUILD_PARALLEL_LEVEL": str(jobs),
            **self.env,
            "CMAKE_ARGS": shlex.join([f"{_INCLUDE}{self._cmake_files[-1]}", *flags]),
            "PATH": f"{scratch}/tools/bin{os.pathsep}{self.env.get('PATH', os.defpath)}",
            "TMPDIR": str(temporary),  # the build's gigabytes go where the space was checked
        }

    def _detect_cuda(self) -> list[str]:
        """What only CUDA's tools can say; asked before a build, not at every start."""
        flags = [f"-DCMAKE_CUDA_COMPILER={machine.require_nvcc(self.env)}"]
        if not self._chosen_architectures():
            flags.append(f"-DCMAKE_CUDA_ARCHITECTURES={machine.require_cuda_gpus(self.env)}")
        return flags

    def _flags(self) -> list[str]:
        flags = [
            "-DLLAVA_BUILD=OFF",  # the multimodal library; not used here, 3 minutes of compiling
            # This CPU's instructions: CMake's default as well, unless SOURCE_DATE_EPOCH is set.
            f"-DGGML_NATIVE={'OFF' if self.portable else 'ON'}",
            _CXX_FLAGS,
            *(_VARIANTS if self._has_variants else ()),
        ]
        if self.backend == "cuda":
            flags.append("-DGGML_CUDA=ON")
            if chosen := self._chosen_architectures():
                flags.append(f"-DCMAKE_CUDA_ARCHITECTURES={chosen}")
        return [*flags, *shlex.split(self.env.get("CMAKE_ARGS", ""))]

    def _chosen_architectures(self) -> str | None:
        return self.env.get("CUDAARCHS") or self.env.get("CMAKE_CUDA_ARCHITECTURES")

    @property
    def _requirements(self) -> Path:
        return self.root / "requirements-llama.txt"

    @property
    def _has_variants(self) -> bool:
        return self.portable and machine.architecture() == "x86_64"

    @property
    def _cmake_files(self) -> list[Path]:
        """The last includes the others."""
        names = ["llama.cmake", "variants.cmake"] if self._has_variants else ["llama.cmake"]
        return [self.root / "deploy" / "setup" / name for name in names]


def _wheel_in(folder: Path) -> Path | None:
    return next(iter(folder.glob("*.whl")), None)


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """One build at a time; a second set-up waits and then finds the wheel."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up is building llama-cpp-python; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
