"""The overlays of deploy/kubernetes: rendered by `kubectl kustomize`, valid for Kubernetes, and true about the server."""

import os
import pathlib
import re
import subprocess

import kubernetes_validate
import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deploy" / "kubernetes"
SERVICE = "tauserve.inference.v1.InferenceService"
NAME = {"app.kubernetes.io/name": "tauserve"}
# Kinds of others, whose schemas a cluster has once they are installed.
CUSTOM = {"PodMonitor": "monitoring.coreos.com/v1", "ScaledObject": "keda.sh/v1alpha1"}


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def objects(request):
    done = subprocess.run(["kubectl", "kustomize", FOLDER / "overlays" / request.param], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 0, done.stderr
    by_kind = {}
    for document in yaml.safe_load_all(done.stdout):
        assert document["kind"] not in by_kind
        by_kind[document["kind"]] = document
    return by_kind


def pod(objects):
    return objects["Deployment"]["spec"]["template"]


def container(objects):
    return pod(objects)["spec"]["containers"][0]


def flags(objects):
    return dict(argument.removeprefix("--").split("=", 1) for argument in container(objects)["args"])


def seconds(duration):
    return int(re.fullmatch(r"(\d+)s", duration)[1])


def test_every_object_is_there_and_valid(objects):
    assert set(objects) == {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", *CUSTOM}
    for kind, document in objects.items():
        if kind in CUSTOM:
            assert document["apiVersion"] == CUSTOM[kind]
            continue
        for version in ("1.27", "1.32"):
            kubernetes_validate.validate(document, version, strict=True)


def test_flags_are_the_servers(objects):
    binary = pathlib.Path(os.environ["TAUSERVE_BIN_DIR"]) / "tauserve"
    known = subprocess.run([binary, "--help"], capture_output=True, text=True, timeout=60).stdout
    for name in flags(objects):
        assert re.search(rf"^\s*--{name}\b", known, re.MULTILINE), name
    # Its own addresses are the image's.
    entry = next(line for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("ENTRYPOINT"))
    ports = {port["name"]: port["containerPort"] for port in container(objects)["ports"]}
    assert f'--listen=0.0.0.0:{ports["grpc"]}"' in entry and f'--metrics_listen=0.0.0.0:{ports["metrics"]}"' in entry
    context = pod(objects)["spec"]["securityContext"]
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}\n" in (ROOT / "Dockerfile").read_text()


def test_what_is_killed_has_had_its_time(objects):
    given = flags(objects)
    grace = pod(objects)["spec"]["terminationGracePeriodSeconds"]
    assert grace >= seconds(given["withdrawal_window"]) + seconds(given["drain_timeout"]) + 10


def test_probes_ask_for_what_the_server_says(objects):
    c = container(objects)
    assert c["startupProbe"]["grpc"]["service"] == c["readinessProbe"]["grpc"]["service"] == SERVICE
    assert "service" not in c["livenessProbe"]["grpc"]
    ports = {port["name"]: port["containerPort"] for port in c["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert c[probe]["grpc"]["port"] == ports["grpc"]
    package, name = SERVICE.rsplit(".", 1)
    proto = (ROOT / "proto" / "tauserve" / "inference" / "v1" / "inference.proto").read_text()
    assert f"package {package};" in proto and f"service {name} {{" in proto


def test_selectors_find_the_pods(objects):
    assert pod(objects)["metadata"]["labels"].items() >= NAME.items()
    assert objects["Service"]["spec"]["selector"] == NAME
    assert objects["Service"]["spec"]["clusterIP"] == "None"
    for kind, key in (("Deployment", "selector"), ("PodDisruptionBudget", "selector"), ("PodMonitor", "selector"),
                      ("NetworkPolicy", "podSelector")):
        assert objects[kind]["spec"][key] == {"matchLabels": NAME}
    named = {port["name"] for port in container(objects)["ports"]}
    used = {port["targetPort"] for port in objects["Service"]["spec"]["ports"]}
    used |= {endpoint["port"] for endpoint in objects["PodMonitor"]["spec"]["podMetricsEndpoints"]}
    used |= {port["port"] for rule in objects["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]}
    assert used == named
    assert objects["ScaledObject"]["spec"]["scaleTargetRef"]["name"] == objects["Deployment"]["metadata"]["name"]


def test_scaling_asks_for_a_metric_that_there_is(objects):
    metric, = re.findall(r"tauserve_\w+", objects["ScaledObject"]["spec"]["triggers"][0]["metadata"]["query"])
    sources = "".join(path.read_text() for path in (ROOT / "server" / "observability").glob("*.cc"))
    assert f'"{metric}"' in sources


def test_envoy_asks_the_replicas(objects):
    envoy = yaml.safe_load((FOLDER / "envoy" / "envoy.yaml").read_text())["static_resources"]
    clusters = {cluster["name"]: cluster for cluster in envoy["clusters"]}
    manager = envoy["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    assert {route["route"]["cluster"] for route in routes} == set(clusters)
    policies = {name: cluster["lb_policy"] for name, cluster in clusters.items()}
    assert policies == {"least_request": "LEAST_REQUEST", "by_prefix": "RING_HASH"}
    service = objects["Service"]
    for cluster in clusters.values():
        assert cluster["health_checks"][0]["grpc_health_check"]["service_name"] == SERVICE
        endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
        address = endpoint["address"]["socket_address"]
        assert address == {"address": service["metadata"]["name"], "port_value": service["spec"]["ports"][0]["port"]}
