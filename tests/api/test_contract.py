"""What the description allows, and some that it does not: never a failure, nothing untold."""

from typing import cast

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CHECKS, load_all_checks

from service.api.application import OPERATIONS
from service.api.openapi import describe
from tests.api.builders import MODEL
from tests.api.contract import CHECK_NAMES, service_in_a_thread

load_all_checks()
_CHECKS = CHECKS.get_by_names(list(CHECK_NAMES))
_API = schemathesis.openapi.from_dict(describe(OPERATIONS, model_id=MODEL, needs_key=False))
_API.config.phases.coverage.enabled = False


@pytest.fixture(scope="module")
def url():
    with service_in_a_thread() as service:
        yield service.url


@_API.parametrize()
@settings(
    max_examples=6,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=cast(
        "list[HealthCheck]", list(HealthCheck)
    ),  # an enum, whose type hides it
)
def test_what_comes_back_is_described(case, url):
    case.call_and_validate(base_url=url, checks=_CHECKS)
