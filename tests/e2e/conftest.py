"""One server is shared by the tests that leave it as they found it; the others start their own."""

import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from server_process import Server  # noqa: E402


@pytest.fixture(scope="session")
def server():
    # Small steps make many of them, small enough a cache makes the context testable.
    with Server("--max_batched_tokens=512", "--max_running_requests=8", f"--kv_cache_bytes={640 << 20}") as running:
        yield running


@pytest.fixture
def idle(server):
    """The shared server with nothing in it, before and after; pages are counted."""
    server.wait_idle()
    free = server.metrics().sum("kv_pages_free")
    yield server
    server.wait_idle()
    assert server.metrics().sum("kv_pages_free") == free
