"""Which CPU code of ggml runs here.

A portable build has it once for each generation of CPUs, as modules. ggml asks each of these
variants whether it can run here and how well, and loads the best (see `library.initialise`).
"""

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

from service.errors import LlamaError
from service.llama.library import initialise
from service.llama.shared_library import FOLDER, SUFFIXES, bind, load_library

_PREFIX = "libggml-cpu-"
NO_VARIANT = "only"
"""What to call the CPU code of a build that has it once."""


class _Place(ctypes.Structure):
    """Dl_info of dlfcn.h."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def find_cpu_library() -> Path:
    """The library whose CPU code ggml uses. Raises LlamaError if there is none."""
    initialise()
    pointer, place = ctypes.c_void_p, _Place()
    by_name = bind(load_library(), "ggml_backend_reg_by_name", pointer, ctypes.c_char_p)
    locate = bind(ctypes.CDLL(None), "dladdr", ctypes.c_int, pointer, ctypes.POINTER(_Place))
    registered = by_name(b"CPU")
    if not registered or not locate(registered, ctypes.byref(place)):
        raise LlamaError(f"no CPU code in {FOLDER} runs on this CPU; reinstall llama-cpp-python")
    return Path(os.fsdecode(place.file))


def name_variant(cpu_library: Path) -> str:
    """As ggml calls it: zen4, haswell; NO_VARIANT where there was nothing to choose from."""
    name = cpu_library.name.partition(".")[0]
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else NO_VARIANT


def library_files() -> list[Path]:
    """The libraries that compute here: llama.cpp's own and ggml's, with the backends in use."""
    found = (path for path in FOLDER.glob("lib*") if path.suffix in SUFFIXES)
    return leave_out_idle(found, find_cpu_library())


def leave_out_idle(libraries: Iterable[Path], cpu_library: Path) -> list[Path]:
    """Without the variants of CPU code that are not in use."""
    return sorted(
        path
        for path in libraries
        if not path.name.startswith(_PREFIX) or path.name == cpu_library.name
    )
