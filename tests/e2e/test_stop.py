"""SIGTERM and SIGINT in the middle of requests."""

import signal
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import inference
from requests_made import generate, generation, kinds, long_generation, read_until, refused, stream
from server_process import PATIENCE, Server, wait_until

SERVICE = "tauserve.inference.v1.InferenceService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def health_watch(server, service):
    stub = health_pb2_grpc.HealthStub(server.channel())
    return stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_server_stops_soon(number):
    with Server() as server:
        server.load()
        begin = time.monotonic()
        server.signal(number)
        assert server.wait() == 0
        assert time.monotonic() - begin < 10
        assert len(server.events("stop")) == 1


def test_requests_in_flight_end_first():
    with Server() as server:
        calls = [stream(server, generation(max_new_tokens=200, stopping={"ignore_eos": True})) for _ in range(3)]
        for call in calls:
            read_until(call, "delta")
        server.signal()
        for call in calls:
            events = list(call)
            assert events[-2].candidate_finished.finish_reason == inference.FINISH_REASON_MAX_NEW_TOKENS
        assert server.wait() == 0


def test_drain_timeout_aborts():
    with Server("--drain_timeout=300ms", "--max_running_requests=1") as server:
        call = stream(server, long_generation())
        read_until(call, "delta")
        queued = server.stub.Generate.future(inference.GenerateRequest(input=generation()))
        wait_until(lambda: server.load().waiting_requests == 1, "the second to wait")
        server.signal()
        events = list(call)
        assert kinds(events)[-1] == "completed"
        assert events[-2].candidate_finished.finish_reason == inference.FINISH_REASON_ABORTED
        assert queued.exception(timeout=PATIENCE).code() == grpc.StatusCode.UNAVAILABLE
        assert server.wait() == 0
        ends = {line["code"] for line in server.events("request_end")}
        assert ends == {"OK", "UNAVAILABLE"}


def test_client_that_does_not_read_cannot_hold_the_server():
    with Server("--drain_timeout=300ms") as server:
        call = stream(server, long_generation(response={"top_logprobs": 20}))
        read_until(call, "delta")
        begin = time.monotonic()
        server.signal()
        assert server.wait() == 0
        assert time.monotonic() - begin < 20


def test_withdrawal_window_takes_requests_then_drains_then_aborts():
    with Server("--withdrawal_window=4s", "--drain_timeout=300ms") as server:
        ready = health_watch(server, SERVICE)
        assert next(ready).status == SERVING
        begin = time.monotonic()
        server.signal()
        assert next(ready).status == NOT_SERVING
        assert time.monotonic() - begin < 2
        generate(server, max_new_tokens=4)
        call = stream(server, long_generation())
        read_until(call, "delta")
        assert not server.load().draining
        health = health_pb2_grpc.HealthStub(server.channel()).Check(health_pb2.HealthCheckRequest())
        assert health.status == SERVING  # the process lives and its engine moves
        wait_until(lambda: server.load().draining, "the drain to begin")
        assert time.monotonic() - begin >= 4
        refused(lambda: generate(server), grpc.StatusCode.UNAVAILABLE, "draining")
        events = list(call)
        assert events[-2].candidate_finished.finish_reason == inference.FINISH_REASON_ABORTED
        assert server.wait() == 0
        assert [line["window_seconds"] for line in server.events("withdrawal")] == [4]


def test_second_signal_in_the_window_quits_at_once():
    with Server("--withdrawal_window=1000s") as server:
        ready = health_watch(server, SERVICE)
        assert next(ready).status == SERVING
        server.signal()
        assert next(ready).status == NOT_SERVING
        server.signal()
        server.expected_code = 128 + signal.SIGTERM
        assert server.wait(20) == server.expected_code


def test_second_signal_quits_at_once():
    with Server("--drain_timeout=1000s") as server:
        call = stream(server, long_generation(max_new_tokens=100000))
        read_until(call, "delta")
        server.signal()
        wait_until(lambda: server.load().draining, "the drain to begin")
        server.signal()
        server.expected_code = 128 + signal.SIGTERM
        assert server.wait(20) == server.expected_code
        with pytest.raises(grpc.RpcError):
            list(call)
