"""A GPU that fails while it serves, played by a library in the place of the CUDA backend's."""

import os
import pathlib
import shutil

import grpc
import pytest

from requests_made import generation, stream
from server_process import Server

BIN = pathlib.Path(os.environ["TAUSERVE_BIN_DIR"])
DEVICE_FAILED = 3


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
        tokens = 0
        with pytest.raises(grpc.RpcError) as error:
            for event in stream(server, generation(list(range(300, 310)), max_new_tokens=50)):
                tokens += event.WhichOneof("event") == "delta"
        assert error.value.code() == grpc.StatusCode.INTERNAL
        assert "fallen off the bus" in error.value.details()
        assert 0 < tokens <= 3
        assert server.wait() == DEVICE_FAILED
        (event,) = server.events("device_failure")
        assert "fallen off the bus" in event["message"]
