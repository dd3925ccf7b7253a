"""SMOLSERVE_KEYS_FILE: who has which key and may use what."""

import hashlib

import pytest

from service.api.keys import ApiKey, ApiKeys, Caller, digest_key
from service.api.keys_file import read_keys_file
from service.api.rate_limits import RateLimits
from service.errors import SettingsError

SECRET = "sk-a-long-secret"
DIGEST = hashlib.sha256(SECRET.encode()).hexdigest()
ANYONE = Caller()


def read(tmp_path, text, defaults=ANYONE):
    path = tmp_path / "keys.toml"
    path.write_text(text)
    return read_keys_file(path, defaults)


def complaint(tmp_path, text):
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(f"SMOLSERVE_KEYS_FILE: {tmp_path / 'keys.toml'}: ")
    assert SECRET not in message
    return message.partition("keys.toml: ")[2]


def test_a_caller_has_what_its_table_says(tmp_path):
    [key] = read(
        tmp_path,
        f"""
        [[callers]]
        name = "alice"
        sha256 = "{DIGEST}"
        weight = 2.5
        requests_per_minute = 60
        tokens_per_minute = 10_000
        max_concurrent = 4
        best_priority = -5
        """,
    )
    assert key == ApiKey(
        digest=bytes.fromhex(DIGEST),
        caller=Caller(
            tenant=DIGEST[:16],
            name="alice",
            weight=2.5,
            limits=RateLimits(requests_per_minute=60, tokens_per_minute=10_000, max_concurrent=4),
            best_priority=-5,
        ),
    )


def test_a_key_and_its_hash_say_the_same(tmp_path):
    [by_key] = read(tmp_path, f'[[callers]]\nname = "a"\nkey = "{SECRET}"')
    [by_hash] = read(tmp_path, f'[[callers]]\nname = "a"\nsha256 = "{DIGEST.upper()}"')
    assert by_key == by_hash


def test_a_limit_that_is_not_there_is_the_default_and_0_is_none(tmp_path):
    defaults = Caller(limits=RateLimits(requests_per_minute=10, tokens_per_minute=20))
    text = f'[[callers]]\nname = "a"\nkey = "{SECRET}"\nrequests_per_minute = 0'
    [key] = read(tmp_path, text, defaults)
    assert key.caller.limits == RateLimits(tokens_per_minute=20)


def test_a_key_that_moves_into_the_file_keeps_its_tenant(tmp_path):
    [described] = read(tmp_path, f'[[callers]]\nname = "a"\nkey = "{SECRET}"')
    header = f"Bearer {SECRET}".encode()
    keys = (ApiKey.of_digest(digest_key(SECRET)), described)
    callers = [ApiKeys([key], anyone=Caller()).authenticate(header) for key in keys]
    assert {caller.tenant for caller in callers} == {DIGEST[:16]}


VALID = f'name = "a"\nsha256 = "{DIGEST}"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[callers]\n", "line 1"),
        ("", "[[callers]]"),
        ("[callers.alice]\n", "[[callers]]"),
        ("callers = [1]\n", "[[callers]]"),
        ("[[callers]]\n[[keys]]\n", "[[callers]]"),
        (f'[[callers]]\nkey = "{SECRET}"', "callers[1]: name must be"),
        (f'[[callers]]\nname = "a b"\nkey = "{SECRET}"', "callers[1]: name must be"),
        ('[[callers]]\nname = "a"', "callers[1] (a): key or sha256 must be there, and not both"),
        (f'[[callers]]\n{VALID}key = "{SECRET}"', "and not both"),
        (f'[[callers]]\nname = "a"\nkey = "{SECRET} "', "key must be text without white space"),
        (f'[[callers]]\nname = "a"\nsha256 = "{SECRET}"', "sha256 must be the 64 hexadecimal"),
        (f"[[callers]]\n{VALID}weight = 0", "weight must be a number from 0.01 to 100"),
        (f"[[callers]]\n{VALID}weight = nan", "weight must be a number"),
        (f"[[callers]]\n{VALID}weight = true", "weight must be a number"),
        (f"[[callers]]\n{VALID}best_priority = 0.5", "best_priority must be a whole number"),
        (f"[[callers]]\n{VALID}best_priority = -101", "best_priority must be a whole number from"),
        (f"[[callers]]\n{VALID}max_concurrent = -1", "max_concurrent must be a whole number"),
        (f"[[callers]]\n{VALID}max_concurrent = 1.5", "max_concurrent must be a whole number"),
        (f"[[callers]]\n{VALID}rpm = 1", "callers[1] (a): rpm is not known; there are"),
        (f'[[callers]]\n{VALID}[[callers]]\nname = "a"\nkey = "x"', "a and a have the same name"),
        (f'[[callers]]\n{VALID}[[callers]]\nname = "b"\nkey = "{SECRET}"', "a and b have the same"),
    ],
)
def test_what_is_wrong_is_named_with_what_to_write_and_no_key_is_quoted(tmp_path, text, expected):
    assert expected in complaint(tmp_path, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"nothing\.toml: No such file"):
        read_keys_file(tmp_path / "nothing.toml", ANYONE)
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(SettingsError, match="UTF-8"):
        read_keys_file(tmp_path / "latin.toml", ANYONE)


def test_nothing_that_is_kept_has_a_key_in_it(tmp_path):
    keys = read(tmp_path, f'[[callers]]\nname = "a"\nkey = "{SECRET}"')
    assert SECRET not in repr(ApiKeys(keys, anyone=Caller())._keys)
