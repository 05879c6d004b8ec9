"""Clients that leave, or stop reading: everything they held is free soon after, and nobody else notices."""

import threading

import grpc
import pytest
from grpc_status import rpc_status

from protos import error_details_pb2, inference, inference_grpc
from requests_made import generate, generation, kinds, long_generation, read_until, stream
from server_process import Server, wait_until

LONG_PROMPT = [0] + [300 + i * 7 % 3000 for i in range(30000)]


def counted(server, before, code):
    name = "requests_total"
    wait_until(lambda: server.metrics().sum(name) - before.sum(name) >= 1, "the request's end to be counted")
    after = server.metrics()
    assert after.sum(name) - before.sum(name) == 1
    assert after.sum(name, code=code) - before.sum(name, code=code) == 1


def test_cancel_in_decode(idle):
    before = idle.metrics()
    call = stream(idle, long_generation())
    read_until(call, "delta")
    call.cancel()
    idle.wait_idle()
    counted(idle, before, "CANCELLED")


def test_cancel_in_prefill(idle):
    before = idle.metrics()
    call = stream(idle, generation(LONG_PROMPT, cache={"bypass_prefix_cache": True}))
    events = read_until(call, "prefill_progress")
    assert events[-1].prefill_progress.processed_tokens < len(LONG_PROMPT) / 2
    call.cancel()
    idle.wait_idle()
    counted(idle, before, "CANCELLED")
    assert idle.metrics().sum("generation_tokens_total") == before.sum("generation_tokens_total")


def test_cancel_of_a_unary_call(idle):
    before = idle.metrics()
    call = idle.stub.Generate.future(inference.GenerateRequest(input=long_generation()))
    wait_until(lambda: idle.load().running_requests == 1, "the request to run")
    call.cancel()
    idle.wait_idle()
    counted(idle, before, "CANCELLED")


def test_connection_that_closes_in_decode(idle):
    before = idle.metrics()
    channel = idle.channel()
    call = stream(idle, long_generation(), stub=inference_grpc.InferenceServiceStub(channel))
    read_until(call, "delta")
    channel.close()
    idle.wait_idle()
    counted(idle, before, "CANCELLED")


def test_deadline_in_decode(idle):
    before = idle.metrics()
    call = stream(idle, long_generation(), timeout=0.5)
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    idle.wait_idle()
    counted(idle, before, "DEADLINE_EXCEEDED")


def test_deadline_in_prefill(idle):
    before = idle.metrics()
    call = stream(idle, generation(LONG_PROMPT, cache={"bypass_prefix_cache": True}), timeout=0.3)
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    idle.wait_idle()
    counted(idle, before, "DEADLINE_EXCEEDED")


@pytest.fixture(scope="module")
def narrow():
    """Runs one request at a time and queues two."""
    with Server("--max_running_requests=1", "--max_waiting_requests=2", f"--kv_cache_bytes={512 << 20}") as running:
        yield running


@pytest.fixture
def busy(narrow):
    """`narrow` while it decodes for somebody else."""
    narrow.wait_idle()
    free = narrow.metrics().sum("kv_pages_free")
    call = stream(narrow, long_generation(request_id="the-long-one"))
    read_until(call, "delta")
    yield narrow
    call.cancel()
    narrow.wait_idle()
    assert narrow.metrics().sum("kv_pages_free") == free


def test_cancel_in_the_queue(busy):
    before = busy.metrics()
    call = stream(busy, generation())
    wait_until(lambda: busy.load().waiting_requests == 1, "the request to wait")
    metrics = busy.metrics()
    assert metrics.sum("requests_waiting") == 1 and metrics.sum("requests_running") == 1
    assert metrics.sum("waiting_prompt_tokens") == 17
    call.cancel()
    wait_until(lambda: busy.load().waiting_requests == 0, "the queue to be empty")
    counted(busy, before, "CANCELLED")


