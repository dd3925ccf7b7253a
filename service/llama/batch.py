"""The rows that one decode computes, as numpy arrays that llama.cpp reads in place."""

import ctypes

import llama_cpp
import numpy as np


class Batch:
    """Row i computes `token[i]` at position `pos[i]` of slot `slot[i]`.

    `output[i]` != 0 asks for the row's logits. Fill the arrays by slices; nothing is copied.
    """

    __slots__ = ("_num_seq", "_seq_pointers", "output", "pos", "slot", "struct", "token")

    def __init__(self, capacity: int) -> None:
        self.token = np.zeros(capacity, np.int32)
        self.pos = np.zeros(capacity, np.int32)
        self.slot = np.zeros(capacity, np.int32)
        self.output = np.zeros(capacity, np.int8)
        self._num_seq = np.ones(capacity, np.int32)
        self._seq_pointers = (
            self.slot.ctypes.data + np.arange(capacity, dtype=np.uintp) * self.slot.itemsize
        )
        self.struct = llama_cpp.llama_batch(
            n_tokens=0,
            token=self.token.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            embd=None,
            pos=self.pos.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            n_seq_id=self._num_seq.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=self._seq_pointers.ctypes.data_as(
                ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))
            ),
            logits=self.output.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )
