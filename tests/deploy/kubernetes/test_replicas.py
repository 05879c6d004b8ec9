"""Three replicas behind a client's round_robin, as clients of the headless Service have them: calls go to all, and none that
has not begun is lost where one drains or dies."""

import json
import pathlib
import signal
import sys
import threading

import grpc
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "e2e"))

from protos import inference, inference_grpc  # noqa: E402
from requests_made import generation  # noqa: E402
from server_process import PATIENCE, Server, wait_until  # noqa: E402

# What a client sets: it watches each replica's health, and a call that none has begun to answer is made again.
SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": "tauserve.inference.v1.InferenceService"},
    "methodConfig": [{
        "name": [{"service": "tauserve.inference.v1.InferenceService"}],
        "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.05s", "maxBackoff": "1s", "backoffMultiplier": 2,
                        "retryableStatusCodes": ["UNAVAILABLE"]},
    }],
}
CLIENTS = 12


@pytest.fixture
def replicas():
    servers = [Server("--threads=1", "--withdrawal_window=2s", "--drain_timeout=60s") for _ in range(3)]
    yield servers
    for server in servers:
        if server.process.poll() is None:
            server.stop()


class Load(threading.Thread):
    """Streams one after the other, until it is told to stop; what became of each."""

    def __init__(self, stub, number):
        super().__init__()
        self.stub, self.number = stub, number
        self.finished = 0
        self.failures = []  # (code, whether the stream had begun)
        self.go_on = True

    def run(self):
        while self.go_on:
            begun = False
            prompt = [5 + self.number, *range(100, 140)]
            request = inference.GenerateStreamRequest(input=generation(prompt, max_new_tokens=24))
            try:
                for event in self.stub.GenerateStream(request, timeout=PATIENCE, wait_for_ready=True):
                    begun = True
                    last = event.WhichOneof("event")
                assert last == "completed"
                self.finished += 1
            except grpc.RpcError as error:
                self.failures.append((error.code(), begun))


class Clients:
    def __init__(self, replicas):
        target = "ipv4:" + ",".join(server.serving["grpc"] for server in replicas)
        self.channel = grpc.insecure_channel(target, options=[("grpc.service_config", json.dumps(SERVICE_CONFIG)),
                                                              ("grpc.use_local_subchannel_pool", 1)])
        stub = inference_grpc.InferenceServiceStub(self.channel)
        self.loads = [Load(stub, number) for number in range(CLIENTS)]

    def __enter__(self):
        for load in self.loads:
            load.start()
        return self

    def __exit__(self, *exception):
        for load in self.loads:
            load.go_on = False
        for load in self.loads:
            load.join()
        self.channel.close()

    def finished(self):
        return sum(load.finished for load in self.loads)

    def failures(self):
        return [failure for load in self.loads for failure in load.failures]

    def more(self, count, what):
        goal = self.finished() + count
        wait_until(lambda: self.finished() >= goal, what)


def ended(server):
    return server.metrics().sum("requests_total")


def test_calls_go_to_all_and_a_dead_replica_loses_only_what_it_had_begun(replicas):
    with Clients(replicas) as clients:
        wait_until(lambda: all(ended(server) >= 5 for server in replicas), "calls on all replicas")
        wait_until(lambda: replicas[0].load().running_requests > 0, "calls that run on the first")
        replicas[0].signal(signal.SIGKILL)
        replicas[0].wait()
        clients.more(60, "calls after a replica died")
    failures = clients.failures()
    assert all(failure == (grpc.StatusCode.UNAVAILABLE, True) for failure in failures), failures
    assert len(failures) <= CLIENTS


def test_a_replica_that_drains_loses_nothing(replicas):
    with Clients(replicas) as clients:
        wait_until(lambda: all(ended(server) >= 5 for server in replicas), "calls on all replicas")
        replicas[1].signal()
        assert replicas[1].wait() == 0
        clients.more(60, "calls after a replica left")
    assert clients.failures() == []
