"""What the composition root makes of the settings that say who computes, and with what."""

import pytest

from service import app
from service.app import _configure_pool
from service.settings import Settings
from tests.test_sizing import shape


@pytest.mark.parametrize(("workers", "threads"), [("auto", 8), (1, 8), (3, 2), (9, 1)])
def test_workers_share_the_cores(monkeypatch, tmp_path, workers, threads):
    monkeypatch.setattr(app, "count_threads", lambda: 8)
    model = tmp_path / "model.gguf"
    model.touch()
    settings = Settings.model_validate({"backend": "cpu", "pool": {"workers": workers}})
    assert _configure_pool(settings, model, shape()).engine.threads == threads


def test_threads_that_are_set_are_each_workers(tmp_path):
    model = tmp_path / "model.gguf"
    model.touch()
    values = {"backend": "cpu", "pool": {"workers": 4}, "engine": {"threads": 3}}
    assert _configure_pool(Settings.model_validate(values), model, shape()).engine.threads == 3
