"""Every method of the control service, blocking and awaited."""

import pytest
from requests_made import STORY, generate, long_generation, read_until, stream
from server_process import Server, wait_until
from tauserve import UnavailableError


def test_load_and_server(server, control):
    load = control.get_load()
    assert load.running_requests == load.waiting_requests == 0 and not load.draining
    info = control.get_server_info()
    assert info.version and info.device.startswith("cpu") and "cpu" in info.compiled_devices and info.uptime > 0
    assert info.max_running_requests == 8 and info.max_batched_tokens == 512


def test_abort(server, control):
    calls = [stream(server, long_generation(request_id=name)) for name in ("one", "two", "three")]
    for call in calls:
        read_until(call, "delta")
    assert control.abort_requests([]) == ()
    assert control.abort_requests(["one", "none"]) == ("one",)
    assert list(calls.pop(0))[-1].WhichOneof("event") == "completed"
    wait_until(lambda: server.load().running_requests == 2, "the first to be gone")
    assert set(control.abort_all_requests()) == {"two", "three"}
    for call in calls:
        assert list(call)[-1].WhichOneof("event") == "completed"


def test_clear_prefix_cache(server, control):
    generate(server, STORY * 20)
    assert control.clear_prefix_cache() > 0
    assert control.clear_prefix_cache() == 0


def test_drain(connect):
    with Server() as server:
        control, client = connect(server.serving["control"], control=True), connect(server.serving["grpc"])
        call = stream(server, long_generation())
        read_until(call, "delta")
        assert control.drain(0.1) == 1
        assert control.get_load().draining
        with pytest.raises(UnavailableError, match="draining"):
            client.generate(STORY)
        list(call)
