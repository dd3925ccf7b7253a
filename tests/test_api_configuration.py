"""What the composition root makes of the settings that say who may call."""

import pytest

from service.api.rate_limits import RateLimits
from service.app import _configure_api
from service.errors import SettingsError
from service.settings import Settings


def configure(**settings):
    return _configure_api(Settings.model_validate(settings))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_on_loopback_names_are_checked(host):
    assert configure(host=host).hosts == frozenset()
    assert configure(host=host, allowed_hosts="a, b").hosts == {"a", "b"}


def test_elsewhere_names_are_checked_where_they_are_said():
    assert configure(host="0.0.0.0").hosts is None
    assert configure(host="0.0.0.0", allowed_hosts="a").hosts == {"a"}


def test_who_has_no_best_priority_of_its_own_has_the_setting(tmp_path):
    file = tmp_path / "keys.toml"
    file.write_text(
        '[[callers]]\nname = "a"\nkey = "one"\n[[callers]]\nname = "b"\nkey = "two"\n'
        "best_priority = -3"
    )
    config = configure(api_keys="three", keys_file=file, limits={"best_priority": 5})
    assert [key.caller.best_priority for key in config.api_keys] == [5, -3, 5]
    assert config.best_priority == 5


def test_no_limit_is_the_default():
    assert configure().rate_limits == RateLimits()


def test_limits_hold_for_keys_without_their_own_and_for_all_together_without_keys():
    limits = {"requests_per_minute": 5, "tokens_per_minute": 0, "max_concurrent": 2}
    config = configure(api_keys="one", limits=limits)
    expected = RateLimits(requests_per_minute=5, max_concurrent=2)
    assert config.rate_limits == expected
    assert [key.caller.limits for key in config.api_keys] == [expected]


def test_what_the_file_says_of_a_key_holds_where_the_list_has_it_too(tmp_path):
    file = tmp_path / "keys.toml"
    file.write_text('[[callers]]\nname = "alice"\nkey = "one"\n')
    config = configure(api_keys="one,two", keys_file=file)
    assert [key.caller.name for key in config.api_keys] == ["alice", None]
    plain = configure(api_keys="one")
    assert config.api_keys[0].caller.tenant == plain.api_keys[0].caller.tenant


def test_a_file_that_is_wrong_stops_the_start(tmp_path):
    with pytest.raises(SettingsError, match="SMOLSERVE_KEYS_FILE"):
        configure(keys_file=tmp_path / "nothing.toml")
