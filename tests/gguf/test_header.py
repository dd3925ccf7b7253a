import os
import struct

import pytest
from gguf.constants import GGUFValueType

from service.errors import ModelFileError
from service.gguf.header import Limits, Tensor, read_header, shorten
from service.gguf.summary import inspect
from service.gguf.writer import text_field, u32_field
from tests.gguf.builders import (
    pack,
    raw_header,
    raw_string,
    raw_type,
    small_file,
    small_tensors,
)

STRING, ARRAY, U8 = GGUFValueType.STRING, GGUFValueType.ARRAY, GGUFValueType.UINT8
HUGE = (1 << 64) - 1


def refuse(tmp_path, content: bytes, message: str):
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        read_header(path)


def one_field(value: bytes, *, key: bytes = b"key") -> bytes:
    return raw_header(num_fields=1, rest=raw_string(key) + value)


def test_header_holds_fields_and_tensors_as_written(tmp_path):
    header = read_header(small_file(tmp_path / "small.gguf"))
    assert header.integer("smollm3.block_count") == 4
    assert header.text("general.architecture") == "smollm3"
    assert len(header.texts("tokenizer.ggml.tokens") or ()) == 260
    assert list(header.tensors) == small_tensors()
    assert header.missing_bytes == 0


def test_missing_bytes_says_how_much_of_a_download_is_missing(tmp_path):
    path = small_file(tmp_path / "small.gguf")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert read_header(path).missing_bytes == 100


def test_file_without_magic_is_refused(tmp_path):
    refuse(tmp_path, raw_header(magic=b"GGML"), "not a GGUF file")


def test_empty_file_is_refused(tmp_path):
    refuse(tmp_path, b"", "not a GGUF file")


def test_unknown_version_is_refused(tmp_path):
    refuse(tmp_path, raw_header(version=9), "version 9 is not supported")


def test_big_endian_file_is_named_as_such(tmp_path):
    refuse(tmp_path, raw_header(version=3 << 24), "big-endian")


@pytest.mark.parametrize("counts", [{"num_tensors": HUGE}, {"num_fields": HUGE}])
def test_huge_counts_are_refused_before_anything_is_allocated(tmp_path, counts):
    refuse(tmp_path, raw_header(**counts), "at most")


def test_key_longer_than_the_file_is_refused(tmp_path):
    refuse(tmp_path, raw_header(num_fields=1, rest=raw_string(b"k", length=1000)), "file ends")


def test_string_of_absurd_length_is_refused(tmp_path):
    value = raw_type(STRING) + raw_string(b"", length=HUGE)
    refuse(tmp_path, one_field(value), "claims a length")


def test_array_of_absurd_length_is_refused(tmp_path):
    value = raw_type(ARRAY) + raw_type(U8) + struct.pack("<Q", HUGE)
    refuse(tmp_path, one_field(value), "at most")


def test_string_array_with_an_absurd_element_is_refused(tmp_path):
    value = raw_type(ARRAY) + raw_type(STRING) + struct.pack("<Q", 2)
    refuse(tmp_path, one_field(value + raw_string(b"", length=HUGE)), "claims a length")


def test_string_array_longer_than_the_file_is_refused(tmp_path):
    value = raw_type(ARRAY) + raw_type(STRING) + struct.pack("<Q", 1 << 20)
    refuse(tmp_path, one_field(value), "file ends")


def test_arrays_of_arrays_are_refused(tmp_path):
    value = raw_type(ARRAY) + raw_type(ARRAY) + struct.pack("<Q", 1)
    refuse(tmp_path, one_field(value), "array of arrays")


def test_unknown_value_type_is_refused(tmp_path):
    refuse(tmp_path, one_field(raw_type(99)), "unknown type 99")


@pytest.mark.parametrize("place", ["key", "value", "array"])
def test_bytes_that_are_not_utf_8_are_refused(tmp_path, place):
    bad = b"\xff\xfe"
    content = {
        "key": one_field(raw_type(STRING) + raw_string(b""), key=bad),
        "value": one_field(raw_type(STRING) + raw_string(bad)),
        "array": one_field(
            raw_type(ARRAY) + raw_type(STRING) + struct.pack("<Q", 1) + raw_string(bad)
        ),
    }
    refuse(tmp_path, content[place], "not UTF-8")


