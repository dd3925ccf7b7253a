import msgspec
import pytest

from service.errors import ModelFileError
from service.gguf.memory import estimate_memory, kv_bytes_per_token
from service.gguf.smollm3 import MAPPED, NOPE_KEY
from service.gguf.summary import inspect, layer_of
from service.gguf.synth import plan
from service.gguf.tables import count_bytes, format_ranges, printable
from service.gguf.writer import i32_array_field, text_field, u32_field
from tests.gguf.builders import SMALL, pack, small_file, small_tensors


def test_summary_tells_shape_and_tensors(tmp_path):
    summary = inspect(small_file(tmp_path / "small.gguf"))
    assert summary.hyperparameters is not None
    assert summary.hyperparameters.num_layers == SMALL.num_layers
    assert summary.num_tensors == len(small_tensors())
    assert summary.tied_embeddings
    (group,) = summary.quantisations
    assert (group.type, group.num_tensors) == ("F32", len(small_tensors()))
    assert ("blk.*.ffn_up.weight", (32, 64), 4) in {
        (shape.name, shape.shape, shape.num_tensors) for shape in group.shapes
    }


def test_separate_output_is_not_tied(tmp_path):
    tensors = pack([("output.weight", (32, 260), "F32")])
    assert not inspect(small_file(tmp_path / "small.gguf", tensors=tensors)).tied_embeddings


def test_mapping_names_all_ten_keys_and_what_is_missing(tmp_path):
    summary = inspect(small_file(tmp_path / "small.gguf"))
    assert tuple(mapping.suffix for mapping in summary.mapping) == MAPPED
    assert {mapping.state for mapping in summary.mapping} == {"missing"}
    assert summary.needs_remap


def test_mapping_shows_values_that_differ(tmp_path):
    key = "llama.block_count"
    summary = inspect(small_file(tmp_path / "small.gguf", fields={key: u32_field(key, 5)}))
    (different,) = [mapping for mapping in summary.mapping if mapping.state == "different"]
    assert (different.source_value, different.target_value) == (4, 5)


def test_key_that_the_source_lacks_is_not_mapped(tmp_path):
    path = small_file(tmp_path / "small.gguf", fields={"smollm3.vocab_size": None})
    states = {mapping.suffix: mapping.state for mapping in inspect(path).mapping}
    assert states["vocab_size"] == "nothing to map"


def test_nope_layers_come_from_the_architecture_or_the_metadata(tmp_path):
    plain = inspect(small_file(tmp_path / "small.gguf"))
    assert (plain.nope_layers, plain.nope_source) == ((3,), "architecture")
    field = i32_array_field(NOPE_KEY, [1, 2])
    said = inspect(small_file(tmp_path / "small.gguf", fields={NOPE_KEY: field}))
    assert (said.nope_layers, said.nope_source) == ((1, 2), "metadata")
    other = inspect(small_file(tmp_path / "small.gguf", family="llama"))
    assert (other.nope_layers, other.nope_source) == ((), "none")


def test_malformed_list_of_nope_layers_is_refused(tmp_path):
    path = small_file(tmp_path / "small.gguf", fields={NOPE_KEY: u32_field(NOPE_KEY, 3)})
    with pytest.raises(ModelFileError, match="must be an array of layer numbers"):
        inspect(path)


def test_long_texts_and_arrays_appear_by_length(tmp_path):
    key = "tokenizer.chat_template"
    summary = inspect(small_file(tmp_path / "s.gguf", fields={key: text_field(key, "x" * 5000)}))
    assert summary.chat_template_len == 5000
    entries = {entry.key: entry for entry in summary.metadata}
    assert (entries[key].value, entries[key].length) == (None, 5000)
    assert entries["tokenizer.ggml.tokens"].type == "array of string"


