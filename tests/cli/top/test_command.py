"""`smolserve top` as a user calls it."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys

import pytest

from tests.api.builders import serving

KEY = "sesame"


async def run_top(*arguments, **environment):
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "service", "top", "--interval", "0.2", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "80"} | environment,
    )


async def test_without_a_terminal_it_prints_one_look():
    async with serving() as service:
        result = await run_top(service.url)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"smolserve {service.url}  over 0.")
    assert lines[1].strip() == "▲ no worker is ready yet"


async def test_a_script_gets_json():
    async with serving() as service:
        result = await run_top(service.url, "--once", "--json")
    view = json.loads(result.stdout)
    assert view["num_running"] == 0
    assert view["interval_seconds"] >= 0.2
    assert view["rates"]["requests"] == 0
    assert view["process_bytes"]["api"] > 0


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--api-key", KEY], {}),
        ([], {"SMOLSERVE_API_KEYS": f"{KEY},other"}),
        (["--api-key", KEY], {"SMOLSERVE_API_KEYS": "wrong"}),
    ],
)
async def test_the_key_is_the_option_or_else_the_first_setting(arguments, environment):
    async with serving(api_keys=(KEY,)) as service:
        result = await run_top(service.url, "--once", *arguments, **environment)
    assert result.returncode == 0, result.stderr


async def test_a_refused_key_is_one_line():
    async with serving(api_keys=(KEY,)) as service:
        result = await run_top(service.url, "--once")
    assert result.returncode == 1
    assert result.stderr == (
        f"smolserve: {service.url}: it refuses the key; give one with --api-key or "
        "SMOLSERVE_API_KEYS\n"
    )


async def test_the_address_is_this_machines_as_the_settings_say():
    async with serving() as service:
        port = service.url.rpartition(":")[2]
        result = await run_top("--once", SMOLSERVE_HOST="0.0.0.0", SMOLSERVE_PORT=port)
    assert result.stdout.startswith(f"smolserve {service.url}")


async def test_a_service_that_is_not_there_is_one_line():
    async with serving() as service:
        pass
    result = await run_top(service.url, "--once")
    assert result.returncode == 1
    assert result.stderr == (
        f"smolserve: {service.url}: nothing answers there; see whether it runs, and at this "
        "address\n"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--json"], "add --once"), (["--once", "127.0.0.1:8000"], "http://127.0.0.1:8000")],
)
async def test_what_makes_no_sense_is_one_line(arguments, told):
    result = await run_top(*arguments)
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert told in line


def start_on_terminal(url):
    """The process, and what its terminal shows."""
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "top", "--interval", "0.2", url],
        stdout=terminal,
        stderr=terminal,
        env={"PATH": "/usr/bin:/bin", "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
    )
    os.close(terminal)
    return process, screen


async def test_on_a_terminal_it_looks_until_ctrl_c_whether_the_service_is_there_or_not():
    async with serving() as service:
        process, screen = start_on_terminal(service.url)
        try:
            await asyncio.to_thread(read_until, screen, "no worker is ready yet")
            service.server.stop()
            await asyncio.to_thread(read_until, screen, "nothing answers there")
            process.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(process.wait, 30) == 0
        finally:
            process.kill()
            process.wait()
            os.close(screen)


def read_until(screen, words):
    shown = ""
    while words not in shown:
        shown += os.read(screen, 4096).decode(errors="replace")
