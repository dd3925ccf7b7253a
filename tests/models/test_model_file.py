import pytest

from service.errors import ModelFileError
from service.models.catalog import FILE_NAME
from service.models.model_file import resolve_model
from tests.models.test_catalog import ENTRY


def test_a_name_is_the_file_of_that_name_in_the_models_folder(tmp_path):
    (tmp_path / FILE_NAME).write_text(ENTRY)
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF....")
    model = resolve_model("tiny", tmp_path)
    assert model.path == tmp_path / "tiny.gguf"
    assert model.entry is not None
    assert model.name == model.entry.name == "tiny"


def test_a_path_needs_no_catalogue(tmp_path):
    path = tmp_path / "mine.gguf"
    path.write_bytes(b"GGUF....")
    model = resolve_model(str(path), tmp_path / "nowhere")
    assert (model.path, model.entry, model.name) == (path, None, "mine")


def test_a_model_that_is_not_here_says_how_to_fetch_it(tmp_path):
    (tmp_path / FILE_NAME).write_text(ENTRY)
    with pytest.raises(ModelFileError, match="smolserve models pull tiny"):
        resolve_model("tiny", tmp_path)


def test_a_path_that_leads_nowhere_is_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"there is no model file .*absent\.gguf"):
        resolve_model(str(tmp_path / "absent.gguf"), tmp_path)


def test_a_name_that_nothing_has_is_answered_with_the_catalogue(tmp_path):
    with pytest.raises(ModelFileError, match="the catalogue has: smollm2-135m-instruct"):
        resolve_model("gpt", tmp_path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "page.gguf"
    path.write_bytes(b"<html>")
    with pytest.raises(ModelFileError, match="is not a GGUF file: it starts with b'<htm'"):
        resolve_model(str(path), tmp_path)
