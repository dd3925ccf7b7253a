import io
import json
import logging

import pytest
import structlog

from service.telemetry.logs import configure_logging


def test_json_logs_are_one_object_a_line():
    stream = io.StringIO()
    configure_logging("info", "auto", stream)
    structlog.get_logger().info("request", path="/v1/models", status=200)
    [line] = stream.getvalue().splitlines()
    event = json.loads(line)
    assert (event["event"], event["level"], event["status"]) == ("request", "info", 200)


def test_lines_below_the_level_are_not_written():
    stream = io.StringIO()
    configure_logging("warning", "json", stream)
    structlog.get_logger().info("request")
    assert stream.getvalue() == ""


def test_warnings_of_libraries_come_in_the_same_form():
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    logging.getLogger("uvicorn.error").warning("invalid request from %s", "somewhere")
    assert json.loads(stream.getvalue())["event"] == "invalid request from somewhere"


def test_chatter_of_libraries_is_for_debugging():
    library = logging.getLogger("service.llama")
    library.setLevel(logging.DEBUG)
    for level, num_lines in (("info", 0), ("debug", 1)):
        stream = io.StringIO()
        configure_logging(level, "json", stream)
        library.info("loaded meta data")
        assert len(stream.getvalue().splitlines()) == num_lines
    library.setLevel(logging.NOTSET)


def test_console_logs_are_for_reading():
    stream = io.StringIO()
    configure_logging("info", "console", stream)
    structlog.get_logger().info("worker ready", worker=0)
    assert "worker ready" in stream.getvalue()
    assert "worker=0" in stream.getvalue()


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_what_a_client_wrote_stays_in_its_line(log_format):
    stream = io.StringIO()
    configure_logging("info", log_format, stream)
    forged = "/x\n2030-01-01 [info] request status=200\x1b[2J\r"
    structlog.get_logger().info("request", path=forged, fields=[forged])
    written = stream.getvalue()
    assert len(written.splitlines()) == 1
    assert "\x1b" not in written
