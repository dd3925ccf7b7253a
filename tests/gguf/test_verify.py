import os
import shutil

import pytest

from service.errors import ModelFileError
from service.gguf.check import Check
from service.gguf.header import read_header
from service.gguf.remap import remap
from service.gguf.smollm3 import NOPE_KEY
from service.gguf.structure import check_structure
from service.gguf.verify import verify
from service.gguf.writer import i32_array_field, text_field, texts_field, u32_field
from tests.gguf.builders import SMALL, key_of, pack, small_file, small_tensors

PROBED = ["values", "numerics", "load", "positions"]


def by_name(checks) -> dict[str, Check]:
    return {check.name: check for check in checks}


def failures(path) -> dict[str, str]:
    """Of the structure alone; the rest takes a process."""
    checks = check_structure(read_header(path))
    return {check.name: check.detail for check in checks if check.outcome == "failed"}


@pytest.fixture(scope="module")
def verified(remapped) -> list[Check]:
    return list(verify(remapped))


def test_remapped_file_passes_every_check(verified):
    structure = ["header", "shape", "layout", "tensors", "quantisation", "tokenizer", "mapping"]
    assert [check.name for check in verified] == structure + PROBED
    assert {check.outcome for check in verified} == {"passed"}


def test_positions_are_measured_layer_by_layer(verified):
    detail = by_name(verified)["positions"].detail
    assert "6 RoPE layers turn a key by" in detail
    assert "2 NoPE layers [3, 7] by 0e+00" in detail


def test_numerics_cover_every_type_in_the_file(verified):
    detail = by_name(verified)["numerics"].detail
    assert all(kind in detail for kind in ("F32", "Q4_K", "Q6_K"))


def test_llama_file_fails_for_its_positions(llama):
    checks = by_name(verify(llama))
    assert checks["load"].outcome == "passed"
    assert checks["positions"].outcome == "failed"
    assert "layers [3, 7] must not rotate, and do" in checks["positions"].detail


def test_file_that_is_not_remapped_is_sound(tmp_path):
    checks = by_name(verify(small_file(tmp_path / "small.gguf")))
    assert checks["mapping"].outcome == "skipped"
    assert "gguf remap" in checks["mapping"].detail
    assert not [check for check in checks.values() if check.outcome == "failed"]


def test_plain_llama_file_passes_with_rotation_everywhere(tmp_path):
    checks = by_name(verify(small_file(tmp_path / "small.gguf", family="llama")))
    assert checks["positions"].outcome == "passed"
    assert "4 RoPE layers" in checks["positions"].detail


def test_unreadable_header_is_the_only_check(tmp_path):
    (tmp_path / "junk.gguf").write_bytes(b"junk" * 100)
    (check,) = verify(tmp_path / "junk.gguf")
    assert (check.name, check.outcome) == ("header", "failed")


def test_llama_cpp_sees_no_file_whose_structure_is_wrong(tmp_path):
    path = small_file(tmp_path / "small.gguf")
    os.truncate(path, path.stat().st_size - 4000)
    checks = by_name(verify(path))
    assert "cut short by" in checks["layout"].detail
    assert {checks[name].outcome for name in PROBED} == {"skipped"}


def test_reason_of_llama_cpp_for_refusing_a_file_is_told(tmp_path):
    key = "tokenizer.ggml.pre"
    path = small_file(tmp_path / "small.gguf", fields={key: text_field(key, "no-such-one")})
    checks = by_name(verify(path))
    assert checks["load"].outcome == "failed"
    assert "unknown pre-tokenizer type: 'no-such-one'" in checks["load"].detail
    assert checks["positions"].outcome == "skipped"


def test_child_that_llama_cpp_ends_is_a_failed_check(tmp_path, monkeypatch):
    monkeypatch.setattr("service.gguf.verify.PROBE", "tests.gguf.aborting_probe")
    checks = by_name(verify(small_file(tmp_path / "small.gguf")))
    assert checks["values"].outcome == "passed"
    assert checks["numerics"].outcome == "failed"
    assert "was ended by signal 6: GGML_ASSERT" in checks["numerics"].detail
    assert checks["load"].outcome == "skipped"


def test_child_that_hangs_is_ended(remapped):
    checks = by_name(verify(remapped, timeout_seconds=0.01))
    assert "took more than" in checks["values"].detail
    assert checks["load"].outcome == "skipped"


