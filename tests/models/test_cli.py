import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli import models
from service.models.catalog import FILE_NAME
from tests.models.hub import CONTENT, Hub, run_hub
from tests.models.test_catalog import ENTRY


@pytest.fixture
def models_dir(tmp_path) -> Path:
    (tmp_path / FILE_NAME).write_text(ENTRY)
    return tmp_path


def run(*arguments: str | Path, **variables: str) -> str:
    done = CliRunner().invoke(models.app, [str(item) for item in arguments], env=variables)
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_list_shows_what_is_here_and_what_is_not(models_dir):
    assert "not here" in run("list", "--models-dir", models_dir)
    (models_dir / "tiny.gguf.part").touch()
    assert "partly here" in run("list", "--models-dir", models_dir)
    (models_dir / "tiny.gguf").write_bytes(b"GGUF....")
    [tiny] = json.loads(run("list", "--json", "--models-dir", models_dir))
    assert (tiny["name"], tiny["state"], tiny["size"]) == ("tiny", "here", 8)
    assert tiny["path"] == str(models_dir / "tiny.gguf")


def test_the_folder_is_a_setting(models_dir):
    listed = run("list", "--json", SMOLSERVE_MODELS_DIR=str(models_dir))
    assert [model["name"] for model in json.loads(listed)] == ["tiny"]


def test_pull_fetches_from_the_hub_that_is_set(models_dir):
    with run_hub(Hub()) as hub:
        said = run(
            "pull", "tiny", "--models-dir", models_dir, SMOLSERVE_DOWNLOAD__ENDPOINT=hub.endpoint
        )
    assert f"tiny is at {models_dir / 'tiny.gguf'}" in said.replace("\n", "")
    assert (models_dir / "tiny.gguf").read_bytes() == CONTENT


def test_pull_can_answer_in_json(models_dir):
    with run_hub(Hub()) as hub:
        said = run(
            *("pull", "tiny", "--json", "--models-dir", models_dir),
            SMOLSERVE_DOWNLOAD__ENDPOINT=hub.endpoint,
        )
    assert json.loads(said)["state"] == "here"
