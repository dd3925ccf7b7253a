import os
import re
import shlex
import shutil
import stat
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy.setup import machine
from deploy.setup.errors import SetupError
from deploy.setup.wheel import WheelBuild

ROOT = Path(__file__).parents[2]

# Stands in for Python: "makes" environments that hold itself, and builds wheels that say how.
FAKE_PYTHON = """#!/bin/sh
case "$*" in
"-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
"-m pip wheel "*)
    echo "[1/2] compiling"; echo "[2/2] linking"
    test -z "$FAKE_FAILURE" || { echo "$FAKE_FAILURE"; exit 1; }
    while test "$1" != --wheel-dir; do shift; done
    mkdir -p "$2"; env > "$2/llama_cpp_python-0-py3-none-any.whl" ;;
esac
"""


def write_script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture(autouse=True)
def fake_python(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(write_script(tmp_path / "python", FAKE_PYTHON)))


def build_env(tmp_path: Path, **variables: str) -> dict[str, str]:
    """The machine's own tools, but a compiler that is quick and always content."""
    write_script(tmp_path / "bin" / "c++", '#!/bin/sh\necho "#define __GNUC__ 12"\n')
    write_script(tmp_path / "bin" / "cc", "#!/bin/sh\n")
    return {"PATH": f"{tmp_path}/bin:{os.defpath}", **variables}


def obtain(
    tmp_path: Path, env: dict[str, str], backend: str = "cpu", *, portable: bool = False
) -> Path:
    build = WheelBuild(
        root=ROOT, cache=tmp_path / "cache", backend=backend, env=env, portable=portable
    )
    return build.obtain(tmp_path / "logs" / "llama.log")


def cmake_arguments(wheel: Path) -> list[str]:
    [line] = re.findall(r"^CMAKE_ARGS=(.*)$", wheel.read_text(), re.MULTILINE)
    return shlex.split(line)


def names_in_cache(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "cache" / "wheels").glob("*")]


def test_the_wheel_is_built_once_and_then_reused(tmp_path, capsys):
    first = obtain(tmp_path, build_env(tmp_path))
    assert "reusing" not in capsys.readouterr().out
    assert obtain(tmp_path, build_env(tmp_path, FAKE_FAILURE="not asked")) == first
    assert "reusing" in capsys.readouterr().out


def test_two_set_ups_at_once_build_once(tmp_path, capsys):
    arguments = (tmp_path, build_env(tmp_path))
    threads = [threading.Thread(target=obtain, args=arguments) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert capsys.readouterr().out.count("building llama-cpp-python for this CPU") == 1
    assert len(names_in_cache(tmp_path)) == 1


def test_the_build_has_the_flags_that_keep_amx_right_and_leave_out_what_is_not_used(tmp_path):
    for portable in (False, True):
        include, *arguments = cmake_arguments(
            obtain(tmp_path, build_env(tmp_path), portable=portable)
        )
        assert "-DLLAVA_BUILD=OFF" in arguments
        assert "-DCMAKE_CXX_FLAGS=-fno-tree-dse -fno-dse" in arguments
        file = Path(include.partition("=")[2])
        assert file.name == "llama.cmake" or "/llama.cmake" in file.read_text()


def test_a_portable_build_has_the_cpu_code_of_every_generation(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "architecture", lambda: "x86_64")
    native = cmake_arguments(obtain(tmp_path, build_env(tmp_path)))
    portable = cmake_arguments(obtain(tmp_path, build_env(tmp_path), portable=True))
    assert "-DGGML_NATIVE=ON" in native
    assert "-DGGML_CPU_ALL_VARIANTS=ON" not in native
    assert portable[0].endswith("/variants.cmake")
    assert {"-DGGML_NATIVE=OFF", "-DGGML_BACKEND_DL=ON", "-DGGML_CPU_ALL_VARIANTS=ON"} <= set(
        portable
    )
    assert "-DCMAKE_INSTALL_BINDIR=llama_cpp/lib" in portable  # where llama_cpp keeps libllama


def test_a_portable_build_for_cuda_needs_no_driver_to_be_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "architecture", lambda: "x86_64")
    write_script(tmp_path / "bin" / "nvcc", "#!/bin/sh\n")
    env = build_env(tmp_path, CUDAARCHS="90")
    arguments = cmake_arguments(obtain(tmp_path, env, "cuda", portable=True))
    assert {"-DGGML_CUDA=ON", "-DGGML_BACKEND_DL=ON"} <= set(arguments)


def test_a_portable_build_for_another_architecture_has_what_all_of_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "architecture", lambda: "aarch64")
    include, *arguments = cmake_arguments(obtain(tmp_path, build_env(tmp_path), portable=True))
    assert include.endswith("/llama.cmake")
    assert "-DGGML_NATIVE=OFF" in arguments
    assert "-DGGML_BACKEND_DL=ON" not in arguments


def test_a_portable_wheel_serves_every_cpu_of_the_architecture(tmp_path, monkeypatch):
    here = obtain(tmp_path, build_env(tmp_path), portable=True)
    monkeypatch.setattr(machine, "cpu_features", lambda: "x86_64 sse2")
    assert obtain(tmp_path, build_env(tmp_path), portable=True) == here
    monkeypatch.setattr(machine, "architecture", lambda: "riscv64")
    assert obtain(tmp_path, build_env(tmp_path), portable=True) != here


