"""What one connection may take: streams, time, pings, headers."""

import socket
import struct
import time

import grpc
import pytest

from protos import inference, inference_grpc
from requests_made import generate, kinds, long_generation, read_until, refused, stream
from server_process import PATIENCE, Server, wait_until
from test_start import MODEL, fails


def stub_of(channel):
    return inference_grpc.InferenceServiceStub(channel)


def test_streams_of_one_connection():
    with Server("--max_concurrent_streams=2") as server:
        stub = stub_of(server.channel())
        first, second = (stream(server, long_generation(), stub=stub) for _ in range(2))
        read_until(first, "delta")
        read_until(second, "delta")
        third = stream(server, long_generation(max_new_tokens=4), stub=stub)
        generate(server)  # another connection has its own
        assert server.load().running_requests == 2
        first.cancel()
        assert kinds(third)[-1] == "completed"
        second.cancel()


def test_old_connections_are_left():
    with Server("--max_connection_age=1s", "--max_connection_age_grace=1s") as server:
        begin = time.monotonic()
        call = stream(server, long_generation())
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert time.monotonic() - begin > 1
        server.wait_idle()
        end = time.monotonic() + 3
        while time.monotonic() < end:  # clients connect again by themselves
            generate(server, max_new_tokens=1)


def test_grace_lets_calls_end():
    with Server("--max_connection_age=1s", f"--max_connection_age_grace={PATIENCE}s") as server:
        begin = time.monotonic()
        message = long_generation(stopping={"time_limit": {"seconds": 3}})
        events = list(stream(server, message))
        assert kinds(events)[-1] == "completed" and time.monotonic() - begin > 2


def frames(connection):
    """(type, payload) of each HTTP/2 frame, until the server closes."""
    data = b""
    while True:
        while len(data) >= 9:
            size = int.from_bytes(data[:3], "big")
            if len(data) < 9 + size:
                break
            yield data[3], data[9:9 + size]
            data = data[9 + size:]
        received = connection.recv(65536)
        if not received:
            return
        data += received


def test_pings_too_often_are_told_to_go_away(server):
    host, port = server.serving["grpc"].rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        settings, ping, goaway, enhance_your_calm = 4, 6, 7, 11
        # In one piece: what comes after the connection is closed would take back the server's last words.
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">HBBBL", 0, 0, settings, 0, 0)
                           + b"".join(struct.pack(">HBBBLQ", 0, 8, ping, 0, 0, number) for number in range(8)))
        payload = next(payload for kind, payload in frames(connection) if kind == goaway)
        assert struct.unpack(">LL", payload[:8])[1] == enhance_your_calm and b"too_many_pings" in payload
    generate(server)  # nobody else notices


def test_header_size(server):
    request = inference.GetModelRequest()
    stub = stub_of(server.channel())
    stub.GetModel(request, metadata=[("padding", "x" * 6000)])
    refused(lambda: stub.GetModel(request, metadata=[("padding", "x" * 20000)]), grpc.StatusCode.RESOURCE_EXHAUSTED,
            "metadata size")
    server.stub.GetModel(request)  # other connections notice nothing


def test_message_size():
    with Server("--max_message_bytes=2048") as server:
        stub = stub_of(server.channel())
        stub.Tokenize(inference.TokenizeRequest(text="x" * 1000))
        refused(lambda: stub.Tokenize(inference.TokenizeRequest(text="x" * 3000)), grpc.StatusCode.RESOURCE_EXHAUSTED,
                3000 // 1000, 2048)


@pytest.mark.parametrize("flag, parts", [
    ("--max_concurrent_streams=0", ["max_concurrent_streams", "0", "[1, "]),
    ("--max_connection_age=10ms", ["max_connection_age", "10ms", "1s"]),
    ("--max_connection_age_grace=-1s", ["max_connection_age_grace", "-1s", "0"]),
    ("--max_connection_age=soon", ["max_connection_age", "soon"]),
])
def test_bad_limits(flag, parts):
    message = fails(f"--model={MODEL}", flag, code=2)
    for part in parts:
        assert part in message


def test_connections_that_say_nothing(server):
    """Sockets that connect and stay silent take nothing from those who speak."""
    host, port = server.serving["grpc"].rsplit(":", 1)
    silent = [socket.create_connection((host, int(port)), timeout=PATIENCE) for _ in range(50)]
    generate(server)
    for connection in silent:
        connection.close()
    wait_until(lambda: server.load().running_requests == 0, "idleness")
