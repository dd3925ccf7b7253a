import os
import shutil

import pytest

from service.errors import ModelFileError
from service.gguf.header import read_header
from service.gguf.remap import needs_remap, remap
from service.gguf.writer import u32_field
from service.models.model_file import ModelFile
from service.models.preparation import prepare_model
from tests.gguf.builders import small_file, small_tensors

MADE = "served.remapped.gguf"


def prepare(tmp_path, path, **options):
    return prepare_model(ModelFile(path=path, entry=None), tmp_path / "models", **options)


def source_in(tmp_path, **options):
    return small_file(tmp_path / "served.gguf", **options)


def test_file_without_llama_keys_is_remapped_into_the_models_folder(tmp_path):
    prepared = prepare(tmp_path, source_in(tmp_path))
    assert prepared.file.path == tmp_path / "models" / MADE
    assert not needs_remap(prepared.file.path)


def test_remapping_is_told_with_its_progress(tmp_path):
    said, steps = [], []
    source = source_in(tmp_path)
    prepare(tmp_path, source, say=said.append, report=lambda *step: steps.append(step))
    line, verifying = said
    assert verifying == f"Verifying {MADE} …"
    assert line.startswith(f"{source} lacks keys of the llama family; remapping it to ")
    assert steps[-1][0] == steps[-1][1]


def test_remapped_file_is_served_under_the_name_of_its_source(tmp_path):
    assert prepare(tmp_path, source_in(tmp_path)).file.name == "served"


def test_it_is_remapped_once(tmp_path):
    source = source_in(tmp_path)
    first = prepare(tmp_path, source).file.path.stat()
    said = []
    second = prepare(tmp_path, source, say=said.append).file.path.stat()
    assert (second.st_ino, second.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    assert not said


def test_file_remapped_by_hand_is_not_made_again(tmp_path):
    source = source_in(tmp_path)
    (tmp_path / "models").mkdir()
    by_hand = remap(source, tmp_path / "models" / MADE).target.stat()
    assert prepare(tmp_path, source).file.path.stat().st_ino == by_hand.st_ino


def served_weight(prepared):
    header = read_header(prepared.file.path)
    return prepared.file.path.read_bytes()[header.data_start :]


def test_source_that_changed_is_remapped_again_even_if_only_its_weights_did(tmp_path):
    source = source_in(tmp_path)
    before = served_weight(prepare(tmp_path, source))
    with source.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\1\2\3\4")
    after = served_weight(prepare(tmp_path, source))
    assert after != before
    assert after[-4:] == b"\1\2\3\4"


def test_older_source_put_in_its_place_is_remapped_as_well(tmp_path):
    source = source_in(tmp_path)
    first = prepare(tmp_path, source).file.path.stat()
    os.utime(source, ns=(0, 1_000_000_000))
    assert prepare(tmp_path, source).file.path.stat().st_ino != first.st_ino


def test_remapped_file_that_was_cut_short_is_made_again(tmp_path):
    source = source_in(tmp_path)
    made = prepare(tmp_path, source).file.path
    os.truncate(made, made.stat().st_size - 100)
    assert read_header(prepare(tmp_path, source).file.path).missing_bytes == 0


@pytest.mark.parametrize("family", ["llama", "smollm3"])
def test_file_that_lacks_nothing_is_served_as_it_is(tmp_path, family):
    path = source_in(tmp_path, family=family)
    if family == "smollm3":
        path = remap(path, tmp_path / "whole.gguf").target
    assert prepare(tmp_path, path).file.path == path
    assert not (tmp_path / "models").exists()


def test_what_was_checked_is_one_line(tmp_path):
    assert prepare(tmp_path, source_in(tmp_path)).checked == (
        "Checked from the header: shape, layout, tensors, quantisation, tokenizer, mapping; "
        "`smolserve gguf verify` checks the weights as well"
    )


def test_file_whose_structure_is_wrong_is_not_served(tmp_path):
    tensors = small_tensors(blk__2__ffn_up__weight=(32, 32))
    with pytest.raises(ModelFileError, match=r"cannot be served: tensors: .*\(32, 32\)"):
        prepare(tmp_path, source_in(tmp_path, tensors=tensors))


def test_file_that_is_cut_short_is_not_served(tmp_path):
    path = source_in(tmp_path)
    os.truncate(path, path.stat().st_size - 1000)
    with pytest.raises(ModelFileError, match=r"cut short by .* bytes; download it again"):
        prepare(tmp_path, path)


def test_key_families_that_disagree_are_not_served(tmp_path):
    key = "llama.block_count"
    with pytest.raises(ModelFileError, match=r"block_count is 5 but smollm3\.block_count is 4"):
        prepare(tmp_path, source_in(tmp_path, fields={key: u32_field(key, 5)}))


def test_full_disk_is_told_with_what_to_do_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage)
    with pytest.raises(ModelFileError, match=r"1000 bytes free and .*SMOLSERVE_MODELS_DIR"):
        prepare(tmp_path, source_in(tmp_path))
    assert list((tmp_path / "models").iterdir()) == []


def test_models_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(ModelFileError, match=r"models cannot be written: File exists"):
        prepare(tmp_path, source_in(tmp_path))


def test_remapped_file_that_does_not_verify_is_not_kept(tmp_path):
    """Weights that are no numbers: the header is right, and only the full check sees it."""
    source = source_in(tmp_path)
    header = read_header(source)
    weight = next(tensor for tensor in header.tensors if tensor.name == "blk.0.attn_q.weight")
    with source.open("r+b") as file:
        file.seek(header.data_start + weight.offset)
        file.write(b"\xff" * 4096)
    with pytest.raises(ModelFileError, match="cannot be served"):
        prepare(tmp_path, source)
    assert not list((tmp_path / "models").glob("*.gguf"))
