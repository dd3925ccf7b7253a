from pathlib import Path

import pytest

from service.gguf.remap import remap
from service.gguf.synth import synthesise


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Of the synthetic models: making them once takes a second."""
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="session")
def tiny(folder) -> Path:
    path = folder / "tiny.gguf"
    synthesise(path, "tiny")
    return path


@pytest.fixture(scope="session")
def tiny_f32(folder) -> Path:
    path = folder / "tiny-f32.gguf"
    synthesise(path, "tiny", weights="f32")
    return path


@pytest.fixture(scope="session")
def remapped(tiny, folder) -> Path:
    return remap(tiny, folder / "remapped.gguf").target


@pytest.fixture(scope="session")
def llama(tiny, folder) -> Path:
    return as_llama(tiny, folder / "llama.gguf")


@pytest.fixture(scope="session")
def llama_f32(tiny_f32, folder) -> Path:
    return as_llama(tiny_f32, folder / "llama-f32.gguf")


def as_llama(source: Path, target: Path) -> Path:
    return remap(source, target, architecture="llama", accept_rope_everywhere=True).target
