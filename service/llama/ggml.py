"""One matrix product through ggml itself, to hold its quantised arithmetic against another's."""

import ctypes

import numpy as np
import numpy.typing as npt

from service.errors import LlamaError
from service.llama.shared_library import bind, load_library
from service.llama.variants import find_cpu_library

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

_OVERHEAD = 8 << 20
"""For graph, tensors and work buffer; a product of a few hundred rows needs far less."""

_F32 = 0


class _InitParams(ctypes.Structure):
    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


class Ggml:
    """The ggml that llama.cpp was loaded with."""

    def __init__(self) -> None:
        """Raises LlamaError if the shared libraries are not where llama_cpp keeps them."""
        base, cpu = load_library(), ctypes.CDLL(str(find_cpu_library()))
        pointer, length = ctypes.c_void_p, ctypes.c_int64
        self._init = bind(base, "ggml_init", pointer, _InitParams)
        self._free = bind(base, "ggml_free", None, pointer)
        self._new_matrix = bind(
            base, "ggml_new_tensor_2d", pointer, pointer, ctypes.c_int, length, length
        )
        self._product = bind(base, "ggml_mul_mat", pointer, pointer, pointer, pointer)
        self._new_graph = bind(base, "ggml_new_graph", pointer, pointer)
        self._expand = bind(base, "ggml_build_forward_expand", None, pointer, pointer)
        self._data = bind(base, "ggml_get_data", pointer, pointer)
        self._num_bytes = bind(base, "ggml_nbytes", ctypes.c_size_t, pointer)
        self._validate = bind(
            base, "ggml_validate_row_data", ctypes.c_bool, ctypes.c_int, pointer, ctypes.c_size_t
        )
        self._compute = bind(
            cpu, "ggml_graph_compute_with_ctx", ctypes.c_int, pointer, pointer, ctypes.c_int
        )
        bind(cpu, "ggml_cpu_init", None)()

    def multiply(self, rows: Bytes, kind: int, x: Floats) -> Floats:
        """`W @ x` for the matrix whose `rows`, (n, bytes of a row), are stored as ggml type `kind`.

        ggml rounds `x` to the type that it pairs with `kind`. Raises LlamaError if it fails.
        """
        num_rows, row_len = len(rows), x.size
        context = self._init(
            _InitParams(mem_size=_OVERHEAD + rows.nbytes, mem_buffer=None, no_alloc=False)
        )
        if not context:
            raise LlamaError("ggml has no memory for a matrix product")
        try:
            matrix = self._new_matrix(context, kind, row_len, num_rows)
            vector = self._new_matrix(context, _F32, row_len, 1)
            if self._num_bytes(matrix) != rows.nbytes:
                raise LlamaError(f"ggml stores type {kind} in another number of bytes than gguf")
            product = self._product(context, matrix, vector)
            graph = self._new_graph(context)
            self._expand(graph, product)
            ctypes.memmove(self._data(matrix), rows.ctypes.data, rows.nbytes)
            ctypes.memmove(self._data(vector), x.ctypes.data, x.nbytes)
            if self._compute(context, graph, 1) != 0:
                raise LlamaError("ggml could not compute a matrix product")
            result = np.empty(num_rows, np.float32)
            ctypes.memmove(result.ctypes.data, self._data(product), result.nbytes)
            return result
        finally:
            self._free(context)

    def is_valid(self, data: Bytes, kind: int) -> bool:
        """Whether every block of `data` has finite scales and valid indices."""
        return bool(self._validate(kind, data.ctypes.data, data.nbytes))