def test_empty_key_is_refused(tmp_path):
    refuse(tmp_path, one_field(raw_type(STRING) + raw_string(b""), key=b""), "key is empty")


def test_duplicate_key_is_refused(tmp_path):
    field = u32_field("twice", 1)
    refuse(tmp_path, raw_header(num_fields=2, rest=field + field), "'twice' appears twice")


def test_duplicate_tensor_is_refused(tmp_path):
    tensors = pack([("same", (32,), "F32"), ("same", (32,), "F32")])
    path = small_file(tmp_path / "small.gguf", tensors=tensors)
    with pytest.raises(ModelFileError, match="'same' appears twice"):
        read_header(path)


@pytest.mark.parametrize("alignment", [0, 3, 1 << 30])
def test_alignment_must_be_a_moderate_power_of_two(tmp_path, alignment):
    field = u32_field("general.alignment", alignment)
    refuse(tmp_path, raw_header(num_fields=1, rest=field), "power of two")


def test_alignment_of_another_type_is_refused(tmp_path):
    field = text_field("general.alignment", "32")
    refuse(tmp_path, raw_header(num_fields=1, rest=field), "power of two")


def tensor_bytes(*, name=b"t", dims=(32,), kind=0, offset=0, num_dims=None) -> bytes:
    count = len(dims) if num_dims is None else num_dims
    rest = struct.pack(f"<I{len(dims)}QIQ", count, *dims, kind, offset)
    return raw_header(num_tensors=1, rest=raw_string(name) + rest)


def test_tensor_with_too_many_dimensions_is_refused(tmp_path):
    refuse(tmp_path, tensor_bytes(num_dims=5), "dimensions of 't'")


def test_tensor_of_impossible_size_is_refused(tmp_path):
    refuse(tmp_path, tensor_bytes(dims=(1 << 40, 1 << 40)), "impossible shape")


def test_tensor_of_unknown_type_is_refused(tmp_path):
    refuse(tmp_path, tensor_bytes(kind=4711), "unknown type 4711")


def test_tensor_whose_rows_are_no_whole_blocks_is_refused(tmp_path):
    refuse(tmp_path, tensor_bytes(dims=(33,), kind=12), "no multiple of the 256")


def test_tensor_with_an_impossible_offset_is_refused(tmp_path):
    refuse(tmp_path, tensor_bytes(offset=HUGE), "impossible offset")


def test_tensor_with_a_name_too_long_for_ggml_is_refused(tmp_path):
    refuse(tmp_path, tensor_bytes(name=b"n" * 64), "a tensor name claims a length")


def test_header_beyond_the_limit_is_refused(tmp_path):
    path = small_file(tmp_path / "small.gguf")
    with pytest.raises(ModelFileError, match="larger than 1000 bytes"):
        read_header(path, Limits(header_bytes=1000))


def test_folder_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match=r"cannot be read|not a regular file"):
        read_header(tmp_path)


def test_named_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="not a regular file"):
        read_header(tmp_path / "pipe")


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_header(tmp_path / "nowhere.gguf")


def test_huge_layer_count_makes_no_huge_summary(tmp_path):
    fields = {"smollm3.block_count": u32_field("smollm3.block_count", (1 << 32) - 1)}
    summary = inspect(small_file(tmp_path / "small.gguf", fields=fields))
    assert summary.hyperparameters is None
    assert summary.nope_layers == ()
    assert "must be from 1 to" in (summary.hyperparameters_problem or "")


def test_shortened_text_is_escaped_and_bounded():
    assert shorten("\x1b[31m") == "'\\x1b[31m'"
    assert len(shorten("x" * 1000)) < 100


def test_tensor_counts_its_elements():
    (tensor,) = pack([("t", (256, 3), "Q4_K")])
    assert isinstance(tensor, Tensor)
    assert (tensor.num_elements, tensor.num_rows, tensor.num_bytes) == (768, 3, 432)
