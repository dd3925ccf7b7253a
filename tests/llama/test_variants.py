from pathlib import Path

import pytest

from service.llama.devices import Devices
from service.llama.ggml import Ggml
from service.llama.shared_library import FOLDER
from service.llama.variants import (
    NO_VARIANT,
    find_cpu_library,
    leave_out_idle,
    library_files,
    name_variant,
)


@pytest.mark.parametrize(
    ("file", "variant"),
    [
        ("libggml-cpu-zen4.so", "zen4"),
        ("libggml-cpu-sse42.so", "sse42"),
        ("libggml-cpu.so.0", NO_VARIANT),
        ("libggml-cpu.dylib", NO_VARIANT),
    ],
)
def test_a_variant_is_called_as_ggml_calls_it(file, variant):
    assert name_variant(Path("/lib") / file) == variant


def test_state_does_not_depend_on_variants_that_do_not_run():
    names = ["libllama.so", "libggml-cpu-haswell.so", "libggml-cpu-zen4.so", "libggml-cuda.so"]
    files = [FOLDER / name for name in names]
    kept = leave_out_idle(files, FOLDER / "libggml-cpu-zen4.so")
    assert {path.name for path in kept} == set(names) - {"libggml-cpu-haswell.so"}
    assert {path.name for path in leave_out_idle(files, FOLDER / "libggml-cpu-haswell.so")} == (
        set(names) - {"libggml-cpu-zen4.so"}
    )


def test_the_code_that_runs_is_beside_llama_cpp_and_one_of_what_there_is():
    found = find_cpu_library()
    assert found.parent == FOLDER
    assert found.exists()
    offered = {name_variant(path) for path in FOLDER.glob("libggml-cpu*")}
    assert name_variant(found) in offered


def test_one_build_of_cpu_code_counts():
    variants = [name_variant(path) for path in library_files() if "ggml-cpu" in path.name]
    assert variants == [name_variant(find_cpu_library())]


def test_no_library_is_loaded_twice():
    Devices()
    Ggml()
    lines = Path("/proc/self/maps").read_text().splitlines()
    mapped = {Path(line.split()[-1]) for line in lines if str(FOLDER) in line}
    names = [path.name.partition(".")[0] for path in mapped]  # libggml.so and libggml.so.0
    assert len(names) == len(set(names))