def test_outcome_is_told_while_the_next_check_still_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("service.gguf.verify.PROBE", "tests.gguf.hanging_probe")
    checks = verify(small_file(tmp_path / "small.gguf"))
    assert next(check for check in checks if check.name == "values").detail == "fine"
    checks.close()


def test_weights_that_are_no_numbers_are_found(tiny, tmp_path):
    path = tmp_path / "broken.gguf"
    shutil.copy(tiny, path)
    header = read_header(path)
    tensor = next(tensor for tensor in header.tensors if tensor.name == "blk.5.ffn_up.weight")
    with path.open("r+b") as file:
        file.seek(header.data_start + tensor.offset)
        file.write(b"\x00\x7e")  # a scale that is no number
    values = by_name(verify(path))["values"]
    assert values.outcome == "failed"
    assert "blk.5.ffn_up.weight" in values.detail


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blk__2__ffn_up__weight": ()}, "1 missing: 'blk.2.ffn_up.weight'"),
        ({"blk__2__ffn_up__weight": (32, 32)}, r"has shape (32, 32), not (32, 64)"),
        ({"blk__9__ffn_up__weight": (32, 64)}, "1 not of this architecture"),
    ],
)
def test_tensors_must_be_those_of_the_architecture(tmp_path, change, message):
    path = small_file(tmp_path / "small.gguf", tensors=small_tensors(**change))
    assert message in failures(path)["tensors"]


def test_overlapping_tensors_are_found(tmp_path):
    tensors = small_tensors()
    second = tensors[1]
    moved = type(second)(
        name=second.name,
        shape=second.shape,
        type=second.type,
        offset=0,
        num_bytes=second.num_bytes,
    )
    path = small_file(tmp_path / "small.gguf", tensors=[tensors[0], moved, *tensors[2:]])
    assert "overlaps the tensor before" in failures(path)["layout"]


def test_quantisation_must_be_one_that_is_served_fast(tmp_path):
    path = small_file(tmp_path / "small.gguf", tensors=pack([("t", (256, 2), "TQ1_0")]))
    assert "'t' is TQ1_0; accepted are" in failures(path)["quantisation"]


def test_norms_must_be_f32(tmp_path):
    tensors = pack([("output_norm.weight", (32,), "F16")])
    path = small_file(tmp_path / "small.gguf", tensors=tensors)
    assert "is F16, not F32" in failures(path)["quantisation"]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (texts_field("tokenizer.ggml.tokens", ["a"]), "1 tokens for embeddings"),
        (texts_field("tokenizer.ggml.tokens", ["a"] * 260), "token 'a' appears 260 times"),
        (i32_array_field("tokenizer.ggml.token_type", [1]), "1 token types for 260 tokens"),
        (u32_field("tokenizer.ggml.eos_token_id", 260), "names no token of 260"),
    ],
)
def test_tokenizer_must_fit_the_embeddings(tmp_path, field, message):
    key = key_of(field)
    path = small_file(tmp_path / "small.gguf", fields={key: field})
    assert message in failures(path)["tokenizer"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("block_count", 1 << 30, "must be from 1 to"),
        ("attention.head_count", 0, "must be from 1 to"),
        ("attention.head_count", 5, "no multiple of 5 heads"),
        ("attention.head_count_kv", 3, "do not share 3"),
        ("rope.dimension_count", 4, "RoPE of 4 in heads of 8"),
    ],
)
def test_shape_must_make_sense(tmp_path, key, value, message):
    key = f"smollm3.{key}"
    path = small_file(tmp_path / "small.gguf", fields={key: u32_field(key, value)})
    assert message in failures(path)["shape"]


def test_key_families_must_agree(tmp_path):
    key = "llama.block_count"
    path = small_file(tmp_path / "small.gguf", fields={key: u32_field(key, SMALL.num_layers + 1)})
    assert "different values" in failures(path)["mapping"]


def test_nope_layers_must_be_those_that_llama_cpp_leaves_alone(tmp_path):
    source = small_file(tmp_path / "in.gguf", fields={NOPE_KEY: i32_array_field(NOPE_KEY, [0, 1])})
    path = remap(source, tmp_path / "small.gguf").target
    assert "lists other layers" in failures(path)["mapping"]


def test_list_of_nope_layers_of_a_wrong_type_is_refused(tmp_path):
    source = small_file(tmp_path / "in.gguf", fields={NOPE_KEY: u32_field(NOPE_KEY, 3)})
    with pytest.raises(ModelFileError, match="must be an array of layer numbers"):
        remap(source, tmp_path / "out.gguf")
