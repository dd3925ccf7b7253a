"""ggml's own shared libraries, beside the one that llama_cpp binds; ctypes opens each once."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp

from service.errors import LlamaError

_FOLDER = Path(llama_cpp.__file__).parent / "lib"
_SUFFIXES = (".so", ".dylib")


def load(name: str) -> ctypes.CDLL:
    """Raises LlamaError if the library is not where llama_cpp keeps them."""
    for suffix in _SUFFIXES:
        path = _FOLDER / f"{name}{suffix}"
        if path.exists():
            return ctypes.CDLL(str(path))
    raise LlamaError(f"{name} is not in {_FOLDER}; reinstall llama-cpp-python")


def library_files() -> list[Path]:
    """The libraries that compute: llama.cpp's own and ggml's, with their backends."""
    return sorted(path for path in _FOLDER.glob("lib*") if path.suffix in _SUFFIXES)


def bind(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:  # noqa: ANN401 - ctypes' types are values
    function = library[name]
    function.restype = result
    function.argtypes = arguments
    return function
