from pathlib import Path

import pytest

from service.errors import SettingsError
from service.kvcache.size_class import SizeClass
from service.settings import Settings, format_value, list_settings


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch):
    for setting in list_settings():
        monkeypatch.delenv(setting.variable, raising=False)


def load_with(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Settings.load()


def test_nothing_needs_to_be_set():
    settings = Settings.load()
    assert settings.model == "smollm2-135m-instruct"
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.engine.contexts == "auto"
    assert settings.api_keys == ()


def test_a_groups_variables_carry_its_name_and_two_underscores(monkeypatch):
    settings = load_with(
        monkeypatch, SMOLSERVE_SCHEDULER__STEP_TOKENS="256", SMOLSERVE_POOL__WORKERS="2"
    )
    assert settings.scheduler.step_tokens == 256
    assert settings.pool.workers == 2


def test_an_option_wins_over_the_variable_and_leaves_the_groups_other_variables(monkeypatch):
    monkeypatch.setenv("SMOLSERVE_ENGINE__THREADS", "2")
    monkeypatch.setenv("SMOLSERVE_ENGINE__KV_TYPE", "q8_0")
    settings = Settings.load({"engine.threads": "3", "port": "9000"})
    assert settings.engine.threads == 3
    assert settings.engine.kv_type == "q8_0"
    assert settings.port == 9000


def test_computed_tokens_are_kept_on_disk_beside_the_users_other_caches(monkeypatch, tmp_path):
    assert Settings.load().cache.disk_bytes == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = load_with(monkeypatch, SMOLSERVE_CACHE__DISK_BYTES="1000000")
    assert settings.cache.disk_dir == tmp_path / "smolserve" / "kv"
    assert settings.cache.disk_bytes == 1_000_000


def test_public_prompts_are_files_separated_by_commas(monkeypatch):
    settings = load_with(monkeypatch, SMOLSERVE_CACHE__PUBLIC_PROMPTS="one.txt, two.txt")
    assert settings.cache.public_prompts == (Path("one.txt"), Path("two.txt"))


def test_size_classes_are_slots_times_tokens(monkeypatch):
    settings = load_with(monkeypatch, SMOLSERVE_ENGINE__CONTEXTS="8x2048, 1x8192")
    assert settings.engine.contexts == (
        SizeClass(slot_len=2048, num_slots=8),
        SizeClass(slot_len=8192, num_slots=1),
    )
    assert format_value(settings.engine.contexts) == "8x2048,1x8192"


@pytest.mark.parametrize("threads", ["0", "auto"])
def test_zero_threads_are_chosen_by_the_service(monkeypatch, threads):
    settings = load_with(monkeypatch, SMOLSERVE_ENGINE__THREADS=threads)
    assert settings.engine.threads == "auto"


def test_lists_are_separated_by_commas_and_keys_stay_secret(monkeypatch):
    settings = load_with(monkeypatch, SMOLSERVE_API_KEYS="sesame-1, sesame-2,")
    assert [key.get_secret_value() for key in settings.api_keys] == ["sesame-1", "sesame-2"]
    assert "sesame" not in repr(settings)


def test_an_empty_variable_counts_as_not_set(monkeypatch):
    assert load_with(monkeypatch, SMOLSERVE_PORT="").port == 8000


def test_unknown_variables_stop_the_start_and_the_likely_one_is_named(monkeypatch):
    with pytest.raises(SettingsError) as caught:
        load_with(
            monkeypatch,
            SMOLSERVE_ENGINE__THREAD="4",
            SMOLSERVE_ENGINE="{}",
            SMOLSERVE_XYZZY="1",
        )
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("SMOLSERVE_ENGINE is not a setting")
    assert lines[1] == (
        "SMOLSERVE_ENGINE__THREAD is not a setting; did you mean SMOLSERVE_ENGINE__THREADS?"
    )
    assert lines[2].startswith("SMOLSERVE_XYZZY is not a setting; see `smolserve serve --help`")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SMOLSERVE_PORT", "99999"),
        ("SMOLSERVE_PORT", "http"),
        ("SMOLSERVE_BACKEND", "tpu"),
        ("SMOLSERVE_ENGINE__CONTEXTS", "8*2048"),
        ("SMOLSERVE_ENGINE__CONTEXTS", "0x2048"),
        ("SMOLSERVE_ENGINE__THREADS", "-1"),
        ("SMOLSERVE_ENGINE__ROPE_SCALING", "0.5"),
        ("SMOLSERVE_ENGINE__ROPE_SCALING", "nan"),
        ("SMOLSERVE_ENGINE__EXTRA_BUFFERS", "yes"),
        ("SMOLSERVE_DRAIN_TIMEOUT_S", "inf"),
        ("SMOLSERVE_SCHEDULER__MAX_QUEUED", "-1"),
        ("SMOLSERVE_CACHE__DISK_BYTES", "-1"),
        ("SMOLSERVE_CACHE__SHARING", "everybody"),
        ("SMOLSERVE_CACHE__MAX_SESSIONS", "0"),
        ("SMOLSERVE_DOWNLOAD__ENDPOINT", "hub"),
        ("SMOLSERVE_TRACING__ENDPOINT", "collector:4318"),
        ("SMOLSERVE_TRACING__ENDPOINT", "http://collector:4318"),
        ("SMOLSERVE_TRACING__SAMPLE_RATIO", "2"),
        ("SMOLSERVE_LOG_PROMPTS", "perhaps"),
    ],
)
def test_an_invalid_value_stops_the_start_with_one_line_that_names_it(monkeypatch, variable, value):
    with pytest.raises(SettingsError) as caught:
        load_with(monkeypatch, **{variable: value})
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"{variable} (--")
    assert repr(value) in line


@pytest.mark.parametrize("kv_type", ["q8_0", "q4_0"])
def test_a_quantised_cache_without_flash_attention_is_refused(monkeypatch, kv_type):
    with pytest.raises(SettingsError) as caught:
        load_with(
            monkeypatch,
            SMOLSERVE_ENGINE__KV_TYPE=kv_type,
            SMOLSERVE_ENGINE__FLASH_ATTENTION="off",
        )
    assert str(caught.value) == (
        "SMOLSERVE_ENGINE__FLASH_ATTENTION (--engine-flash-attention): invalid value 'off': "
        f"a KV cache in {kv_type} needs flash attention; leave it on auto, "
        "or set SMOLSERVE_ENGINE__KV_TYPE=f16"
    )


def test_every_problem_is_told_at_once(monkeypatch):
    with pytest.raises(SettingsError) as caught:
        load_with(monkeypatch, SMOLSERVE_PROT="1", SMOLSERVE_PORT="x", SMOLSERVE_BACKEND="y")
    assert len(str(caught.value).splitlines()) == 3


def test_every_setting_says_what_it_is_for():
    for setting in list_settings():
        assert setting.description, setting.name
        assert setting.option == "--" + setting.name.replace(".", "-").replace("_", "-")