def test_deadline_in_the_queue(busy):
    before = busy.metrics()
    with pytest.raises(grpc.RpcError) as caught:
        generate(busy, timeout=0.3)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: busy.load().waiting_requests == 0, "the queue to be empty")
    counted(busy, before, "DEADLINE_EXCEEDED")


def test_full_queue(busy):
    before = busy.metrics()
    waiting = [stream(busy, generation()) for _ in range(2)]
    wait_until(lambda: busy.load().waiting_requests == 2, "two requests to wait")
    for call in (lambda: generate(busy), lambda: list(stream(busy, generation()))):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        error = caught.value
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "2 requests wait" in error.details() and "limit is 2" in error.details()
        assert retry_delay(error) > 0
    for call in waiting:
        call.cancel()
    wait_until(lambda: busy.load().waiting_requests == 0, "the queue to be empty")
    wait_until(lambda: busy.metrics().sum("requests_total") - before.sum("requests_total") == 4, "four ends")
    after = busy.metrics()
    assert after.sum("requests_total", code="RESOURCE_EXHAUSTED") - before.sum("requests_total", code="RESOURCE_EXHAUSTED") == 2


def retry_delay(error):
    status = rpc_status.from_call(error)
    assert status is not None and status.code == error.code().value[0]
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    return retry.retry_delay.ToTimedelta().total_seconds()


def test_request_id_in_flight_is_refused(busy):
    before = busy.metrics()
    with pytest.raises(grpc.RpcError) as caught:
        generate(busy, request_id="the-long-one")
    assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS
    assert "the-long-one" in caught.value.details()
    counted(busy, before, "ALREADY_EXISTS")
    assert busy.load().running_requests == 1  # the refused call's end does not touch its namesake


def test_a_request_id_is_free_again_after_its_end(server):
    for _ in range(20):
        assert generate(server, request_id="again", max_new_tokens=2).request_id == "again"


def test_client_that_stops_reading(idle):
    """Its output piles up, merged, while others are served; when it reads again nothing is missing."""
    # A tiny window makes flow control bite after a few messages.
    window = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
    stub = inference_grpc.InferenceServiceStub(idle.channel(options=window))
    total = 1500
    message = generation(max_new_tokens=total, stopping={"ignore_eos": True},
                         response={"token_ids": True, "top_logprobs": 20})
    call = stream(idle, message, stub=stub)
    first = read_until(call, "delta")
    # It does not read now. Others do, and the engine finishes the one that nobody reads.
    for _ in range(3):
        assert generate(idle).usage.completion_tokens == 16
    idle.wait_idle()
    rest = list(call)
    deltas = [e.delta for e in first + rest if e.WhichOneof("event") == "delta"]
    assert sum(d.num_tokens for d in deltas) == total
    assert max(d.num_tokens for d in deltas) > 1, "nothing was merged: the client was never slow"
    assert all(len(d.logprobs) == d.num_tokens for d in deltas)
    assert kinds(rest)[-2:] == ["candidate_finished", "completed"]
    assert rest[-1].completed.usage.completion_tokens == total


def test_client_that_never_reads_again(idle):
    before = idle.metrics()
    channel = idle.channel(options=[("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)])
    call = stream(idle, long_generation(response={"top_logprobs": 20}), stub=inference_grpc.InferenceServiceStub(channel))
    read_until(call, "delta")
    channel.close()
    idle.wait_idle()
    counted(idle, before, "CANCELLED")


def test_many_that_leave_at_once(idle):
    before = idle.metrics()
    calls = [stream(idle, long_generation(max_new_tokens=1000)) for _ in range(24)]
    threads = [threading.Thread(target=call.cancel) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    idle.wait_idle()
    # Those that were cancelled before they left the client never reached the server.
    assert idle.metrics().sum("requests_total") - before.sum("requests_total") <= 24
    assert generate(idle).usage.completion_tokens == 16
