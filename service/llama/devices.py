"""The devices that ggml found: `python -m service.llama.devices` prints its GPUs as JSON.

Asking a GPU for its memory opens a context on it, some hundred MiB that stay until the process
ends. So the API process, which computes nothing, asks through a process of its own.
"""

import ctypes
import subprocess
import sys
from collections.abc import Iterator

import msgspec

from service.core.messages import DeviceMemory
from service.errors import LlamaError
from service.llama.library import initialise
from service.llama.shared_library import bind, load_library

_CPU, _GPU = 0, 1
"""ggml_backend_dev_type; integrated GPUs, which share main memory, are another."""

_ASK_SECONDS = 60
"""A driver that has slept may take many to wake."""


class Devices:
    """What ggml's registry holds, in its order; llama.cpp numbers GPUs the same way."""

    def __init__(self) -> None:
        """Raises LlamaError if the shared libraries are not where llama_cpp keeps them."""
        initialise()
        library = load_library()
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        self._count = bind(library, "ggml_backend_dev_count", size)
        self._get = bind(library, "ggml_backend_dev_get", pointer, size)
        self._type = bind(library, "ggml_backend_dev_type", ctypes.c_int, pointer)
        self._name = bind(library, "ggml_backend_dev_name", ctypes.c_char_p, pointer)
        sizes = ctypes.POINTER(size)
        self._memory = bind(library, "ggml_backend_dev_memory", None, pointer, sizes, sizes)

    def gpus(self) -> list[DeviceMemory]:
        return list(self._of_type(_GPU))

    def cpus(self) -> list[DeviceMemory]:
        return list(self._of_type(_CPU))

    def _of_type(self, kind: int) -> Iterator[DeviceMemory]:
        for device in map(self._get, range(self._count())):
            if self._type(device) == kind:
                yield self._describe(device)

    def _describe(self, device: int) -> DeviceMemory:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._memory(device, ctypes.byref(free), ctypes.byref(total))
        return DeviceMemory(
            name=self._name(device).decode("utf-8", "replace"),
            free_bytes=free.value,
            total_bytes=total.value,
        )


def ask_gpus() -> list[DeviceMemory]:
    """The GPUs, asked by a process that then lets go of them. Raises LlamaError."""
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "service.llama.devices"],
            capture_output=True,
            check=True,
            timeout=_ASK_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        raise LlamaError(f"ggml cannot list the GPUs: {_last_line(error.stderr)}") from None
    except subprocess.TimeoutExpired:
        raise LlamaError(f"the GPUs did not answer within {_ASK_SECONDS} s") from None
    return msgspec.json.decode(answer.stdout, type=list[DeviceMemory])


def _last_line(output: bytes) -> str:
    return output.decode("utf-8", "replace").strip().rpartition("\n")[2] or "it said nothing"


def main() -> None:
    sys.stdout.buffer.write(msgspec.json.encode(Devices().gpus()))


if __name__ == "__main__":
    main()
