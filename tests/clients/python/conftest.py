"""Tests of the installed package: the environment's, or a wheel of the checkout that is installed for this run."""

import asyncio
import atexit
import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))


def install_package():
    """Into a folder that this process and those it starts import from."""
    folder = tempfile.mkdtemp(prefix="tauserve-package-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
                    f"--target={folder}", str(ROOT / "clients" / "python")], check=True)
    sys.path.insert(0, folder)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))


try:
    importlib.metadata.version("tauserve")
except importlib.metadata.PackageNotFoundError:
    install_package()

from server_process import PATIENCE, Server  # noqa: E402

import tauserve  # noqa: E402


class Awaited:
    """An asyncio client that is used as a blocking one, so that both run the same tests."""

    def __init__(self, kind, *args, **options):
        self.loop = asyncio.new_event_loop()
        self.client = self.run(self.make(kind, args, options))

    @staticmethod
    async def make(kind, args, options):
        return kind(*args, **options)

    def run(self, awaitable):
        return self.loop.run_until_complete(awaitable)

    def stream(self, *args, **options):
        events = self.client.stream(*args, **options)
        while True:
            try:
                yield self.run(anext(events))
            except StopAsyncIteration:
                return

    def close(self):
        self.run(self.client.close())
        self.run(asyncio.sleep(0))
        self.loop.close()

    def __getattr__(self, name):
        method = getattr(self.client, name)
        return lambda *args, **options: self.run(method(*args, **options))


@pytest.fixture(params=["blocking", "asyncio"])
def connect(request):
    """Makes clients of one kind; they are closed after the test."""
    clients = []

    def make(address, control=False, **options):
        options.setdefault("timeout", PATIENCE)
        if request.param == "blocking":
            client = (tauserve.ControlClient if control else tauserve.Client)(address, **options)
        else:
            kind = tauserve.AsyncControlClient if control else tauserve.AsyncClient
            client = Awaited(kind, address, **options)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@pytest.fixture(scope="session")
def server():
    with Server("--max_batched_tokens=512", "--max_running_requests=8", "--chat_template=chatml",
                f"--kv_cache_bytes={640 << 20}") as running:
        yield running


@pytest.fixture
def client(server, connect):
    """And the server is idle again behind the test."""
    yield connect(server.serving["grpc"])
    server.wait_idle()


@pytest.fixture
def control(server, connect):
    return connect(server.serving["control"], control=True)
