"""What requests do to each other: too few pages for all, priorities, a short prompt beside a long one."""

import grpc
import pytest

from protos import inference
from requests_made import generate, generation, read_until, stream, together
from server_process import PATIENCE, Server


@pytest.fixture(scope="module")
def small(page_bytes):
    """Seven pages of 64 tokens: two requests of 310 tokens don't fit together."""
    with Server(f"--kv_cache_bytes={7 * page_bytes}", "--prefix_cache=false") as running:
        yield running


def long_request(start):
    return generation(list(range(start, start + 60)), max_new_tokens=250, stopping={"ignore_eos": True},
                      response={"token_ids": True})


def ask(server, message):
    return server.stub.Generate(inference.GenerateRequest(input=message), timeout=PATIENCE)


def preemptions_of(server):
    return server.metrics().sum("preemptions_total")


def test_a_preempted_request_gives_what_it_gives_alone(small):
    messages = [long_request(300), long_request(900)]
    alone = [ask(small, message) for message in messages]
    assert all(answer.timings.preemptions == 0 for answer in alone)
    before = preemptions_of(small)
    answers = together(small, messages)
    preemptions = [answer.timings.preemptions for answer in answers]
    assert min(preemptions) == 0 and max(preemptions) >= 1
    assert preemptions_of(small) - before == sum(preemptions)
    for answer, expected in zip(answers, alone):
        assert list(answer.candidates[0].token_ids) == list(expected.candidates[0].token_ids)
        assert answer.usage.completion_tokens == 250
    assert small.load().kv_cache_usage_ratio == 0


def test_a_priority_outside_its_range_is_refused(small):
    with pytest.raises(grpc.RpcError) as error:
        generate(small, scheduling={"priority": 101})
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "priority is 101" in error.value.details() and "100]" in error.value.details()
    assert generate(small, scheduling={"priority": -100}, max_new_tokens=1).usage.completion_tokens == 1


def test_a_short_prompt_does_not_wait_for_a_long_one(page_bytes):
    with Server(f"--kv_cache_bytes={800 * page_bytes}", "--max_batched_tokens=512") as server:
        long = stream(server, generation([300 + i % 3000 for i in range(40000)], max_new_tokens=1))
        read_until(long, "prefill_progress")
        generate(server, list(range(300, 400)), max_new_tokens=1)
        # The answer came while the long prompt was being read.
        assert server.load().running_requests == 1
        long.cancel()
