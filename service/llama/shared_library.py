"""ggml's own shared libraries, beside the one that llama_cpp binds; ctypes opens each once."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp

from service.errors import LlamaError


def load(name: str) -> ctypes.CDLL:
    """Raises LlamaError if the library is not where llama_cpp keeps them."""
    folder = Path(llama_cpp.__file__).parent / "lib"
    for suffix in (".so", ".dylib"):
        path = folder / f"{name}{suffix}"
        if path.exists():
            return ctypes.CDLL(str(path))
    raise LlamaError(f"{name} is not in {folder}; reinstall llama-cpp-python")


def bind(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:  # noqa: ANN401 - ctypes' types are values
    function = library[name]
    function.restype = result
    function.argtypes = arguments
    return function
