"""A model: weights on a backend, from which contexts are opened."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp

from service.errors import ModelFileError
from service.llama.library import initialise, measure_memory
from service.llama.vocab import find_eog_tokens

Progress = Callable[[float], None]

_CProgress = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_float, ctypes.c_void_p)


class LlamaModel:
    """Owns a `llama_model`; close it after every context opened from it."""

    def __init__(
        self,
        path: Path,
        *,
        gpu_layers: int = 0,
        gpu: int | None = None,
        extra_buffers: bool = True,
        progress: Progress | None = None,
    ) -> None:
        """Load the weights of `path`.

        `gpu_layers` < 0 is all; `gpu` names the one device to use. `extra_buffers` allows repacked
        copies of weights (AMX and the like), which are faster and cost anonymous memory.
        `progress` gets 0.0 … 1.0.

        Raises ModelFileError if llama.cpp cannot load the file.
        """
        initialise()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.use_extra_bufts = extra_buffers
        if gpu is not None:
            params.split_mode = llama_cpp.LLAMA_SPLIT_MODE_NONE
            params.main_gpu = gpu
        # Kept in a name: ctypes does not keep the callback alive for llama.cpp.
        callback = _callback_of(progress)
        params.progress_callback = callback
        with measure_memory() as self.memory:
            handle = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not handle:
            raise ModelFileError(f"llama.cpp cannot load {path}; `smolserve gguf verify` says why")
        self.handle = handle
        self.path = path
        vocab = llama_cpp.llama_model_get_vocab(handle)
        assert vocab is not None
        self.num_vocab = llama_cpp.llama_vocab_n_tokens(vocab)
        self.eog_tokens = find_eog_tokens(vocab)
        self.context_len = llama_cpp.llama_model_n_ctx_train(handle)

    def close(self) -> None:
        llama_cpp.llama_model_free(self.handle)

    @property
    def has_extra_buffers(self) -> bool:
        """Whether some weights were repacked into buffers of their own."""
        return any(_is_repacked(name) for name in self.memory.buffers)


def _is_repacked(buffer: str) -> bool:
    return buffer in {"AMX", "CPU_REPACK", "CPU_KLEIDIAI", "CPU_RISCV64_SPACEMIT"}


def _callback_of(progress: Progress | None) -> Any:  # noqa: ANN401 - ctypes' class is made at run time
    def report(fraction: float, _user_data: int | None) -> bool:
        if progress is not None:
            progress(fraction)
        return True

    return _CProgress(report)
