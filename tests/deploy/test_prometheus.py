"""A real Prometheus scrapes a service that works; every rule and every panel gets a value."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import yaml

from loadtests.server import running_service
from tests.deploy.observation import (
    PROMETHEUS,
    alerts,
    is_for_gpus,
    needs_prometheus,
    panel_queries,
    recordings,
)

pytestmark = [pytest.mark.model, needs_prometheus]

MODEL = "smollm2-135m-instruct"
KEY = "key-of-a-test"
SECONDS = 60


class Prometheus:
    def __init__(self, http):
        self._http = http

    def ask(self, path, **parameters):
        answer = self._http.get(path, params=parameters)
        assert answer.is_success, (parameters, answer.text)
        return answer.json()["data"]

    def values(self, query):
        """Samples of now that are numbers."""
        found = self.ask("query", query=query)
        if found["resultType"] == "scalar":
            found["result"] = [{"value": found["result"]}]
        numbers = [float(sample["value"][1]) for sample in found["result"]]
        return [number for number in numbers if number == number]  # noqa: PLR0124 - NaN is not

    def wait_for_values(self, queries):
        """Those that still have none when time is up."""
        deadline = time.monotonic() + SECONDS
        missing = list(queries)
        while missing and time.monotonic() < deadline:
            missing = [query for query in missing if not self.values(query)]
            time.sleep(0.2)
        return missing


@contextmanager
def prometheus(folder, service) -> Iterator[Prometheus]:
    """With our configuration but for addresses, paths and a shorter breath."""
    configuration = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    configuration["global"] = dict.fromkeys(("scrape_interval", "scrape_timeout"), "1s")
    configuration["global"]["evaluation_interval"] = "1s"
    configuration["rule_files"] = [str(PROMETHEUS / name) for name in configuration["rule_files"]]
    [scrape] = configuration["scrape_configs"]
    scrape["authorization"]["credentials_file"] = str(folder / "key")
    scrape["static_configs"] = [{"targets": [service]}]
    (folder / "key").write_text(f"{KEY}\n")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            "--web.listen-address=127.0.0.1:0",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    with ended(process):
        address = read_until(process.stderr, r'msg="Listening on" address=(\S+)')
        read_until(process.stderr, "Server is ready")
        with httpx.Client(base_url=f"http://{address}/api/v1", timeout=10) as http:
            yield Prometheus(http)


@contextmanager
def ended(process):
    """Its pipe is left unread: what either says later fits in."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def read_until(lines, pattern):
    seen = []
    for line in lines:
        seen.append(line)
        if found := re.search(pattern, line):
            return found[found.re.groups]
    raise AssertionError("".join(seen))


def use(url):
    """Two turns of a conversation, a refusal and a batch of a line."""
    with httpx.Client(
        base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=SECONDS
    ) as http:
        messages = [{"role": "user", "content": "List the planets of the sun, and their moons."}]
        body = {"model": MODEL, "messages": messages, "max_tokens": 8, "prompt_cache_key": "talk"}
        answer = http.post("/v1/chat/completions", json=body).raise_for_status().json()
        body["messages"] += [answer["choices"][0]["message"], {"role": "user", "content": "More."}]
        body["messages"][1] = {"role": "assistant", "content": body["messages"][1]["content"]}
        http.post("/v1/chat/completions", json=body).raise_for_status()
        assert http.post("/v1/chat/completions", json={"model": MODEL}).status_code == 400
        run_batch(http, body)


def run_batch(http, body):
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    upload = {"file": ("lines.jsonl", json.dumps(line).encode())}
    file = http.post("/v1/files", data={"purpose": "batch"}, files=upload).raise_for_status()
    batch = {
        "input_file_id": file.json()["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    started = http.post("/v1/batches", json=batch).raise_for_status().json()
    deadline = time.monotonic() + SECONDS
    while http.get(f"/v1/batches/{started['id']}").json()["status"] != "completed":
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("watched")
    settings = {
        "api_keys": KEY,
        "engine__contexts": "2x512,1x1024",
        "engine__threads": "1",
        "cache__disk_dir": str(folder / "kv"),
        "cache__disk_bytes": str(1 << 30),
    }
    with (
        running_service(**settings) as (host, port),
        prometheus(folder, f"{host}:{port}") as watching,
    ):
        assert watching.wait_for_values(['up{job="smolserve"} == 1']) == [], watching.ask("targets")
        use(f"http://{host}:{port}")
        yield watching


def test_every_panel_gets_a_value(watched):
    queries = [
        query.replace("$instance", ".+").replace("$__rate_interval", "1m")
        for _, query in panel_queries()
        if not is_for_gpus(query)
    ]
    assert len(queries) > 40
    assert watched.wait_for_values(queries) == []


def test_every_recording_has_a_value(watched):
    assert watched.wait_for_values([rule["record"] for rule in recordings()]) == []


def test_every_comparison_of_an_alert_has_a_value(watched):
    """An alert that is quiet has none, so its comparisons answer yes or no here."""
    queries = [re.sub(r"(==|>|<) ", r"\1 bool ", rule["expr"]) for rule in alerts()]
    assert watched.wait_for_values(queries) == []


def test_rules_are_evaluated_without_an_error(watched):
    rules = [rule for group in watched.ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(recordings()) + len(alerts())
    assert {rule["health"] for rule in rules} == {"ok"}, rules


def test_the_dashboard_offers_the_instance(watched):
    selector = {"match[]": "smolserve_worker_up"}
    [instance] = watched.ask("label/instance/values", **selector)
    assert instance.startswith("127.0.0.1:")
