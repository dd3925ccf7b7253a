"""What a GGUF file says about itself: metadata and where its tensors lie. Tensors stay unread.

magic "GGUF" | version u32 | tensor count u64 | field count u64
field:  key | type u32 | value          (an array: element type u32, count u64, elements)
tensor: name | num_dims u32 | dims u64… | type u32 | offset u64
padding to the alignment, then the tensors; offsets count from here
"""

import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf.constants import (
    GGML_QUANT_SIZES,
    GGUF_DEFAULT_ALIGNMENT,
    GGMLQuantizationType,
    GGUFValueType,
)

from service.errors import ModelFileError
from service.gguf.cursor import Cursor

MAGIC = b"GGUF"
COUNTS_LEN = 24
"""Bytes of magic, version and the two counts."""

Scalar = int | float | bool | str
Numbers = npt.NDArray[np.generic]
Value = Scalar | tuple[str, ...] | Numbers

_DTYPES: dict[GGUFValueType, np.dtype[np.generic]] = {
    GGUFValueType.UINT8: np.dtype("<u1"),
    GGUFValueType.INT8: np.dtype("<i1"),
    GGUFValueType.UINT16: np.dtype("<u2"),
    GGUFValueType.INT16: np.dtype("<i2"),
    GGUFValueType.UINT32: np.dtype("<u4"),
    GGUFValueType.INT32: np.dtype("<i4"),
    GGUFValueType.FLOAT32: np.dtype("<f4"),
    GGUFValueType.BOOL: np.dtype("?"),
    GGUFValueType.UINT64: np.dtype("<u8"),
    GGUFValueType.INT64: np.dtype("<i8"),
    GGUFValueType.FLOAT64: np.dtype("<f8"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """More than any known model needs, little enough to read in well under a second."""

    header_bytes: int = 64 << 20
    num_fields: int = 1 << 13
    num_tensors: int = 1 << 14
    key_len: int = (1 << 16) - 1
    string_len: int = 16 << 20
    array_len: int = 1 << 24
    num_strings: int = 1 << 21
    """Strings in all arrays together."""
    alignment: int = 1 << 16


MAX_DIMS = 4
MAX_NAME_LEN = 63
"""What ggml can hold: GGML_MAX_DIMS, and GGML_MAX_NAME less its final zero."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Field:
    """One metadata field; it is `header.raw[start:end]`, its type and value from `value_start`."""

    key: str
    type: GGUFValueType
    element_type: GGUFValueType | None
    """Of an array."""
    value: Value
    start: int
    value_start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """`shape[0]` is the row length, as GGUF writes it; numpy's order is the reverse."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    """From the start of the data section."""
    num_bytes: int

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def row_len(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def num_rows(self) -> int:
        return math.prod(self.shape[1:])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Header:
    path: Path
    file_size: int
    version: int
    alignment: int
    fields: Mapping[str, Field]
    tensors: tuple[Tensor, ...]
    raw: bytes
    """The header as it stands in the file, without its padding."""
    tensors_start: int
    """Where in `raw` the tensor list begins."""
    data_start: int

    @property
    def data_size(self) -> int:
        """Bytes from `data_start` to the end of the last tensor, if the file is whole."""
        return max((tensor.offset + tensor.num_bytes for tensor in self.tensors), default=0)

    @property
    def missing_bytes(self) -> int:
        """How much the file ends before its last tensor does."""
        return max(0, self.data_start + self.data_size - self.file_size) if self.tensors else 0

    def find(self, key: str) -> Value | None:
        field = self.fields.get(key)
        return None if field is None else field.value

    def text(self, key: str) -> str | None:
        value = self.find(key)
        return value if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        value = self.find(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def texts(self, key: str) -> tuple[str, ...] | None:
        value = self.find(key)
        return value if isinstance(value, tuple) else None

    def numbers(self, key: str) -> Numbers | None:
        value = self.find(key)
        return value if isinstance(value, np.ndarray) else None


def read_header(path: Path, limits: Limits | None = None) -> Header:
    """Read the header of `path` and nothing else.

    Raises ModelFileError if it is missing, no regular file, no GGUF file, corrupt, or beyond
    `limits`. That the tensors are all there is not checked: see `Header.missing_bytes`.
    """
    try:
        with open_regular(path) as file:
            file_size = os.fstat(file.fileno()).st_size
            return _Parser(file, path, file_size, limits or Limits()).parse()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}") from error
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def open_regular(path: Path) -> FileIO:
    """Open for reading, unbuffered; raises ModelFileError for a folder, a pipe or a device."""
    # Without O_NONBLOCK, opening a named pipe waits for its writer.
    file = FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ModelFileError("not a regular file")
    return file


def shorten(text: str, max_len: int = 80) -> str:
    """`text` from a file, fit to print: quoted, escaped, of bounded length."""
    return ascii(text if len(text) <= max_len else text[:max_len] + "…")


class _Parser:
    def __init__(self, file: FileIO, path: Path, file_size: int, limits: Limits) -> None:
        self._cursor = Cursor(file, limit=limits.header_bytes)
        self._path = path
        self._file_size = file_size
        self._limits = limits
        self._num_strings = 0

    def parse(self) -> Header:
        cursor = self._cursor
        if self._file_size < COUNTS_LEN or cursor.take(4) != MAGIC:
            raise ModelFileError("not a GGUF file: it does not start with the bytes 'GGUF'")
        version = _check_version(cursor.u32())
        num_tensors = self._count("tensors", cursor.u64(), self._limits.num_tensors)
        num_fields = self._count("metadata fields", cursor.u64(), self._limits.num_fields)
        fields = self._fields(num_fields)
        alignment = _alignment(fields, self._limits)
        tensors_start = cursor.position
        tensors = self._tensors(num_tensors)
        return Header(
            path=self._path,
            file_size=self._file_size,
            version=version,
            alignment=alignment,
            fields=fields,
            tensors=tensors,
            raw=cursor.consumed,
            tensors_start=tensors_start,
            data_start=pad(cursor.position, alignment),
        )

    def _count(self, what: str, count: int, limit: int) -> int:
        if count > limit:
            raise ModelFileError(f"claims {count} {what}; at most {limit} are accepted")
        return count

    def _fields(self, count: int) -> dict[str, Field]:
        fields: dict[str, Field] = {}
        for _ in range(count):
            field = self._field()
            if field.key in fields:
                raise ModelFileError(f"metadata key {shorten(field.key)} appears twice")
            fields[field.key] = field
        return fields

    def _field(self) -> Field:
        cursor = self._cursor
        start = cursor.position
        key = cursor.string(max_len=self._limits.key_len, what="a metadata key")
        if not key:
            raise ModelFileError("a metadata key is empty")
        value_start = cursor.position
        value_type = self._value_type(key)
        element_type = None
        if value_type is GGUFValueType.ARRAY:
            element_type = self._value_type(key)
            value = self._array(key, element_type, cursor.u64())
        else:
            value = self._scalar(key, value_type)
        return Field(
            key=key,
            type=value_type,
            element_type=element_type,
            value=value,
            start=start,
            value_start=value_start,
            end=cursor.position,
        )

    def _value_type(self, key: str) -> GGUFValueType:
        number = self._cursor.u32()
        try:
            return GGUFValueType(number)
        except ValueError as error:
            raise ModelFileError(
                f"metadata key {shorten(key)} has unknown type {number}"
            ) from error

    def _scalar(self, key: str, value_type: GGUFValueType) -> Scalar:
        if value_type is GGUFValueType.STRING:
            return self._cursor.string(max_len=self._limits.string_len, what=shorten(key))
        dtype = _DTYPES[value_type]
        return np.frombuffer(self._cursor.take(dtype.itemsize), dtype)[0].item()

    def _array(self, key: str, element_type: GGUFValueType, count: int) -> Value:
        if element_type is GGUFValueType.ARRAY:
            raise ModelFileError(f"metadata key {shorten(key)} is an array of arrays")
        self._count(f"elements in {shorten(key)}", count, self._limits.array_len)
        if element_type is not GGUFValueType.STRING:
            dtype = _DTYPES[element_type]
            return np.frombuffer(self._cursor.take(count * dtype.itemsize), dtype)
        self._num_strings += count
        self._count("strings in its arrays", self._num_strings, self._limits.num_strings)
        return self._cursor.strings(count, max_len=self._limits.string_len, what=shorten(key))

    def _tensors(self, count: int) -> tuple[Tensor, ...]:
        tensors: dict[str, Tensor] = {}
        for _ in range(count):
            tensor = self._tensor()
            if tensor.name in tensors:
                raise ModelFileError(f"tensor {shorten(tensor.name)} appears twice")
            tensors[tensor.name] = tensor
        return tuple(tensors.values())

    def _tensor(self) -> Tensor:
        cursor = self._cursor
        name = cursor.string(max_len=MAX_NAME_LEN, what="a tensor name")
        num_dims = self._count(f"dimensions of {shorten(name)}", cursor.u32(), MAX_DIMS)
        shape = tuple(cursor.u64() for _ in range(num_dims))
        tensor_type = _tensor_type(name, cursor.u32())
        return Tensor(
            name=name,
            shape=shape,
            type=tensor_type,
            offset=_bounded_offset(name, cursor.u64()),
            num_bytes=_num_bytes(name, shape, tensor_type),
        )


def pad(position: int, alignment: int) -> int:
    """The first multiple of `alignment` not before `position`."""
    return -(-position // alignment) * alignment


def _check_version(version: int) -> int:
    if version in {2, 3}:
        return version
    if version & 0xFFFF == 0:
        raise ModelFileError("the file is big-endian; only little-endian files can be served")
    raise ModelFileError(f"GGUF version {version} is not supported; versions 2 and 3 are")


def _alignment(fields: Mapping[str, Field], limits: Limits) -> int:
    field = fields.get("general.alignment")
    if field is None:
        return GGUF_DEFAULT_ALIGNMENT
    value = field.value
    valid = (
        field.type is GGUFValueType.UINT32
        and isinstance(value, int)
        and 0 < value <= limits.alignment
        and value & (value - 1) == 0
    )
    if not valid or not isinstance(value, int):
        raise ModelFileError(
            f"general.alignment must be a power of two up to {limits.alignment}, a 32-bit number"
        )
    return value


def _tensor_type(name: str, number: int) -> GGMLQuantizationType:
    try:
        tensor_type = GGMLQuantizationType(number)
    except ValueError as error:
        raise ModelFileError(f"tensor {shorten(name)} has unknown type {number}") from error
    if tensor_type not in GGML_QUANT_SIZES:
        raise ModelFileError(f"tensor {shorten(name)} has unsupported type {tensor_type.name}")
    return tensor_type


def _num_bytes(name: str, shape: tuple[int, ...], tensor_type: GGMLQuantizationType) -> int:
    block_len, block_bytes = GGML_QUANT_SIZES[tensor_type]
    num_elements = math.prod(shape)
    if num_elements >= 1 << 63:
        raise ModelFileError(f"tensor {shorten(name)} has an impossible shape {shape}")
    if (shape[0] if shape else 1) % block_len:
        raise ModelFileError(
            f"tensor {shorten(name)} has rows of {shape[0] if shape else 1} elements, "
            f"no multiple of the {block_len} of a {tensor_type.name} block"
        )
    return num_elements // block_len * block_bytes


def _bounded_offset(name: str, offset: int) -> int:
    if offset >= 1 << 63:
        raise ModelFileError(f"tensor {shorten(name)} has an impossible offset {offset}")
    return offset
