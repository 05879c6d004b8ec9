"""Calls that don't end well: what they raise, and which are tried again."""

import asyncio
import concurrent.futures
import pickle
import socket
import time

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from requests_made import STORY, long_generation, read_until, stream
from server_process import PATIENCE, Server, wait_until

import tauserve
from tauserve import GenerationOptions, RetryPolicy

ENDLESS = GenerationOptions(max_new_tokens=20000, ignore_eos=True)


@pytest.mark.parametrize("options, kind, message", [
    (GenerationOptions(temperature=-1), tauserve.InvalidArgumentError, "temperature is -1"),
    (GenerationOptions(top_k=-1), tauserve.InvalidArgumentError, "top_k"),
    (GenerationOptions(seed=2**64), tauserve.InvalidArgumentError, "seed"),
    (GenerationOptions(time_limit=-1), tauserve.InvalidArgumentError, "time_limit is -1 s"),
    (GenerationOptions(logit_bias={-1: 0.0}), tauserve.InvalidArgumentError, "logit_bias"),
    (GenerationOptions(model="other"), tauserve.NotFoundError, "other"),
    (GenerationOptions(temperature="hot"), TypeError, "temperature"),
    (GenerationOptions(structured_output="a*"), TypeError, "structured_output")])
def test_bad_requests(client, options, kind, message):
    for ask in (lambda: client.generate(STORY, options), lambda: list(client.stream(STORY, options))):
        with pytest.raises(kind, match=message) as caught:
            ask()
        if kind is not TypeError:
            assert isinstance(caught.value, tauserve.TauserveError)
            assert caught.value.message in str(caught.value) and caught.value.retry_delay is None
            assert str(caught.value).startswith(caught.value.code.name)


def test_bad_prompts(client):
    with pytest.raises(tauserve.InvalidArgumentError, match="prompt"):
        client.generate([-1])
    with pytest.raises(tauserve.InvalidArgumentError):
        client.generate([])
    with pytest.raises(tauserve.InvalidArgumentError):
        client.detokenize([4000000])


def test_request_id_in_flight(server, client):
    call = stream(server, long_generation(request_id="taken"))
    read_until(call, "delta")
    with pytest.raises(tauserve.AlreadyExistsError, match="taken"):
        client.generate(STORY, GenerationOptions(request_id="taken"))
    call.cancel()


def test_deadline(client):
    with pytest.raises(tauserve.DeadlineExceededError):
        client.generate(STORY, ENDLESS, timeout=0.3)
    texts = []
    with pytest.raises(tauserve.DeadlineExceededError):
        for event in client.stream(STORY, ENDLESS, timeout=0.5):
            texts.append(event)
    assert texts  # what came before stays


def test_unreachable(connect):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        client = connect(address, retry=RetryPolicy(max_attempts=2, initial_backoff=0.01))
        for ask in (client.get_model, lambda: client.generate(STORY), lambda: list(client.stream(STORY))):
            with pytest.raises(tauserve.UnavailableError) as caught:
                ask()
            assert caught.value.code is grpc.StatusCode.UNAVAILABLE and caught.value.message


def test_a_server_that_dies(connect):
    with Server() as server:
        client = connect(server.serving["grpc"])
        events = iter(client.stream(STORY, ENDLESS))
        assert isinstance(next(events), tauserve.Started)
        server.expected_code = -9
        server.signal(9)
        with pytest.raises(tauserve.UnavailableError):
            list(events)


def test_a_full_queue(connect):
    with Server("--max_running_requests=1", "--max_waiting_requests=1") as server:
        runs = stream(server, long_generation())
        read_until(runs, "delta")
        waits = stream(server, long_generation(max_new_tokens=1))
        wait_until(lambda: server.load().waiting_requests == 1, "a full queue")
        client = connect(server.serving["grpc"], retry=RetryPolicy(max_attempts=1))
        with pytest.raises(tauserve.ResourceExhaustedError, match="try again in") as caught:
            client.generate(STORY)
        assert caught.value.retry_delay > 0
        runs.cancel()
        list(waits)


def test_closing_ends_calls(server):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        client = tauserve.Client(server.serving["grpc"])
        call = pool.submit(client.generate, STORY, ENDLESS)
        wait_until(lambda: server.load().running_requests == 1, "the request to run")
        client.close()
        with pytest.raises(tauserve.CancelledError):
            call.result(PATIENCE)
    server.wait_idle()


