"""What makes a file of KV state foreign."""

import os
from pathlib import Path

import msgspec
import pytest

from service.engine.fingerprint import Computation, fingerprint
from service.llama.variants import library_files

CPU = Computation(
    kv_type="f16", flash_attention="off", rope_scaling=1.0, extra_buffers=True, devices=()
)


class Machine:
    """A model and two libraries in a folder."""

    def __init__(self, folder: Path) -> None:
        self.model, self.hashes = folder / "model.gguf", folder / "cache" / "hashes.json"
        self.libraries = [folder / "libggml.so", folder / "libllama.so"]
        for path in (self.model, *self.libraries):
            path.write_bytes(path.name.encode() * 1000)

    def fingerprint(self, computation: Computation = CPU) -> str:
        return fingerprint(self.model, self.libraries, computation, hashes=self.hashes)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_same_model_build_and_computation_have_the_same_fingerprint(machine):
    first = machine.fingerprint()
    assert machine.fingerprint() == first
    machine.libraries.reverse()
    assert machine.fingerprint() == first
    machine.model = machine.model.rename(machine.model.with_name("renamed.gguf"))
    assert machine.fingerprint() == first


@pytest.mark.parametrize("changed", ["model.gguf", "libggml.so", "libllama.so"])
def test_another_content_is_another_fingerprint(machine, tmp_path, changed):
    first = machine.fingerprint()
    with (tmp_path / changed).open("ab") as file:
        file.write(b"x")
    assert machine.fingerprint() != first


@pytest.mark.parametrize(
    "change",
    [
        {"kv_type": "q8_0"},
        {"flash_attention": "on"},
        {"rope_scaling": 2.0},
        {"extra_buffers": False},
        {"devices": ("NVIDIA H200",)},
    ],
)
def test_another_computation_is_another_fingerprint(machine, change):
    assert machine.fingerprint(msgspec.structs.replace(CPU, **change)) != machine.fingerprint()


def test_file_that_is_as_it_was_is_not_read_again(machine):
    first = machine.fingerprint()
    status = machine.model.stat()
    machine.model.write_bytes(b"x" * status.st_size)
    os.utime(machine.model, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert machine.fingerprint() == first
    os.utime(machine.model, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert machine.fingerprint() != first


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"a": {"size": -1}}', b"\xff\x00"])
def test_broken_memory_of_hashes_is_made_anew(machine, content):
    first = machine.fingerprint()
    machine.hashes.write_bytes(content)
    assert machine.fingerprint() == first
    assert machine.hashes.read_bytes() != content


def test_hashes_that_cannot_be_kept_cost_time_only(machine, tmp_path):
    first = machine.fingerprint()
    machine.hashes = tmp_path / "model.gguf" / "hashes.json"
    assert machine.fingerprint() == first


def test_model_that_is_not_there_is_an_error(machine):
    machine.model.unlink()
    with pytest.raises(FileNotFoundError):
        machine.fingerprint()


def test_loaded_build_has_libraries_to_tell_it_by():
    names = {path.stem for path in library_files()}
    assert {"libllama", "libggml", "libggml-base"} <= names
