import logging

import pytest
import structlog


@pytest.fixture(autouse=True)
def unconfigured_logging():
    """Each test configures logging for itself, and leaves it as it was."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
