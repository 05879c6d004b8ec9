"""The documents' examples run against one server with the embedded model."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

from server_process import Server  # noqa: E402


KV_CACHE_BYTES = 1 << 30


@pytest.fixture(scope="session")
def server():
    with Server(f"--kv_cache_bytes={KV_CACHE_BYTES}") as running:
        running.kv_cache_bytes = KV_CACHE_BYTES
        yield running
