"""A model: weights on a backend, from which contexts are opened."""

from pathlib import Path

import llama_cpp

from service.errors import ModelFileError
from service.llama.library import initialise, measure_memory
from service.llama.vocab import TokenTable


class LlamaModel:
    """Owns a `llama_model`; close it after every context opened from it."""

    def __init__(
        self,
        path: Path,
        *,
        gpu_layers: int = 0,
        gpu: int | None = None,
        extra_buffers: bool = True,
    ) -> None:
        """Load the weights of `path`.

        `gpu_layers` < 0 is all; `gpu` names the one device to use. `extra_buffers` allows repacked
        copies of weights (AMX and the like), which are faster and cost anonymous memory.

        Raises ModelFileError if llama.cpp cannot load the file.
        """
        initialise()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.use_extra_bufts = extra_buffers
        if gpu is not None:
            params.split_mode = llama_cpp.LLAMA_SPLIT_MODE_NONE
            params.main_gpu = gpu
        with measure_memory() as self.memory:
            handle = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not handle:
            raise ModelFileError(f"llama.cpp cannot load {path}; `smolserve gguf verify` says why")
        self.handle = handle
        self.path = path
        vocab = llama_cpp.llama_model_get_vocab(handle)
        assert vocab is not None
        self.tokens = TokenTable(vocab)
        self.num_vocab = self.tokens.num_tokens
        self.eog_tokens = self.tokens.eog_tokens
        self.context_len = llama_cpp.llama_model_n_ctx_train(handle)

    def close(self) -> None:
        llama_cpp.llama_model_free(self.handle)

    @property
    def has_extra_buffers(self) -> bool:
        """Whether some weights were repacked into buffers of their own."""
        return any(_is_repacked(name) for name in self.memory.buffers)


def _is_repacked(buffer: str) -> bool:
    return buffer in {"AMX", "CPU_REPACK", "CPU_KLEIDIAI", "CPU_RISCV64_SPACEMIT"}
