"""`multipart/form-data`, as it arrives: a few short fields and one file of any size."""

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import InvalidRequest

_MAX_FIELDS = 16
_MAX_FIELD_BYTES = 1024
_FILE_FIELD = "file"


class FormReader:
    """Fed the body piece by piece, gives back what of it is the file."""

    def __init__(self, content_type: str) -> None:
        """Raises InvalidRequest."""
        self.fields: dict[str, str] = {}
        self.file_name: str | None = None
        """As the client says, set once the file begins."""
        self._is_complete = False
        self._header = bytearray()
        self._value = bytearray()
        self._headers: dict[bytes, str] = {}
        self._name: str | None = None
        self._data = bytearray()
        self._file_data = bytearray()
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise _invalid("Content-Type names no boundary")
        self._parser = self._build_parser(boundary)

    def feed(self, piece: bytes) -> bytes:
        """Raises InvalidRequest."""
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise _invalid(str(error)) from None
        data = bytes(self._file_data)
        self._file_data.clear()
        return data

    def finish(self) -> None:
        """Raises InvalidRequest for a form that was cut off or has no file."""
        if not self._is_complete:
            raise _invalid("it ends too early")
        if self.file_name is None:
            raise InvalidRequest(
                "file is required.", param=_FILE_FIELD, code="missing_required_parameter"
            )

    def _build_parser(self, boundary: bytes) -> MultipartParser:
        try:
            return MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_header_name,
                    "on_header_value": self._add_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._add_data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _invalid(str(error)) from None

    def _begin_part(self) -> None:
        self._headers.clear()
        self._name = None
        self._data.clear()

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[bytes(self._header).lower()] = self._value.decode(errors="replace")
        self._header.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        disposition = self._headers.get(b"content-disposition", "")
        # The library reads headers as Latin-1; browsers and SDKs write UTF-8.
        options = parse_options_header(disposition.encode().decode("latin-1"))[1]
        name = options.get(b"name", b"").decode(errors="replace")
        if name in self.fields or (name == _FILE_FIELD and self.file_name is not None):
            raise _invalid(f"{name[:100]!r} is there twice")
        if name == _FILE_FIELD:
            self.file_name = options.get(b"filename", b"").decode(errors="replace")
        elif len(self.fields) == _MAX_FIELDS:
            raise _invalid(f"it has more than {_MAX_FIELDS} fields")
        self._name = name

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == _FILE_FIELD:
            self._file_data += data[start:end]
            return
        self._data += data[start:end]
        if len(self._data) > _MAX_FIELD_BYTES:
            raise _invalid(f"the field {self._name!r:.100} is longer than {_MAX_FIELD_BYTES} bytes")

    def _end_part(self) -> None:
        if self._name is not None and self._name != _FILE_FIELD:
            self.fields[self._name] = self._data.decode(errors="replace")

    def _end(self) -> None:
        self._is_complete = True


def _invalid(reason: str) -> InvalidRequest:
    return InvalidRequest(f"The form cannot be read: {reason}.", code="invalid_form")
