"""docs/security.md against the code that it speaks of."""

import re
import tomllib

from service.api.keys import Caller
from service.api.keys_file import read_keys_file
from service.api.rate_limits import ESTIMATED_ANSWER_TOKENS, RATE_LIMIT_HEADERS
from service.settings import list_settings
from tests.deploy.observation import ROOT

DOCUMENT = (ROOT / "docs" / "security.md").read_text()


def test_every_setting_named_is_one():
    named = set(re.findall(r"\bSMOLSERVE_\w+", DOCUMENT))
    assert named
    assert named <= {setting.variable for setting in list_settings()}


def test_every_test_that_holds_a_claim_is_there():
    named = set(re.findall(r"tests/\w+/\w+\.py", DOCUMENT))
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_the_example_is_a_file_of_keys(tmp_path):
    [example] = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
    path = tmp_path / "keys.toml"
    path.write_text(example)
    names = [key.caller.name for key in read_keys_file(path, Caller())]
    assert names == [table["name"] for table in tomllib.loads(example)["callers"]]


def test_figures_and_headers_are_those_of_the_code():
    assert f"or {ESTIMATED_ANSWER_TOKENS}, whichever is less" in DOCUMENT
    assert {header for header in RATE_LIMIT_HEADERS if header.endswith("requests")} <= set(
        re.findall(r"`(x-ratelimit-[a-z-]+)`", DOCUMENT)
    )