def test_the_users_own_flags_come_last_and_give_another_wheel(tmp_path):
    plain = obtain(tmp_path, build_env(tmp_path))
    other = obtain(tmp_path, build_env(tmp_path, CMAKE_ARGS="-DGGML_NATIVE=OFF"))
    assert plain != other
    assert cmake_arguments(other)[-1] == "-DGGML_NATIVE=OFF"


def test_another_cpu_gives_another_wheel(tmp_path, monkeypatch):
    here = obtain(tmp_path, build_env(tmp_path))
    monkeypatch.setattr(machine, "cpu_features", lambda: "x86_64 sse2")
    assert obtain(tmp_path, build_env(tmp_path)) != here


def test_another_compiler_gives_another_wheel_but_an_installed_one_still_fits(tmp_path):
    gcc_12 = obtain(tmp_path, build_env(tmp_path))
    env = build_env(tmp_path)
    build = WheelBuild(root=ROOT, cache=tmp_path / "cache", backend="cpu", env=env)
    identity = build.identity()
    write_script(tmp_path / "bin" / "c++", '#!/bin/sh\necho "#define __GNUC__ 14"\n')
    assert obtain(tmp_path, env) != gcc_12
    assert build.identity() == identity


def test_a_failed_build_names_its_log_and_leaves_nothing_in_the_cache(tmp_path):
    env = build_env(tmp_path, FAKE_FAILURE="ggml.c:1:1: error: expected an opinion")
    with pytest.raises(SetupError, match=r"error: expected an opinion.*Full log: .*llama\.log"):
        obtain(tmp_path, env)
    assert names_in_cache(tmp_path) == []
    assert "[2/2] linking" in (tmp_path / "logs" / "llama.log").read_text()


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("OSError: [Errno 28] No space left on device", "free some space"),
        ("THESE PACKAGES DO NOT MATCH THE HASHES", "not the one that was locked"),
        ("Failed to establish: Temporary failure in name resolution", "check the network"),
        ("Target ggml-cuda links to: CUDA::cublas but the target was not found", "libcublas-dev"),
        ("g++: fatal error: Killed signal terminated program cc1plus", "PARALLEL_LEVEL=1"),
    ],
)
def test_likely_failures_come_with_what_to_do(tmp_path, output, advice):
    with pytest.raises(SetupError, match=advice) as caught:
        obtain(tmp_path, build_env(tmp_path, FAKE_FAILURE=output))
    assert "\n" not in str(caught.value)


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path):
    left_over = tmp_path / "cache" / "wheels" / ".building-x" / "tmp"
    left_over.mkdir(parents=True)
    obtain(tmp_path, build_env(tmp_path))
    assert not left_over.exists()


def test_no_compiler_is_named_with_the_package_that_has_one(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SetupError, match=r"no C\+\+ compiler .* apt install build-essential"):
        obtain(tmp_path, {"PATH": f"{tmp_path}/empty"})


def test_a_compiler_that_cannot_link_is_found_before_the_build(tmp_path):
    env = build_env(tmp_path)
    write_script(tmp_path / "bin" / "c++", "#!/bin/sh\nexit 1\n")
    with pytest.raises(SetupError, match=r"cannot build .* apt install build-essential"):
        obtain(tmp_path, env)


def test_a_full_disk_is_found_before_the_build(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 30))
    with pytest.raises(SetupError, match=r"needs 2 GiB free in .*, which has 1\.0; free some"):
        obtain(tmp_path, build_env(tmp_path))
    assert not (tmp_path / "cache" / "wheels").exists()


def test_cuda_without_nvcc_is_named(tmp_path):
    env = build_env(tmp_path, CUDACXX="no-such-nvcc", CUDA_HOME=str(tmp_path))
    with pytest.raises(SetupError, match=r"needs nvcc.*install the CUDA toolkit"):
        obtain(tmp_path, env, "cuda")


def test_cuda_builds_for_the_gpus_here(tmp_path):
    write_script(tmp_path / "bin" / "nvcc", "#!/bin/sh\n")
    write_script(tmp_path / "bin" / "nvidia-smi", "#!/bin/sh\necho 9.0; echo 8.0; echo 9.0\n")
    environment = obtain(tmp_path, build_env(tmp_path), "cuda").read_text()
    assert "-DGGML_CUDA=ON" in environment
    assert "-DCMAKE_CUDA_ARCHITECTURES=80;90" in environment


def test_cuda_builds_for_the_gpus_that_the_user_names(tmp_path):
    write_script(tmp_path / "bin" / "nvcc", "#!/bin/sh\n")
    env = build_env(tmp_path, CUDAARCHS="86")
    assert "-DCMAKE_CUDA_ARCHITECTURES=86" in obtain(tmp_path, env, "cuda").read_text()


def test_cuda_without_a_gpu_to_ask_says_how_to_name_one(tmp_path):
    write_script(tmp_path / "bin" / "nvcc", "#!/bin/sh\n")
    write_script(tmp_path / "bin" / "nvidia-smi", "#!/bin/sh\nexit 9\n")
    with pytest.raises(SetupError, match="CUDAARCHS="):
        obtain(tmp_path, build_env(tmp_path), "cuda")
