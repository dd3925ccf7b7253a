"""Headers as bytes: the reverse of `service.gguf.header`."""

import struct
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from gguf.constants import GGUFValueType

from service.gguf.header import COUNTS_LEN, MAGIC, Tensor, pad

VERSION = 3


def text_field(key: str, value: str) -> bytes:
    return _typed_key(key, GGUFValueType.STRING) + _string(value)


def u32_field(key: str, value: int) -> bytes:
    return _typed_key(key, GGUFValueType.UINT32) + struct.pack("<I", value)


def f32_field(key: str, value: float) -> bytes:
    return _typed_key(key, GGUFValueType.FLOAT32) + struct.pack("<f", value)


def i32_array_field(key: str, values: Iterable[int]) -> bytes:
    array: npt.NDArray[np.int32] = np.fromiter(values, np.dtype("<i4"))
    return _array_key(key, GGUFValueType.INT32, array.size) + array.tobytes()


def texts_field(key: str, values: Sequence[str]) -> bytes:
    return _array_key(key, GGUFValueType.STRING, len(values)) + b"".join(map(_string, values))


def renamed_field(key: str, value: bytes) -> bytes:
    """A field under another key; `value` is its type and value as they stood in a header."""
    return _string(key) + value


def tensor_entry(tensor: Tensor) -> bytes:
    dims = len(tensor.shape)
    return _string(tensor.name) + struct.pack(
        f"<I{dims}QIQ", dims, *tensor.shape, int(tensor.type), tensor.offset
    )


def encode_header(
    fields: Sequence[bytes],
    tensors: bytes,
    *,
    num_tensors: int,
    alignment: int,
    version: int = VERSION,
) -> bytes:
    """A header with its padding: the first tensor's bytes come right after it."""
    counts = MAGIC + struct.pack("<IQQ", version, num_tensors, len(fields))
    assert len(counts) == COUNTS_LEN
    header = counts + b"".join(fields) + tensors
    return header.ljust(pad(len(header), alignment), b"\0")


def _typed_key(key: str, value_type: GGUFValueType) -> bytes:
    return _string(key) + struct.pack("<I", value_type)


def _array_key(key: str, element_type: GGUFValueType, count: int) -> bytes:
    return _typed_key(key, GGUFValueType.ARRAY) + struct.pack("<IQ", element_type, count)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
