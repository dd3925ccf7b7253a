"""Tracebacks say where it happened, and quote nobody."""

import io
import json
import logging

import pytest
import structlog

from service.errors import StorageError
from service.telemetry.logs import CONTENT, LogFormat, configure_logging
from tests.api.builders import ScriptedEngine, build_service, hello

SECRET = "the prompt that nobody shall read"


def fail(error, cause):
    raise error from cause


def write(log, error, cause=None, *, log_format: LogFormat = "json", with_content=False):
    """What a logger writes of a failure."""
    stream = io.StringIO()
    configure_logging("info", log_format, stream, with_content=with_content)
    try:
        fail(error, cause)
    except (KeyError, OSError, StorageError, ExceptionGroup):
        log().exception("request failed")
    return stream.getvalue()


LOGGERS = [structlog.get_logger, lambda: logging.getLogger("uvicorn.error")]


@pytest.mark.parametrize("log", LOGGERS)
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_has_types_and_lines_and_no_message(log, log_format):
    text = write(log, KeyError(SECRET), ValueError(SECRET), log_format=log_format)
    assert SECRET not in text
    assert "KeyError" in text
    assert "ValueError" in text
    assert "in fail" in text


@pytest.mark.parametrize("log", LOGGERS)
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_messages_are_written_where_prompts_may_be(log, log_format):
    text = write(
        log, KeyError(SECRET), ValueError(SECRET), log_format=log_format, with_content=True
    )
    assert text.count(SECRET) == 2


def test_each_of_a_group_is_told():
    group = ExceptionGroup(SECRET, [KeyError(SECRET), ZeroDivisionError(SECRET)])
    text = write(structlog.get_logger, group)
    assert SECRET not in text
    for name in ("ExceptionGroup", "KeyError", "ZeroDivisionError"):
        assert name in text


@pytest.mark.parametrize("error", [OSError(28, "No space left"), StorageError("disk is full")])
def test_what_the_system_and_the_service_say_is_kept(error):
    assert str(error) in write(structlog.get_logger, error)


@pytest.mark.parametrize("with_content", [True, False])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_that_fails_on_its_prompt_does_not_show_it(with_content, stream):
    written = io.StringIO()
    configure_logging("debug", "json", written, with_content=with_content)
    engine = ScriptedEngine()
    engine.refusal = KeyError(SECRET)
    service = build_service(engine, log=structlog.get_logger())
    async with service.direct() as http:
        messages = [{"role": "user", "content": SECRET}]
        body = hello(messages=messages, stream=stream)
        answer = await http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 500
    assert SECRET not in answer.text
    assert "KeyError" in written.getvalue()
    assert (SECRET in written.getvalue()) is with_content


@pytest.mark.parametrize("with_content", [True, False])
def test_what_may_quote_a_prompt_has_a_name_of_its_own(with_content):
    stream = io.StringIO()
    configure_logging("info", "json", stream, with_content=with_content)
    structlog.get_logger().warning("constraint_failed", **{CONTENT: SECRET})
    assert (json.loads(stream.getvalue()).get("content") == SECRET) is with_content
