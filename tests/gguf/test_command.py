import json

import pytest
from typer.testing import CliRunner

from service.cli import gguf
from service.errors import ModelFileError
from service.gguf.writer import text_field
from tests.gguf.builders import small_file


def run(*arguments):
    return CliRunner().invoke(gguf.app, [str(argument) for argument in arguments])


def test_inspect_prints_tables_of_the_remapped_file(remapped):
    result = run("inspect", remapped)
    assert result.exit_code == 0
    for text in ("smollm3", "Q4_K", "3, 7", "tied", "nothing to do", "present", "128012"):
        assert text in result.stdout


def test_inspect_prints_json_with_an_estimate_of_memory(remapped):
    result = run("inspect", remapped, "--json", "--slots", 2, "--context", 1000)
    summary = json.loads(result.stdout)
    assert summary["nope_layers"] == [3, 7]
    assert summary["memory"]["num_slots"] == 2
    assert summary["memory"]["kv_bytes"] == 2 * 1024 * summary["kv_bytes_per_token"]["f16"]


def test_inspect_escapes_what_a_file_would_say_to_the_terminal(tmp_path):
    name = text_field("general.name", "\x1b]0;title\x07[red]name[/nothing]")
    result = run("inspect", small_file(tmp_path / "small.gguf", fields={"general.name": name}))
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "[red]name[/nothing]" in result.stdout


def test_inspect_of_a_file_that_is_none_raises_a_clear_error(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"nothing")
    result = run("inspect", tmp_path / "x.gguf")
    assert isinstance(result.exception, ModelFileError)
    assert "not a GGUF file" in str(result.exception)


def test_remap_says_what_it_did(tmp_path):
    source = small_file(tmp_path / "in.gguf")
    result = run("remap", source, tmp_path / "out.gguf")
    assert "11 keys added; architecture smollm3" in result.stdout
    again = run("remap", tmp_path / "out.gguf", tmp_path / "again.gguf", "--json")
    assert json.loads(again.stdout)["changed"] is False


def test_remap_to_llama_needs_two_words(tmp_path):
    source, target = small_file(tmp_path / "in.gguf"), tmp_path / "out.gguf"
    refused = run("remap", source, target, "--architecture", "llama")
    assert isinstance(refused.exception, ModelFileError)
    done = run("remap", source, target, "--architecture", "llama", "--accept-rope-everywhere")
    assert "its answers are wrong" in done.stdout


def test_verify_prints_a_line_for_each_check_and_exits_with_0(remapped):
    result = run("verify", remapped)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 11
    assert all(line.startswith("ok ") for line in lines)


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_verify_exits_with_1_if_a_check_fails(tmp_path, option):
    path = small_file(tmp_path / "small.gguf", tensors=[])
    result = run("verify", path, *option)
    assert result.exit_code == 1
    assert "failed" in result.stdout.lower()


def test_synth_writes_a_file(tmp_path):
    result = run("synth", tmp_path / "tiny.gguf", "--size", "tiny", "--seed", 7)
    assert "tiny, seed 7, 31.8 MiB" in result.stdout
    assert run("inspect", tmp_path / "tiny.gguf", "--json").exit_code == 0