def test_errors_go_to_other_processes():
    error = tauserve.ResourceExhaustedError(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", 0.5)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and str(copy) == str(error) == "RESOURCE_EXHAUSTED: full (try again in 0.50 s)"


def test_policies_are_checked():
    for wrong in (dict(max_attempts=0), dict(max_attempts=6), dict(initial_backoff=0), dict(initial_backoff=3)):
        with pytest.raises(ValueError):
            RetryPolicy(**wrong)


class Refusing:
    """A server that refuses calls with these codes, one after the other, and then answers with nothing in it."""

    def __init__(self, *codes, delay=None):
        self.codes, self.delay, self.times = list(codes), delay, []
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
        self.server.add_generic_rpc_handlers([self])
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    def service(self, details):
        if details.method.endswith("Stream"):
            return grpc.unary_stream_rpc_method_handler(self.answer_stream)
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request, context):
        self.times.append(time.monotonic())
        if self.codes:
            code = self.codes.pop(0)
            if self.delay is not None:
                info = any_pb2.Any()
                info.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=int(self.delay * 1e9))))
                details = status_pb2.Status(code=code.value[0], message="refused", details=[info])
                context.set_trailing_metadata([("grpc-status-details-bin", details.SerializeToString())])
            context.abort(code, "refused")
        return b""

    def answer_stream(self, request, context):
        yield self.answer(request, context)

    def __enter__(self):
        self.server.start()
        return self

    def __exit__(self, *exception):
        self.server.stop(None).wait()


EXHAUSTED, UNAVAILABLE = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE
QUICK = RetryPolicy(initial_backoff=0.01, max_backoff=0.01)
ASKS = {"call": lambda client, **options: client.tokenize("", **options),
        "stream": lambda client, **options: list(client.stream("", **options))}


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_a_refused_call_waits_as_the_server_says(connect, ask):
    with Refusing(EXHAUSTED, EXHAUSTED, delay=0.2) as server:
        ask(connect(server.address, retry=QUICK))
        assert len(server.times) == 3
        assert all(later - earlier >= 0.2 for earlier, later in zip(server.times, server.times[1:]))


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_an_unavailable_server_is_asked_again(connect, ask):
    with Refusing(UNAVAILABLE, UNAVAILABLE) as server:
        ask(connect(server.address, retry=QUICK))
        assert len(server.times) == 3


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
@pytest.mark.parametrize("codes, delay, policy, attempts", [
    ([EXHAUSTED] * 9, 0.01, QUICK, 4), ([UNAVAILABLE] * 9, None, QUICK, 4),
    ([EXHAUSTED] * 9, 0.01, RetryPolicy(max_attempts=1), 1), ([UNAVAILABLE] * 9, None, RetryPolicy(max_attempts=1), 1),
    ([EXHAUSTED], None, QUICK, 1), ([grpc.StatusCode.INTERNAL], None, QUICK, 1)])
def test_tries_end(connect, ask, codes, delay, policy, attempts):
    with Refusing(*codes, delay=delay) as server:
        with pytest.raises(tauserve.TauserveError) as caught:
            ask(connect(server.address, retry=policy))
        assert caught.value.code is codes[0] and caught.value.message == "refused"
        assert len(server.times) == attempts


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_no_wait_beyond_the_deadline(connect, ask):
    with Refusing(*[EXHAUSTED] * 9, delay=0.9) as server:
        client = connect(server.address)
        with pytest.raises(tauserve.ResourceExhaustedError):
            ask(client, timeout=0.8)
        assert len(server.times) == 1


def test_closing_ends_the_wait():
    with Refusing(*[EXHAUSTED] * 9, delay=0.9) as server, concurrent.futures.ThreadPoolExecutor() as pool:
        client = tauserve.Client(server.address)
        call = pool.submit(client.tokenize, "")
        wait_until(lambda: server.times, "the first try")
        client.close()
        with pytest.raises(tauserve.TauserveError):
            call.result(PATIENCE)
        assert len(server.times) == 1


def test_closed_clients(server):
    client = tauserve.Client(server.serving["grpc"])
    client.close()
    client.close()
    for ask in (client.get_model, lambda: list(client.stream(STORY))):
        with pytest.raises(tauserve.CancelledError, match="the client is closed"):
            ask()

    async def main():
        awaited = tauserve.AsyncClient(server.serving["grpc"])
        await awaited.close()
        with pytest.raises(tauserve.CancelledError, match="the client is closed"):
            await awaited.get_model()
        with pytest.raises(tauserve.CancelledError, match="the client is closed"):
            await anext(awaited.stream(STORY))

    asyncio.run(main())


def test_cancelling_ends_the_wait():
    async def main(server):
        async with tauserve.AsyncClient(server.address) as client:
            task = asyncio.create_task(client.tokenize(""))
            while not server.times:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with Refusing(*[EXHAUSTED] * 9, delay=0.9) as server:
        asyncio.run(main(server))
        assert len(server.times) == 1
