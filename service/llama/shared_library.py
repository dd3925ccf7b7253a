"""Functions that llama_cpp does not bind, by their names, from the libraries that are in use."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp

from service.errors import LlamaError

FOLDER = Path(llama_cpp.__file__).parent / "lib"
SUFFIXES = (".so", ".dylib")


def load_library() -> ctypes.CDLL:
    """libllama, through which all that it is linked to is found: ggml's base and its registry.

    Those must not be opened by their own names: a wheel has copies where a build has links, so that
    would load them a second time, with a registry of their own.

    Raises LlamaError if the library is not where llama_cpp keeps it.
    """
    for path in (FOLDER / f"libllama{suffix}" for suffix in SUFFIXES):
        if path.exists():
            return ctypes.CDLL(str(path))
    raise LlamaError(f"libllama is not in {FOLDER}; reinstall llama-cpp-python")


def bind(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:  # noqa: ANN401 - ctypes' types are values
    function = library[name]
    function.restype = result
    function.argtypes = arguments
    return function
