import os
import shutil

import numpy as np
import pytest
from gguf import GGUFReader

from service.errors import ModelFileError
from service.gguf import files, smollm3
from service.gguf.files import PAGE, atomic_file, copy_bytes, ignore_progress, require_space
from service.gguf.header import open_regular, read_header
from service.gguf.remap import PADDING_KEY, needs_remap, remap
from service.gguf.writer import i32_array_field, u32_field
from tests.gguf.builders import small_file

LLAMA_BLOCKS = "llama.block_count"


def remap_small(tmp_path, **kwargs):
    source = small_file(tmp_path / "in.gguf")
    return source, remap(source, tmp_path / "out.gguf", **kwargs)


def test_both_key_families_carry_the_same_values(tmp_path):
    _, remapped = remap_small(tmp_path)
    header = read_header(remapped.target)
    for suffix in smollm3.MAPPED:
        ours, theirs = header.fields[f"smollm3.{suffix}"], header.fields[f"llama.{suffix}"]
        assert (
            header.raw[ours.value_start : ours.end] == header.raw[theirs.value_start : theirs.end]
        )


def test_everything_of_the_source_is_kept_byte_for_byte(tmp_path):
    source, remapped = remap_small(tmp_path)
    before, after = read_header(source), read_header(remapped.target)
    for key, field in before.fields.items():
        kept = after.fields[key]
        assert after.raw[kept.start : kept.end] == before.raw[field.start : field.end]
    assert after.tensors == before.tensors
    old, new = source.read_bytes(), remapped.target.read_bytes()
    assert new[after.data_start :] == old[before.data_start :]


def test_nope_layers_are_written_down(tmp_path):
    _, remapped = remap_small(tmp_path)
    numbers = read_header(remapped.target).numbers(smollm3.NOPE_KEY)
    assert numbers is not None
    assert numbers.tolist() == [3]


def test_architecture_stays(tmp_path):
    _, remapped = remap_small(tmp_path)
    assert read_header(remapped.target).text("general.architecture") == "smollm3"


def test_another_reader_finds_the_same_file(tmp_path):
    source, remapped = remap_small(tmp_path)
    before, after = GGUFReader(source), GGUFReader(remapped.target)
    field = after.get_field(LLAMA_BLOCKS)
    assert field is not None
    assert field.contents() == 4
    for old, new in zip(before.tensors, after.tensors, strict=True):
        assert old.name == new.name
        assert np.array_equal(old.data, new.data)


def test_tensors_start_at_the_same_place_of_a_page_so_that_they_can_be_shared(tmp_path):
    source, remapped = remap_small(tmp_path)
    before, after = read_header(source), read_header(remapped.target)
    assert after.data_start % PAGE == before.data_start % PAGE


def test_remapping_twice_changes_nothing(tmp_path):
    _, once = remap_small(tmp_path)
    assert not needs_remap(once.target)
    twice = remap(once.target, tmp_path / "twice.gguf")
    assert not twice.changed
    assert twice.target.read_bytes() == once.target.read_bytes()


def test_file_of_another_architecture_passes_through_with_a_message(tmp_path):
    source = small_file(tmp_path / "in.gguf", family="llama")
    assert not needs_remap(source)
    remapped = remap(source, tmp_path / "out.gguf")
    assert remapped.message == "architecture llama needs no mapping: copied as it is"
    assert remapped.target.read_bytes() == source.read_bytes()


def test_only_what_is_missing_is_added(tmp_path):
    source = small_file(tmp_path / "in.gguf", fields={LLAMA_BLOCKS: u32_field(LLAMA_BLOCKS, 4)})
    remapped = remap(source, tmp_path / "out.gguf")
    assert LLAMA_BLOCKS not in remapped.added_keys
    assert len(remapped.added_keys) == 10


def test_list_of_nope_layers_that_is_there_is_kept(tmp_path):
    field = i32_array_field(smollm3.NOPE_KEY, [3])
    source = small_file(tmp_path / "in.gguf", fields={smollm3.NOPE_KEY: field})
    assert smollm3.NOPE_KEY not in remap(source, tmp_path / "out.gguf").added_keys


