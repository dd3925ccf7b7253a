import asyncio
import json
import socket
import subprocess
import sys

import pytest

from service.cli.greeting import base_url, curl_line, sdk_lines
from service.settings import Settings, list_settings
from tests.api.builders import MODEL, serving


def run_serve(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "service", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"COLUMNS": "300", "PATH": "/usr/bin:/bin"} | environment,
    )


def test_help_shows_every_setting_with_its_variable_and_default():
    text = run_serve("--help").stdout
    for setting in list_settings():
        assert setting.option in text
        assert setting.variable in text
        assert setting.default in text


def test_an_unknown_setting_is_one_line_and_no_start():
    result = run_serve(SMOLSERVE_PROT="1")
    assert result.returncode == 1
    assert result.stderr == (
        "smolserve: SMOLSERVE_PROT is not a setting; did you mean SMOLSERVE_PORT?\n"
    )


def test_an_option_is_checked_like_its_variable():
    result = run_serve("--engine-threads", "many")
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert "SMOLSERVE_ENGINE__THREADS (--engine-threads)" in line


def test_a_taken_port_is_told_before_a_model_is_looked_for():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run_serve("--port", str(port), "--model", "no-such-model")
    [line] = result.stderr.splitlines()
    assert result.returncode == 1
    assert f"port {port}" in line


def test_a_missing_model_is_one_line():
    result = run_serve("--port", "0", "--model", "no-such-model")
    [line] = result.stderr.splitlines()
    assert result.returncode == 1
    assert "no-such-model" in line


def paste(command, key=""):
    """What a shell or a Python prompt prints for it."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={"PATH": "/usr/bin:/bin", "SMOLSERVE_API_KEY": key},
    ).stdout


@pytest.mark.parametrize("key", ["", "secret"])
async def test_the_printed_examples_work_when_pasted(key):
    async with serving(api_keys=(key,) if key else ()) as service:
        curl = curl_line(service.url, MODEL, needs_key=bool(key))
        example = "\n".join(sdk_lines(service.url, MODEL, needs_key=bool(key)))
        if key:
            example = example.replace("YOUR_API_KEY", key)
        answer = await asyncio.to_thread(paste, ["bash", "-c", f"{curl} --silent"], key)
        printed = await asyncio.to_thread(paste, [sys.executable, "-c", example])
    assert json.loads(answer)["choices"][0]["message"]["content"] == "Hello there"
    assert printed == "Hello there\n"
    assert len(example.splitlines()) == 3


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("example.com", "http://example.com:8000"),
    ],
)
def test_the_address_shown_is_one_that_can_be_called(host, url):
    assert base_url(Settings.load({"host": host, "port": "8000"})) == url
