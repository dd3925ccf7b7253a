"""The loaded library: its log lines, its version, and what its loads say about memory."""

import ctypes
import logging
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import llama_cpp

from service.errors import LlamaError
from service.llama.shared_library import FOLDER, bind, load_library

logger = logging.getLogger("service.llama")

_LEVELS = {3: logging.INFO, 4: logging.ERROR}
"""ggml's levels. Its `info` is our debug, since loading a model says hundreds of lines, and its
warnings are mostly remarks on what we ask for on purpose."""

_BUFFER_LINE = re.compile(r"(\S+) +(model|KV|compute|output) buffer size = +([\d.]+) MiB")


@llama_cpp.llama_log_callback
def _forward_log(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    logger.log(_LEVELS.get(level, logging.DEBUG), text.decode("utf-8", "replace").rstrip("\n"))


def initialise() -> None:
    """Make the library ready and its log ours. May be called any number of times.

    Raises LlamaError if nothing that computes comes with the library.
    """
    logger.setLevel(logging.DEBUG)
    llama_cpp.llama_log_set(_forward_log, ctypes.c_void_p(0))
    _load_modules()
    llama_cpp.llama_backend_init()


def _load_modules() -> None:
    """Have ggml load its backends if this build has them in modules, the best CPU variant last."""
    library = load_library()
    count = bind(library, "ggml_backend_reg_count", ctypes.c_size_t)
    load_all = bind(library, "ggml_backend_load_all_from_path", None, ctypes.c_char_p)
    if count() == 0:
        load_all(os.fsencode(FOLDER))
    if count() == 0:
        raise LlamaError(f"no backend of ggml in {FOLDER} runs here; reinstall llama-cpp-python")


@dataclass(slots=True, kw_only=True)
class MemoryUse:
    """Bytes that llama.cpp said it allocated, by purpose."""

    model_bytes: int = 0
    kv_bytes: int = 0
    compute_bytes: int = 0
    buffers: list[str] = field(default_factory=list[str])
    """The names of the buffer types that hold weights, such as CPU_Mapped, AMX, CUDA0."""
    errors: list[str] = field(default_factory=list[str])
    """What it complained about."""


class _BufferLines(logging.Handler):
    def __init__(self, use: MemoryUse) -> None:
        super().__init__()
        self.use = use

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            self.use.errors.append(record.getMessage())
        found = _BUFFER_LINE.search(record.getMessage())
        if not found:
            return
        name, purpose, mebibytes = found.groups()
        size = int(float(mebibytes) * 1024 * 1024)
        if purpose == "model":
            self.use.model_bytes += size
            self.use.buffers.append(name)
        elif purpose == "KV":
            self.use.kv_bytes += size
        else:
            self.use.compute_bytes += size


@contextmanager
def measure_memory() -> Generator[MemoryUse]:
    """Collect what llama.cpp allocates inside the block; it says so in its log only."""
    use = MemoryUse()
    handler = _BufferLines(use)
    logger.addHandler(handler)
    try:
        yield use
    finally:
        logger.removeHandler(handler)
