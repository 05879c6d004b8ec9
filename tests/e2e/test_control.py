"""The control service, health, reflection."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.duration_pb2 import Duration

from protos import control, inference
from requests_made import generate, generation, kinds, long_generation, read_until, refused, stream
from server_process import Server, wait_until

SERVICE = "tauserve.inference.v1.InferenceService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def health(server, service, which="grpc"):
    stub = health_pb2_grpc.HealthStub(server.channel(which))
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20).status


def test_server_info(server):
    info = server.control.GetServerInfo(control.GetServerInfoRequest())
    assert info.version and info.commit and len(info.instance_id) >= 8
    assert info.device.startswith("cpu (") and "cpu" in info.compiled_devices
    assert info.uptime.ToTimedelta().total_seconds() > 0
    assert (info.max_running_requests, info.max_batched_tokens, info.max_waiting_requests) == (8, 512, 256)
    assert server.control.GetServerInfo(control.GetServerInfoRequest()).instance_id == info.instance_id


def test_load(idle):
    call = stream(idle, long_generation())
    read_until(call, "delta")
    load = idle.load()
    assert load.running_requests == 1 and load.waiting_requests == 0 and not load.draining
    assert 0 < load.kv_cache_usage_ratio < 1
    assert load.since_last_step.ToTimedelta().total_seconds() < 20
    call.cancel()
    idle.wait_idle()
    assert idle.load().kv_cache_usage_ratio == 0


def test_abort_one(idle):
    one = stream(idle, long_generation(request_id="one"))
    two = stream(idle, long_generation(request_id="two"))
    read_until(one, "delta")
    read_until(two, "delta")
    response = idle.control.AbortRequests(control.AbortRequestsRequest(request_ids=["one", "no such"]))
    assert list(response.aborted_request_ids) == ["one"]
    events = list(one)
    assert kinds(events)[-2:] == ["candidate_finished", "completed"]
    assert events[-2].candidate_finished.finish_reason == inference.FINISH_REASON_ABORTED
    assert events[-1].completed.usage.completion_tokens >= 1
    assert idle.load().running_requests == 1
    two.cancel()


def test_abort_all(idle):
    calls = [idle.stub.Generate.future(inference.GenerateRequest(input=long_generation(
        max_new_tokens=5000, request_id=f"all-{i}"))) for i in range(3)]
    wait_until(lambda: idle.load().running_requests == 3, "three to run")
    response = idle.control.AbortRequests(control.AbortRequestsRequest())
    assert sorted(response.aborted_request_ids) == ["all-0", "all-1", "all-2"]
    for call in calls:
        candidate = call.result().candidates[0]
        assert candidate.finish.finish_reason == inference.FINISH_REASON_ABORTED


def test_clear_prefix_cache(idle):
    prompt = [0] + [900 + i % 600 for i in range(640)]
    idle.control.ClearPrefixCache(control.ClearPrefixCacheRequest())
    generate(idle, prompt)
    assert generate(idle, prompt).prompt.cached_tokens == 640
    # All full pages, those that the answer filled included.
    assert idle.control.ClearPrefixCache(control.ClearPrefixCacheRequest()).pages_freed >= 10
    assert idle.control.ClearPrefixCache(control.ClearPrefixCacheRequest()).pages_freed == 0
    assert generate(idle, prompt).prompt.cached_tokens == 0


def test_health(server):
    assert health(server, "") == SERVING
    assert health(server, SERVICE) == SERVING
    assert health(server, "", which="control") == SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health(server, "no.such.Service")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection(server):
    database = ProtoReflectionDescriptorDatabase(server.channel())
    assert SERVICE in database.get_services() and "grpc.health.v1.Health" in database.get_services()
    service = DescriptorPool(database).FindServiceByName(SERVICE)
    assert [method.name for method in service.methods] == [
        "Generate", "GenerateStream", "Tokenize", "Detokenize", "GetModel"]
    operators = ProtoReflectionDescriptorDatabase(server.channel("control"))
    assert "tauserve.inference.v1.ControlService" in operators.get_services()
    assert "tauserve.inference.v1.ControlService" not in database.get_services()


def test_control_is_not_on_the_inference_port(server):
    call = server.channel().unary_unary("/tauserve.inference.v1.ControlService/AbortRequests")
    refused(lambda: call(b""), grpc.StatusCode.UNIMPLEMENTED)


def test_negative_drain_timeout(server):
    request = control.DrainRequest(timeout=Duration(seconds=-1))
    refused(lambda: server.control.Drain(request), grpc.StatusCode.INVALID_ARGUMENT, "timeout", "-1")
    assert health(server, SERVICE) == SERVING


def test_drain_lets_requests_end():
    with Server() as server:
        call = stream(server, generation(max_new_tokens=300, stopping={"ignore_eos": True}))
        read_until(call, "delta")
        drain = server.control.Drain.future(control.DrainRequest(timeout=Duration(seconds=100)))
        wait_until(lambda: server.load().draining, "the drain to begin")
        assert health(server, SERVICE) == NOT_SERVING and health(server, "") == SERVING
        refused(lambda: generate(server), grpc.StatusCode.UNAVAILABLE, "drain")
        refused(lambda: list(stream(server, generation())), grpc.StatusCode.UNAVAILABLE, "drain")
        events = list(call)
        assert events[-2].candidate_finished.finish_reason == inference.FINISH_REASON_MAX_NEW_TOKENS
        assert drain.result(timeout=100).aborted_requests == 0
        metrics = server.metrics()
        assert metrics.sum("requests_total", code="UNAVAILABLE") == 2
        assert metrics.sum("requests_total", code="OK", finish_reason="max_new_tokens") == 1
        assert server.process.poll() is None


def test_drain_cuts_off_what_takes_too_long():
    with Server() as server:
        call = stream(server, long_generation())
        read_until(call, "delta")
        response = server.control.Drain(control.DrainRequest(timeout=Duration(nanos=200_000_000)))
        assert response.aborted_requests == 1
        events = list(call)
        assert events[-2].candidate_finished.finish_reason == inference.FINISH_REASON_ABORTED
        assert server.control.Drain(control.DrainRequest()).aborted_requests == 0  # nothing is left to wait for


def test_a_shorter_drain_overtakes_a_longer_one():
    with Server() as server:
        call = stream(server, long_generation())
        read_until(call, "delta")
        patient = server.control.Drain.future(control.DrainRequest(timeout=Duration(seconds=3600)))
        wait_until(lambda: server.load().draining, "the drain to begin")
        hasty = server.control.Drain(control.DrainRequest(timeout=Duration()))
        assert hasty.aborted_requests + patient.result(timeout=60).aborted_requests == 1
        assert kinds(list(call))[-1] == "completed"
