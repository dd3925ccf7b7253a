"""The commands as they are typed, against a service whose engine is scripted or simulated."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.traffic.target import TargetError, find_model, trim_url
from tests.api.builders import ScriptedEngine, serving
from tests.runtime.builders import engine_config, running_pool

ROOT = Path(__file__).parents[2]


async def run_command(*arguments, **variables):
    """Its exit status, and what it wrote to stdout and to stderr."""
    process = await asyncio.create_subprocess_exec(
        *arguments,
        cwd=ROOT,
        env={**os.environ, **variables},  # noqa: TID251 - a child needs a PATH
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, errors = await process.communicate()
    return process.returncode, out.decode(), errors.decode()


async def run_module(name, *arguments, **variables):
    return await run_command(sys.executable, "-m", f"loadtests.{name}", *arguments, **variables)


async def test_a_load_shows_figures_beside_locusts_own(tmp_path):
    """Over worker processes with the simulated engine, whose steps take 5 ms."""
    file = tmp_path / "figures.json"
    async with (
        running_pool(engine_config("4x512", step_seconds=0.005)) as bench,
        serving(bench.pool, api_keys=("secret",)) as service,
    ):
        status, out, errors = await run_module(
            *("run", "--url", f"{service.url}/v1", "--users", "4", "--duration", "3"),
            *("--json", str(file)),
            LOADTEST_API_KEY="secret",
        )
    assert status == 0, errors
    document = json.loads(file.read_text())
    assert (document["scenario"], document["users"]) == ("steady", 4)
    figures = document["figures"]["all"]
    assert figures["num_whole"] >= 4
    assert figures["num_failed"] == 0
    assert figures["itl_ms"]["p50"] >= 5
    assert figures["ttft_ms"]["p50"] >= 5
    # Four streams, none of them faster than a token each 5 ms.
    assert 0 < figures["tokens_per_second"] < 4 / 0.005
    assert "pieces of text a second" in errors
    assert "tok/s all" in out
    for kind in ("POST", "TTFT", "ITL", "tokens/s"):
        assert any(line.split()[:2] == [kind, "chat"] for line in errors.splitlines()), kind


async def test_servers_are_compared_in_a_table_and_in_plots(tmp_path):
    engines = ScriptedEngine(context_len=10**5), ScriptedEngine(context_len=10**5)
    async with serving(engines[0]) as one, serving(engines[1]) as other:
        status, out, errors = await run_module(
            *("compare", f"one={one.url}", f"other={other.url}"),
            *("--scenarios", "steady", "--duration", "1", "--users", "1"),
            *("--rounds", "1", "--seed", "7", "--output", str(tmp_path)),
        )
    assert status == 0, errors
    assert "steady" in out
    assert {path.name for path in tmp_path.iterdir()} == {
        *("comparison.md", "comparison.json", "ttft.png", "itl.png", "tokens_per_second.png")
    }
    results = json.loads((tmp_path / "comparison.json").read_text())["results"]
    assert [row["server"] for row in results] == ["one", "other"]
    assert all(row["answers"] > 0 for row in results)
    assert engines[0].requests[0].prompt == engines[1].requests[0].prompt


async def test_a_server_that_is_not_there_is_told_in_one_line():
    status, out, errors = await run_module("run", "--url", "http://127.0.0.1:9")
    assert status != 0
    [line] = [line for line in errors.splitlines() if line.startswith("loadtest: ")]
    assert "http://127.0.0.1:9/v1/models names no model" in line
    assert "Traceback" not in errors + out


async def test_make_tells_the_names_of_the_scenarios_and_starts_nothing():
    status, out, errors = await run_command(
        *("make", "-o", "setup-dev", "loadtest", "SCENARIO=stormy")
    )
    assert status != 0
    assert "no scenario 'stormy'; choose from steady, bursty" in errors
    assert out == ""


async def test_what_make_gives_a_load_is_no_setting_of_the_service():
    given = ("SCENARIO=steady", "USERS=2", "DURATION=1", "URL=x", "PORT=1")
    _, out, _ = await run_command("make", "--eval", "show: ; @env", "show", *given)
    settings = [line for line in out.splitlines() if line.startswith("SMOLSERVE_")]
    assert "SMOLSERVE_PORT=1" in settings
    names = {line.partition("=")[0].removeprefix("SMOLSERVE_") for line in settings}
    assert names.isdisjoint({"SCENARIO", "USERS", "DURATION", "URL"})


@pytest.mark.model
async def test_make_starts_the_service_and_loads_it():
    status, out, errors = await run_command(
        *("make", "-o", "setup-dev", "loadtest"),
        *("SCENARIO=structured-output", "USERS=2", "DURATION=4"),
        *("ENGINE__CONTEXTS=2x512", "ENGINE__THREADS=1", "API_KEYS=of-a-test"),
    )
    assert status == 0, errors
    assert "structured-output: smollm2-135m-instruct" in out


@pytest.mark.parametrize("given", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_a_base_url_may_end_as_openais_clients_want_it(given):
    assert trim_url(given) == "http://h:1"


async def test_a_server_that_wants_a_key_says_so():
    async with serving(api_keys=("secret",)) as service:
        with pytest.raises(TargetError, match=r"401.*LOADTEST_API_KEY"):
            await asyncio.to_thread(find_model, service.url, None)
        assert await asyncio.to_thread(find_model, service.url, "secret") == "scripted"
