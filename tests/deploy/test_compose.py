"""docker-compose.yml and the Dockerfile against the code; no Docker here, so by their text."""

import fnmatch
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import PurePosixPath

import pytest
import yaml

from service.api.server import _LAST_WRITES_SECONDS
from service.engine.disk_tier import CLOSE_SECONDS
from service.models.catalog import load_catalog
from service.runtime.worker_process import KILL_AFTER_SECONDS
from service.settings import SETUP_VARIABLES, Settings, list_settings
from tests.deploy.observation import PROMETHEUS, ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
*_, BUILD, RUN = DOCKERFILE.split("\nFROM ")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCKER_COMPOSE = shutil.which("docker-compose")
DEFAULTS = Settings.model_validate({})
SECONDS = {"s": 1, "m": 60}


def image_environment():
    """Of the last stage."""
    *_, block = re.findall(r"^ENV ((?:.*\\\n)*.*)$", DOCKERFILE, re.MULTILINE)
    return dict(re.findall(r"(\w+)=(\S+)", block))


def variables_of(service):
    """Names that the containers of a service get from us, and their values without a shell's."""
    given = {
        name: re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", value)
        for name, value in service["environment"].items()
    }
    return {
        name: value
        for name, value in (image_environment() | given).items()
        if name.startswith("SMOLSERVE_")
    }


