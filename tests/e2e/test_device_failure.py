"""A GPU that fails while it serves, played by a library in the place of the CUDA backend's, and one that can't be used."""

import os
import pathlib
import shutil

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from requests_made import generation, stream
from server_process import PATIENCE, Server

BIN = pathlib.Path(os.environ["TAUSERVE_BIN_DIR"])
DEVICE_FAILED = 3
SERVICE = "tauserve.inference.v1.InferenceService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def failing(tmp_path, monkeypatch):
    library = BIN / "failing_backend" / "libtauserve_cuda.so"
    if not library.exists():
        pytest.skip("built without CUDA")
    for file in (BIN / "tauserve", library):
        shutil.copy(file, tmp_path)
    monkeypatch.setenv("TAUSERVE_BIN_DIR", str(tmp_path))


def test_requests_end_with_internal_and_the_server_with_an_error(failing):
    with Server("--device=cuda", f"--kv_cache_bytes={64 << 20}") as server:
        server.expected_code = DEVICE_FAILED
        health = health_pb2_grpc.HealthStub(server.channel())
        watches = [health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE) for name in ("", SERVICE)]
        for watch in watches:
            assert next(watch).status == SERVING
        tokens = 0
        with pytest.raises(grpc.RpcError) as error:
            for event in stream(server, generation(list(range(300, 310)), max_new_tokens=50)):
                tokens += event.WhichOneof("event") == "delta"
        assert error.value.code() == grpc.StatusCode.INTERNAL
        assert "fallen off the bus" in error.value.details()
        assert 0 < tokens <= 3
        for watch in watches:
            assert next(watch).status == NOT_SERVING
        assert server.wait() == DEVICE_FAILED
        (event,) = server.events("device_failure")
        assert "fallen off the bus" in event["message"]


def test_auto_says_why_it_does_not_use_the_gpu(failing, tmp_path, monkeypatch):
    # A driver is there as far as anyone can see, the backend's library is not.
    (tmp_path / "libtauserve_cuda.so").rename(tmp_path / "libcuda.so.1")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    with Server(f"--kv_cache_bytes={64 << 20}") as server:
        (event,) = server.events("gpu_not_used")
        assert event["level"] == "warning" and "libtauserve_cuda.so" in event["message"]
        (start,) = server.events("start")
        assert start["device"].startswith("cpu (")