def test_families_that_disagree_are_refused(tmp_path):
    source = small_file(tmp_path / "in.gguf", fields={LLAMA_BLOCKS: u32_field(LLAMA_BLOCKS, 5)})
    with pytest.raises(ModelFileError, match=r"block_count is 5 but smollm3\.block_count is 4"):
        remap(source, tmp_path / "out.gguf")


def test_architecture_llama_must_be_accepted_and_says_what_it_costs(tmp_path):
    with pytest.raises(ModelFileError, match=r"answers are wrong.*--accept-rope-everywhere"):
        remap_small(tmp_path, architecture="llama")
    assert not (tmp_path / "out.gguf").exists()
    remapped = remap(
        tmp_path / "in.gguf",
        tmp_path / "out.gguf",
        architecture="llama",
        accept_rope_everywhere=True,
    )
    assert "its answers are wrong" in remapped.message
    assert read_header(remapped.target).text("general.architecture") == "llama"


def test_remapped_file_can_still_become_llama(tmp_path):
    _, once = remap_small(tmp_path)
    llama = remap(
        once.target, tmp_path / "llama.gguf", architecture="llama", accept_rope_everywhere=True
    )
    header = read_header(llama.target)
    assert header.text("general.architecture") == "llama"
    assert list(header.fields).count(PADDING_KEY) == 1


def test_existing_file_is_replaced_with_force_only(tmp_path):
    (tmp_path / "out.gguf").write_text("mine")
    with pytest.raises(ModelFileError, match="--force"):
        remap_small(tmp_path)
    assert (tmp_path / "out.gguf").read_text() == "mine"
    assert remap_small(tmp_path, force=True)[1].changed


def test_file_can_be_remapped_onto_itself(tmp_path):
    path = small_file(tmp_path / "in.gguf")
    remap(path, path, force=True)
    assert not needs_remap(path)


def test_truncated_source_is_refused(tmp_path):
    source = small_file(tmp_path / "in.gguf")
    os.truncate(source, source.stat().st_size - 1000)
    with pytest.raises(ModelFileError, match="cut short"):
        remap(source, tmp_path / "out.gguf")


def test_full_disk_is_noticed_before_anything_is_written(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(ModelFileError, match="write to another disk"):
        require_space(tmp_path, free * 2)


def test_missing_target_folder_is_named(tmp_path):
    source = small_file(tmp_path / "in.gguf")
    with pytest.raises(ModelFileError, match="does not exist; create it"):
        remap(source, tmp_path / "nowhere" / "out.gguf")


def test_nothing_half_written_is_left(tmp_path):
    def write_and_fail():
        with atomic_file(tmp_path / "out.gguf", force=False) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    (tmp_path / ".out.gguf.part").write_bytes(b"x" * 1_000_000)
    _, remapped = remap_small(tmp_path)
    assert read_header(remapped.target).missing_bytes == 0
    assert remapped.target.stat().st_size < 1_000_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.gguf", "out.gguf"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with (
        atomic_file(tmp_path / "out.gguf", force=False) as file,
        pytest.raises(ModelFileError, match="another process is writing"),
        atomic_file(tmp_path / "out.gguf", force=False),
    ):
        pass
    assert file.closed
    assert (tmp_path / "out.gguf").exists()


def test_progress_ends_with_everything(tmp_path):
    seen: list[tuple[int, int]] = []
    remap_small(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen
    assert seen[-1][0] == seen[-1][1]


def test_copying_without_the_kernels_help_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_copy_in_kernel", lambda *_args: None)
    content = np.random.default_rng(0).bytes(10 << 20)
    (tmp_path / "in").write_bytes(content)
    with (
        open_regular(tmp_path / "in") as source,
        atomic_file(tmp_path / "out", force=False) as target,
    ):
        target.write(b"head")
        copy_bytes(source, 100, target, ignore_progress)
    assert (tmp_path / "out").read_bytes() == b"head" + content[100:]