def test_special_token_outside_of_the_vocabulary_has_no_text(tmp_path):
    key = "tokenizer.ggml.eos_token_id"
    summary = inspect(small_file(tmp_path / "small.gguf", fields={key: u32_field(key, 9999)}))
    (eos,) = [token for token in summary.tokenizer.special if token.role == "eos"]
    assert (eos.token_id, eos.text) == (9999, None)


def test_summary_of_the_tiny_model_names_its_tokenizer(tiny):
    tokenizer = inspect(tiny).tokenizer
    assert (tokenizer.model, tokenizer.pre_tokenizer) == ("gpt2", "smaug-bpe")
    texts = {token.role: token.text for token in tokenizer.special}
    assert texts["eos"] == "<|im_end|>"
    assert {token.text for token in tokenizer.special} >= {
        "<think>",
        "<|im_start|>",
        "</tool_call>",
    }


def test_unknown_architecture_has_no_shape_but_a_reason(tmp_path):
    fields = {"general.architecture": text_field("general.architecture", "mamba")}
    summary = inspect(small_file(tmp_path / "small.gguf", fields=fields))
    assert summary.hyperparameters is None
    assert "mamba.attention.head_count is missing" in (summary.hyperparameters_problem or "")
    assert summary.estimate_memory(num_slots=1, slot_len=1, kv_type="f16") is None


def test_json_keeps_its_fields(tmp_path):
    """What scripts rely on: adding a field is fine, any other change raises SCHEMA_VERSION."""
    written = msgspec.to_builtins(inspect(small_file(tmp_path / "small.gguf")))
    assert written["schema_version"] == 1
    assert set(written) == {
        "schema_version", "path", "file_size", "missing_bytes", "gguf_version", "alignment",
        "header_bytes", "num_tensors", "num_metadata", "architecture", "name", "hyperparameters",
        "hyperparameters_problem", "tensor_bytes", "quantisations", "layer_quantisations",
        "nope_layers", "nope_source", "tied_embeddings", "tokenizer", "chat_template_len",
        "mapping", "needs_remap", "kv_bytes_per_token", "metadata",
    }  # fmt: skip


def test_3b_takes_72_kibibytes_of_kv_a_token():
    shape = plan("3b").shape
    assert kv_bytes_per_token(shape, "f16") == 72 * 1024
    assert kv_bytes_per_token(shape, "q8_0") == 72 * 1024 * 17 // 32


def test_memory_estimate_rounds_slots_up_as_llama_cpp_does():
    shape = plan("3b").shape
    memory = estimate_memory(shape, weight_bytes=10, num_slots=2, slot_len=300, kv_type="f16")
    assert memory.kv_bytes == 2 * 512 * 72 * 1024
    assert memory.total_bytes == 10 + memory.kv_bytes + memory.compute_bytes


def test_memory_estimate_of_compute_is_what_llama_cpp_allocates_for_the_3b():
    """Measured once by hand: 88.4 MiB for 8 slots of 4,096 tokens."""
    shape = plan("3b").shape
    memory = estimate_memory(shape, weight_bytes=0, num_slots=8, slot_len=4096, kv_type="f16")
    assert memory.compute_bytes / 2**20 == pytest.approx(88.4, rel=0.05)


def test_layers_are_read_from_names():
    assert [layer_of(name) for name in ("blk.12.attn_q.weight", "blk.x.y", "output")] == [
        12,
        None,
        None,
    ]


def test_ranges_are_written_short():
    assert format_ranges([0, 1, 2, 3, 6, 9, 10]) == "0-3, 6, 9, 10"


def test_sizes_are_written_in_their_unit():
    assert [count_bytes(size) for size in (2048, 20 << 20, 1911451296)] == [
        "2.0 KiB",
        "20.0 MiB",
        "1.78 GiB",
    ]


def test_terminal_commands_in_a_file_are_not_obeyed():
    assert printable("a\x1b[31m\nb") == "a\\x1b[31m\\nb"
    assert printable("Łódź") == "Łódź"
