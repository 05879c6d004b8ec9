"""Log-probabilities of a prompt's tokens against the model in plain NumPy."""

import sys

import grpc
import numpy as np
import pytest

from protos import ROOT, inference
from requests_made import generate, generation, refused, stream
from server_process import MODEL, wait_until

sys.path.insert(0, str(ROOT / "tests" / "server" / "model"))

import numpy_forward  # noqa: E402

TOP = 4
TOLERANCE = 2e-3  # float32 against float64; logits are up to 20
TIE = 4e-3        # of logits this close the order may differ


@pytest.fixture(scope="module")
def expected(server):
    """A prompt of several chunks, and the log-softmax of its logits."""
    text = (ROOT / "models" / "recall-9m" / "README.md").read_text()[:1500]
    ids = list(server.stub.Tokenize(inference.TokenizeRequest(text=text)).token_ids)[:300]
    logits = numpy_forward.Model(str(MODEL))(ids)
    largest = logits.max(-1, keepdims=True)
    return ids, logits - largest - np.log(np.exp(logits - largest).sum(-1, keepdims=True))


def check(logprobs, expected):
    ids, table = expected
    assert [l.token_id for l in logprobs] == ids
    assert not logprobs[0].HasField("logprob") and logprobs[0].rank == 0 and not logprobs[0].top
    for i in range(1, len(ids)):
        got, row = logprobs[i], table[i - 1]
        assert got.logprob == pytest.approx(row[ids[i]], abs=TOLERANCE)
        assert 1 + (row > row[ids[i]] + TIE).sum() <= got.rank <= (row >= row[ids[i]] - TIE).sum()
        best = np.sort(row)[::-1][:TOP]
        assert [t.logprob for t in got.top] == pytest.approx(list(best), abs=TOLERANCE)
        assert [row[t.token_id] for t in got.top] == pytest.approx(list(best), abs=TIE)


def test_unary(server, expected):
    response = generate(server, expected[0], max_new_tokens=2, response={"top_prompt_logprobs": TOP})
    check(response.prompt.logprobs, expected)
    assert len(generate(server, expected[0], max_new_tokens=2).prompt.logprobs) == 0


@pytest.mark.parametrize("progress", [True, False])
def test_streamed_with_the_progress(server, expected, progress):
    events = list(stream(server, generation(expected[0], max_new_tokens=2, response={"top_prompt_logprobs": TOP}),
                         prefill_progress=progress))
    parts = [e.prefill_progress for e in events if e.WhichOneof("event") == "prefill_progress"]
    assert parts[-1].processed_tokens == parts[-1].total_tokens == len(expected[0])
    check([l for part in parts for l in part.logprobs], expected)
    assert not events[0].started.logprobs


def test_cached_pages_are_not_used_but_left(idle, expected):
    salt = {"salt": "prompt-logprobs"}
    for _ in range(2):
        response = generate(idle, expected[0], max_new_tokens=2, cache=salt, response={"top_prompt_logprobs": TOP})
        assert response.prompt.cached_tokens == 0
        check(response.prompt.logprobs, expected)
    cached = (len(expected[0]) - 1) // 64 * 64
    assert generate(idle, expected[0], max_new_tokens=2, cache=salt).prompt.cached_tokens == cached


def test_beside_candidates_and_other_requests(server, expected):
    message = generation(expected[0], max_new_tokens=8, response={"top_prompt_logprobs": TOP, "token_ids": True},
                         sampling={"num_candidates": 2})
    calls = [server.stub.Generate.future(inference.GenerateRequest(input=message)) for _ in range(3)]
    alone = generate(server, expected[0], max_new_tokens=8, response={"token_ids": True})
    for call in calls:
        response = call.result(timeout=120)
        check(response.prompt.logprobs, expected)
        for candidate in response.candidates:
            assert list(candidate.token_ids) == list(alone.candidates[0].token_ids)


def test_one_token_and_limits(server):
    response = generate(server, [5], max_new_tokens=1, response={"top_prompt_logprobs": 0})
    assert [l.token_id for l in response.prompt.logprobs] == [5]
    assert not response.prompt.logprobs[0].HasField("logprob")
    two = generate(server, [5, 6], max_new_tokens=1, response={"top_prompt_logprobs": 0}).prompt.logprobs
    assert two[1].logprob < 0 and two[1].rank >= 1 and not two[1].top
    refused(lambda: generate(server, response={"top_prompt_logprobs": 21}), grpc.StatusCode.INVALID_ARGUMENT,
            "top_prompt_logprobs is 21", "20")


def test_a_long_prompt(idle):
    before = idle.metrics().sum("prompt_tokens_total")
    # More than one message's worth, from a client that reads nothing until all of it is there.
    prompt = [0] + [300 + i % 3000 for i in range(9000)]
    call = stream(idle, generation(prompt, max_new_tokens=1, request_id="unread", response={"top_prompt_logprobs": 20}))
    wait_until(lambda: idle.metrics().sum("prompt_tokens_total") >= before + len(prompt), "the request to run")
    idle.wait_idle()
    events = list(call)
    parts = [e.prefill_progress for e in events if e.WhichOneof("event") == "prefill_progress"]
    assert [l.token_id for part in parts for l in part.logprobs] == prompt
    assert max(len(part.logprobs) for part in parts) <= 4096