def copied(stage):
    """Files and folders of the checkout that a stage gets, as the Dockerfile names them."""
    lines = re.findall(r"^COPY (?!--from)(.*)$", stage, re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def is_sent(path):
    """Whether the build sees a file: the last pattern of .dockerignore that matches it decides."""
    sent = True
    parts = [str(part) for part in (PurePosixPath(path), *PurePosixPath(path).parents)]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        # The second form, because `**/` stands for no folder as well.
        if any(
            fnmatch.fnmatchcase(name, pattern) for part in parts for name in (part, f"./{part}")
        ):
            sent = line.startswith("!")
    return sent


def mounts(service):
    """Source by target."""
    return {
        target: source
        for source, target, *_ in (volume.split(":") for volume in service["volumes"])
    }


def test_every_variable_is_a_setting():
    known = {setting.variable for setting in list_settings()}
    for service in OURS.values():
        assert set(variables_of(service)) <= known


def test_every_variable_of_the_dockerfile_is_known():
    known = {setting.variable for setting in list_settings()} | SETUP_VARIABLES
    assert set(re.findall(r"SMOLSERVE_[A-Z_]+", DOCKERFILE)) <= known


def test_every_argument_of_a_build_is_one_of_the_dockerfile():
    declared = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    assert {argument for service in OURS.values() for argument in service["build"]["args"]} <= (
        declared
    )
    used = set(re.findall(r"\$\{(\w+)\}", DOCKERFILE))
    assert used <= declared


@pytest.mark.parametrize("stage", [BUILD, RUN], ids=["build", "run"])
def test_what_is_copied_is_there_and_sent_to_the_build(stage):
    assert copied(stage)
    for pattern in copied(stage):
        found = [str(path.relative_to(ROOT)) for path in ROOT.glob(pattern)]
        assert found, pattern
        assert all(is_sent(path) for path in found), pattern


def test_the_build_gets_what_the_set_up_and_the_package_read():
    found = [path for pattern in copied(BUILD) for path in ROOT.glob(pattern)]
    files = {str(path.relative_to(ROOT)) for path in found}
    project, tool = PROJECT["project"], PROJECT["tool"]
    named = {"pyproject.toml", project["readme"], *project["license-files"]}
    named |= {tool["hatch"]["version"]["path"], "deploy/setup"}
    named |= {path.name for path in ROOT.glob("requirements*.txt")}
    assert named <= files


def test_nothing_else_of_the_checkout_is_sent():
    for path in (".git/config", ".venv/bin/python", "models/smollm2-135m-instruct.gguf", "tests"):
        assert not is_sent(path)
    assert not is_sent("service/__pycache__/app.cpython-312.pyc")


@pytest.mark.skipif(DOCKER_COMPOSE is None, reason="no docker-compose on PATH to judge the file")
def test_docker_compose_accepts_the_file_and_reads_it_as_we_do(tmp_path):
    def run(*arguments):
        command = [str(DOCKER_COMPOSE), *arguments]
        env = {"PATH": os.defpath, "HOME": str(tmp_path)}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout

    text = (ROOT / "docker-compose.yml").read_text()
    if run("version", "--short").startswith("1."):  # knows all but the project's name
        text = re.sub(r"^name: .*\n", "", text, flags=re.MULTILINE)
    file = tmp_path / "docker-compose.yml"
    file.write_text(text)
    options = ["--project-directory", str(ROOT), "--file", str(file), "--profile", "gpu"]
    read = yaml.safe_load(run(*options, "config"))["services"]
    assert set(read) == set(SERVICES)
    for name, service in OURS.items():
        assert read[name]["environment"].items() <= (
            (service["environment"] | variables_of(service)).items()
        )


@pytest.mark.parametrize("name", OURS)
def test_what_a_container_gets_is_valid_and_serves_a_model_of_the_catalogue(name, monkeypatch):
    for variable in (setting.variable for setting in list_settings()):
        monkeypatch.delenv(variable, raising=False)
    backend = OURS[name]["build"]["args"]["BACKEND"]
    for variable, value in variables_of(OURS[name]).items():
        monkeypatch.setenv(variable, value.replace("${BACKEND}", backend))
    settings = Settings.load()
    assert settings.backend == backend
    assert settings.model in load_catalog(ROOT / "models")
    assert settings.cache.disk_bytes > settings.cache.host_bytes


@pytest.mark.parametrize("name", OURS)
def test_everything_that_is_kept_lies_in_a_named_volume_that_is_writable(name):
    folders = {
        value
        for variable, value in variables_of(OURS[name]).items()
        if variable.endswith(("_DIR", "__PATH"))
    }
    [made] = re.findall(r"install -d -o smolserve -g smolserve (.*)$", DOCKERFILE, re.MULTILINE)
    [declared] = re.findall(r"^VOLUME (.*)$", DOCKERFILE, re.MULTILINE)
    assert folders == set(made.split()) == set(yaml.safe_load(declared))
    assert folders == set(mounts(OURS[name]))
    assert set(mounts(OURS[name]).values()) <= set(COMPOSE["volumes"])
    paths = {setting.variable for setting in list_settings() if setting.path[-1].endswith("_dir")}
    assert paths <= set(variables_of(OURS[name]))


def test_services_share_models_and_nothing_else():
    cpu, gpu = mounts(SERVICES["smolserve"]), mounts(SERVICES["smolserve-gpu"])
    assert {target for target in cpu if cpu[target] == gpu[target]} == {"/models"}


def test_the_image_listens_where_ports_and_probes_look():
    port = image_environment()["SMOLSERVE_PORT"]
    assert re.search(rf"^EXPOSE {port}$", DOCKERFILE, re.MULTILINE)
    for service in OURS.values():
        assert [published.split(":")[2] for published in service["ports"]] == [port]
    [probe] = re.findall(r"SMOLSERVE_PORT'\] \+ '([^']+)'", DOCKERFILE)
    assert probe == "/health/live"  # open without a key
    configuration = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    [scrape] = configuration["scrape_configs"]
    targets = [target for group in scrape["static_configs"] for target in group["targets"]]
    assert targets == [f"{name}:{port}" for name in OURS]


def test_a_container_gets_the_time_that_an_orderly_end_takes():
    [(number, unit)] = re.findall(r"^(\d+)([sm])$", COMPOSE["x-service"]["stop_grace_period"])
    needed = DEFAULTS.drain_timeout_s + _LAST_WRITES_SECONDS + KILL_AFTER_SECONDS
    assert int(number) * SECONDS[unit] > needed
    assert KILL_AFTER_SECONDS > CLOSE_SECONDS


@pytest.mark.parametrize("name", SERVICES)
def test_containers_are_closed_to_the_network_and_may_do_little(name):
    service = SERVICES[name]
    assert all(published.startswith("127.0.0.1:") for published in service["ports"])
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "healthcheck" in service or name in OURS  # theirs is in the image


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_tools_are_pinned_and_find_our_files(name):
    service = SERVICES[name]
    assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
    for target, source in mounts(service).items():
        assert source in COMPOSE["volumes"] or (ROOT / source).is_dir(), (source, target)


def test_grafana_is_shown_where_its_files_are():
    grafana = SERVICES["grafana"]
    folders = {target: ROOT / source for target, source in mounts(grafana).items()}
    folder, _, file = grafana["environment"][
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"
    ].rpartition("/")
    assert (folders[folder] / file).exists()
    provisioning = folders["/etc/grafana/provisioning"]
    [provider] = yaml.safe_load((provisioning / "dashboards/smolserve.yml").read_text())[
        "providers"
    ]
    assert provider["options"]["path"] == folder
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    [published] = SERVICES["prometheus"]["ports"]
    assert source["url"] == f"http://prometheus:{published.split(':')[2]}"


def test_prometheus_finds_its_configuration_and_the_key():
    prometheus = SERVICES["prometheus"]
    folder = mounts(prometheus)
    [file] = [c.partition("=")[2] for c in prometheus["command"] if c.startswith("--config.file")]
    assert (ROOT / folder[file.rpartition("/")[0]] / file.rpartition("/")[2]).exists()
    [scrape] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    [secret] = prometheus["secrets"]
    assert scrape["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    [default] = re.findall(r"^\$\{METRICS_KEY_FILE:-(.*)\}$", COMPOSE["secrets"][secret]["file"])
    assert (ROOT / default).read_text().strip()


def test_compose_serves_smollm3_on_a_gpu_when_asked():
    gpu = SERVICES["smolserve-gpu"]
    assert gpu["profiles"] == ["gpu"]
    assert gpu["environment"]["SMOLSERVE_MODEL"] == "smollm3-3b"
    [device] = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert not any(
        "profiles" in service for name, service in SERVICES.items() if name != "smolserve-gpu"
    )


def test_the_image_runs_on_other_machines_than_the_one_that_builds_it():
    assert re.search(r"^ARG PORTABLE=1$", BUILD, re.MULTILINE)
    assert "SMOLSERVE_PORTABLE=${PORTABLE}" in BUILD


def test_the_image_that_runs_has_no_compiler_and_no_root():
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert not re.search(r"build-essential|gcc|g\+\+|cmake|-devel", last)
    assert re.search(r"^USER (?!0$)\d+$", last, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", last, re.MULTILINE)
    [runtime] = re.findall(r"^FROM (\S+) AS run-cuda$", DOCKERFILE, re.MULTILINE)
    assert "-runtime-" in runtime
