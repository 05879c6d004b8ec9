"""What is no HTTP/2, or only its beginning, on every port: the server goes on, and keeps nothing of it."""

import contextlib
import os
import random
import socket
import struct

import pytest

from protos import inference
from requests_made import generate, generation, read_until, stream
from server_process import PATIENCE, wait_until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, CONTINUATION = 0, 1, 3, 4, 9
PORTS = ["grpc", "control", "metrics"]


def frame(kind, flags, stream_id, payload=b"", length=None):
    length = len(payload) if length is None else length
    return struct.pack(">I", length)[1:] + struct.pack(">BBL", kind, flags, stream_id) + payload


HELLO = PREFACE + frame(SETTINGS, 0, 0)


def literal(name, value):
    """A header field in HPACK, without a table and without Huffman's code."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def call_headers(path=b"/tauserve.inference.v1.InferenceService/GenerateStream"):
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x"),
              (b"content-type", b"application/grpc"), (b"te", b"trailers")]
    return b"".join(literal(*field) for field in fields)


def descriptors(server):
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


@pytest.fixture
def kept(server):
    """Descriptors are as before when the test's connections are closed; so are requests; and the server answers."""
    generate(server, max_new_tokens=1)
    server.load()
    server.scrape()
    before = descriptors(server)
    with contextlib.ExitStack() as sockets:
        def connect(port):
            host, number = server.serving[port].rsplit(":", 1)
            connection = socket.create_connection((host, int(number)), timeout=PATIENCE)
            sockets.callback(connection.close)
            return connection

        yield connect
        generate(server, max_new_tokens=1)
        server.load()
        server.scrape()
    server.wait_idle()
    wait_until(lambda: descriptors(server) <= before, f"descriptors to be {before} again")


def send(connection, data):
    """As much as the server takes before it closes."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(data)


def drained(connection):
    """Waits until the server has closed."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(65536):
            pass


@pytest.mark.parametrize("port", PORTS)
def test_random_bytes(kept, port):
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for _ in range(40):
        connection = kept(port)
        head = b"" if port == "metrics" or dice.random() < 0.5 else HELLO
        send(connection, head + dice.randbytes(dice.randrange(1, 20000)))


@pytest.mark.parametrize("port", PORTS)
def test_a_beginning_and_then_silence(kept, port):
    beginnings = [b"", PREFACE[:7], PREFACE, HELLO, HELLO + frame(HEADERS, 4, 1, call_headers())[:20],
                  HELLO + frame(HEADERS, 0, 1, call_headers()),  # no end of headers
                  HELLO + frame(HEADERS, 4, 1, call_headers()),  # a call whose message never comes
                  HELLO + frame(HEADERS, 4, 1, call_headers()) + frame(DATA, 0, 1, b"\x00\x00\x01\x00\x00abc"),
                  # a message of 4 GiB, it says
                  HELLO + frame(HEADERS, 4, 1, call_headers()) + frame(DATA, 0, 1, b"\x00\xff\xff\xff\xff" + b"x" * 1000),
                  b"GET /metrics HTTP/1.1\r\nHost:"]
    for beginning in beginnings:
        for _ in range(2):
            send(kept(port), beginning)


def test_frames_larger_than_allowed(kept):
    for kind in (DATA, HEADERS, SETTINGS, CONTINUATION):
        connection = kept("grpc")
        send(connection, HELLO + frame(kind, 4, 1, b"x" * 4096, length=(1 << 24) - 1))
        send(connection, b"x" * (1 << 20))
        drained(connection)


def test_calls_that_are_reset_at_once(kept):
    connection = kept("grpc")
    message = inference.GenerateStreamRequest(input=generation(max_new_tokens=50)).SerializeToString()
    body = b"\x00" + struct.pack(">I", len(message)) + message
    calls = b"".join(frame(HEADERS, 4, number, call_headers()) + frame(DATA, 1, number, body)
                     + frame(RST_STREAM, 0, number, struct.pack(">I", 8)) for number in range(1, 401, 2))
    send(connection, HELLO + calls)
    connection.close()


def test_metrics_port_refuses_what_is_no_request(kept):
    connection = kept("metrics")
    send(connection, b"GET /" + b"x" * 100000 + b" HTTP/1.1\r\n\r\n")
    drained(connection)
    connection = kept("metrics")
    send(connection, b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 20000 + b"\r\n")
    drained(connection)


def test_a_stream_goes_on_beside_rubbish(server, kept):
    call = stream(server, generation(max_new_tokens=60, stopping={"ignore_eos": True}))
    read_until(call, "delta")
    for _ in range(20):
        send(kept("grpc"), HELLO + random.randbytes(5000))
    assert [event.WhichOneof("event") for event in call][-1] == "completed"
