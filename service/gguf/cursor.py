"""Little-endian values from the head of a file that may lie about every length in it."""

import struct
from io import FileIO

from service.errors import ModelFileError

_CHUNK = 1 << 20
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class Cursor:
    """Reads forward from the start of `file`, and never more than `limit` bytes of it.

    Every method raises ModelFileError where the file ends or the limit is reached first.
    """

    def __init__(self, file: FileIO, *, limit: int) -> None:
        self._file = file
        self._limit = limit
        self._buffer = bytearray()
        self.position = 0

    @property
    def consumed(self) -> bytes:
        """All bytes read so far."""
        return bytes(memoryview(self._buffer)[: self.position])

    def take(self, num_bytes: int) -> bytes:
        self._require(num_bytes)
        start = self.position
        self.position += num_bytes
        return bytes(memoryview(self._buffer)[start : self.position])

    def u32(self) -> int:
        self._require(4)
        (value,) = _U32.unpack_from(self._buffer, self.position)
        self.position += 4
        return value

    def u64(self) -> int:
        self._require(8)
        (value,) = _U64.unpack_from(self._buffer, self.position)
        self.position += 8
        return value

    def string(self, *, max_len: int, what: str) -> str:
        """A length and that many bytes of UTF-8."""
        length = self.u64()
        if length > max_len:
            raise ModelFileError(
                f"{what} claims a length of {length} bytes; at most {max_len} are accepted"
            )
        return _decode(self.take(length), what)

    def strings(self, count: int, *, max_len: int, what: str) -> tuple[str, ...]:
        """`count` strings; the caller has bounded `count`."""
        buffer, position, unpack = self._buffer, self.position, _U64.unpack_from
        found: list[str] = []
        for _ in range(count):
            if position + 8 > len(buffer):
                self.position = position
                self._require(8)
            (length,) = unpack(buffer, position)
            start = position + 8
            position = start + length
            if position > len(buffer):
                self.position = start
                self._require_string(length, max_len, what)
            found.append(_decode(buffer[start:position], what))
        self.position = position
        return tuple(found)

    def _require_string(self, length: int, max_len: int, what: str) -> None:
        if length > max_len:
            raise ModelFileError(
                f"a string in {what} claims a length of {length} bytes; "
                f"at most {max_len} are accepted"
            )
        self._require(length)

    def _require(self, num_bytes: int) -> None:
        """Have `num_bytes` more in the buffer."""
        end = self.position + num_bytes
        if end <= len(self._buffer):
            return
        if end > self._limit:
            raise ModelFileError(
                f"the header is larger than {self._limit} bytes, which no known model needs; "
                "the file is corrupt"
            )
        wanted = min(max(end, len(self._buffer) + _CHUNK), self._limit)
        self._buffer += self._file.read(wanted - len(self._buffer))
        if end > len(self._buffer):
            raise ModelFileError(
                f"the file ends at byte {len(self._buffer)}, inside its header; "
                "the download was cut short or the header is corrupt"
            )


def _decode(data: bytes | bytearray, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{what} holds bytes that are not UTF-8 ({error.reason})") from error
