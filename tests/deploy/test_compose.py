"""deploy/compose.yaml by the Compose specification's JSON schema, and what that can't know: start order, what is reachable,
what is allowed, and that the files name each other rightly."""

import copy
import json
import pathlib
import re
import subprocess
import sys
import urllib.parse

import pytest
import yaml

from dashboard import DATASOURCES
from prometheus_rules import CONFIG, ROOT

FILE = ROOT / "deploy" / "compose.yaml"
COMPOSE = yaml.safe_load(FILE.read_text())
SERVICES = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
NAMES = ["grafana", "prometheus", "tauserve"]


def schema_errors(file):
    """Of the specification, as check-jsonschema brings it; '' if there are none."""
    done = subprocess.run([pathlib.Path(sys.executable).parent / "check-jsonschema", "--builtin-schema",
                           "vendor.compose-spec", file], capture_output=True, text=True)
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_specification():
    assert schema_errors(FILE) == ""


@pytest.mark.parametrize("service, key, value", [
    ("prometheus", "depends_on", {"tauserve": {"condition": "service_well"}}),
    ("grafana", "healthchek", {"test": ["CMD", "true"]}),
    ("tauserve", "read_only", ["no"]),
])
def test_specification_finds_mistakes(tmp_path, service, key, value):
    wrong = copy.deepcopy(COMPOSE)
    wrong["services"][service][key] = value
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(wrong))
    assert f"services.{service}" in schema_errors(tmp_path / "compose.yaml")


def test_each_waits_until_the_one_that_it_asks_is_healthy():
    assert sorted(SERVICES) == NAMES
    assert {name: service.get("depends_on") for name, service in SERVICES.items()} == {
        "tauserve": None,
        "prometheus": {"tauserve": {"condition": "service_healthy"}},
        "grafana": {"prometheus": {"condition": "service_healthy"}},
    }


@pytest.mark.parametrize("name", NAMES)
def test_health_is_checked(name):
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] == "CMD" and len(check["test"]) > 1
    assert {"interval", "timeout", "retries", "start_period"} < set(check)
    # Within the container, at a port that the service is reached at.
    for argument in check["test"]:
        if argument.startswith("http:"):
            address = urllib.parse.urlparse(argument)
            assert address.hostname == "127.0.0.1" and address.port in container_ports(name)


def container_ports(name):
    return [int(port.split(":")[-1]) for port in SERVICES[name]["ports"]]


@pytest.mark.parametrize("name", NAMES)
def test_ports_are_on_loopback(name):
    for port in SERVICES[name]["ports"]:
        host, outside, inside = port.split(":")
        assert host == "127.0.0.1" and outside == inside


@pytest.mark.parametrize("name", NAMES)
def test_services_are_confined(name):
    service = SERVICES[name]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "userns_mode", "devices"} & set(service)
    assert service.get("user", "10001") not in ("0", "root")


@pytest.mark.parametrize("name", NAMES)
def test_mounts(name):
    for volume in SERVICES[name].get("volumes", []):
        if volume["type"] == "bind":
            assert volume["read_only"] is True and (FILE.parent / volume["source"]).is_dir(), volume
        else:
            assert volume["type"] == "volume" and volume["source"] in COMPOSE["volumes"], volume


def test_images_have_versions():
    for name, service in SERVICES.items():
        if "build" in service:
            assert (FILE.parent / service["build"]["context"] / "Dockerfile").is_file()
        else:
            version = service["image"].partition(":")[2]
            assert version[version.startswith("v"):].replace(".", "").isdigit(), name


def test_prometheus_finds_its_files_and_the_server():
    service = SERVICES["prometheus"]
    (flag,) = [argument for argument in service["command"] if argument.startswith("--config.file=")]
    inside = pathlib.PurePosixPath(flag.partition("=")[2])
    (folder,) = [v for v in service["volumes"] if v["target"] == str(inside.parent)]
    config = (FILE.parent / folder["source"] / inside.name).resolve()
    assert config == CONFIG
    document = yaml.safe_load(config.read_text())
    assert all((config.parent / rule_file).is_file() for rule_file in document["rule_files"])
    (data,) = [argument for argument in service["command"] if argument.startswith("--storage.tsdb.path=")]
    assert any(v["type"] == "volume" and v["target"] == data.partition("=")[2] for v in service["volumes"])
    (job,) = document["scrape_configs"]
    for target in job["static_configs"][0]["targets"]:
        host, port = target.split(":")
        assert int(port) in container_ports(host)
        assert f"--metrics_listen=0.0.0.0:{port}" in DOCKERFILE


def test_server_s_health_is_the_image_s():
    (command,) = re.findall(r"^HEALTHCHECK .*CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert SERVICES["tauserve"]["healthcheck"]["test"] == ["CMD"] + json.loads(command)


def test_grafana_finds_prometheus_and_the_dashboard():
    (source,) = DATASOURCES
    address = urllib.parse.urlparse(source["url"])
    assert address.port in container_ports(address.hostname)
    home = pathlib.PurePosixPath(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    (folder,) = [v for v in SERVICES["grafana"]["volumes"] if v["target"] == str(home.parent)]
    assert (FILE.parent / folder["source"] / home.name).is_file()
