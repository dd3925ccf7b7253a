"""What the composition root makes of the settings that say who may call."""

import pytest

from service.api.keys import Caller
from service.api.rate_limits import RateLimits
from service.app import _configure_api, _configure_keys, _read_keys_again
from service.errors import SettingsError
from service.settings import Settings


def configure(**settings):
    return _configure_api(Settings.model_validate(settings))


def callers(**settings):
    return _configure_keys(Settings.model_validate(settings)).callers


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
    limits = {"best_priority": 5}
    found = callers(api_keys="three", keys_file=file, limits=limits)
    assert [caller.best_priority for caller in found] == [5, -3, 5]
    assert [caller.best_priority for caller in callers(limits=limits)] == [5]


def test_no_limit_is_the_default():
    assert callers() == [Caller()]


def test_limits_hold_for_keys_without_their_own_and_for_all_together_without_keys():
    limits = {"requests_per_minute": 5, "tokens_per_minute": 0, "max_concurrent": 2}
    expected = RateLimits(requests_per_minute=5, max_concurrent=2)
    for found in (callers(limits=limits), callers(api_keys="one", limits=limits)):
        assert [caller.limits for caller in found] == [expected]


def test_what_the_file_says_of_a_key_holds_where_the_list_has_it_too(tmp_path):
    file = tmp_path / "keys.toml"
    file.write_text('[[callers]]\nname = "alice"\nkey = "one"\n')
    found = callers(api_keys="one,two", keys_file=file)
    assert [caller.name for caller in found] == ["alice", None]
    assert found[0].tenant == callers(api_keys="one")[0].tenant


def test_a_file_that_is_wrong_stops_the_start(tmp_path):
    with pytest.raises(SettingsError, match="SMOLSERVE_KEYS_FILE"):
        callers(keys_file=tmp_path / "nothing.toml")


def test_a_file_that_is_read_again_changes_all_or_nothing(tmp_path):
    file = tmp_path / "keys.toml"
    file.write_text('[[callers]]\nname = "alice"\nkey = "one"\n')
    settings = Settings.model_validate({"api_keys": "three", "keys_file": file})
    keys = _configure_keys(settings)
    file.write_text('[[callers]]\nname = "bob"\nkey = "two"\n')
    _read_keys_again(settings, keys)
    assert [caller.name for caller in keys.callers] == ["bob", None]
    file.write_text("[[callers]]\nname = ")
    _read_keys_again(settings, keys)
    assert [caller.name for caller in keys.callers] == ["bob", None]
