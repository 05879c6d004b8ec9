"""One server is shared by the tests that leave it as they found it; the others start their own."""

import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from protos import inference  # noqa: E402
from server_process import Server  # noqa: E402

KV_CACHE_BYTES = 640 << 20


@pytest.fixture(scope="session")
def server():
    # Small steps make many of them, small enough a cache makes the context testable.
    with Server("--max_batched_tokens=512", "--max_running_requests=8", f"--kv_cache_bytes={KV_CACHE_BYTES}") as running:
        yield running


@pytest.fixture(scope="session")
def page_bytes(server):
    """Of the KV cache, up to a thousandth more: where the processor multiplies bytes, pages hold a shadow of the keys."""
    return KV_CACHE_BYTES // server.stub.GetModel(inference.GetModelRequest()).kv_pages_total


@pytest.fixture
def idle(server):
    """The shared server with nothing in it, before and after; pages are counted."""
    server.wait_idle()
    free = server.metrics().sum("kv_pages_free")
    yield server
    server.wait_idle()
    assert server.metrics().sum("kv_pages_free") == free
