"""A request's tokens are its own: the same alone, beside others, on one thread or two."""

import pytest

from protos import inference
from requests_made import STORY, generation, together
from server_process import PATIENCE, Server

PROMPTS = {"short": STORY, "one page": list(range(300, 364)), "chunks": [0] + [300 + i % 700 for i in range(1400)]}


def messages():
    """Sampled in different ways, each with a seed."""
    ways = [{"temperature": 1.0}, {"temperature": 0.8, "top_p": 0.9}, {"temperature": 1.2, "top_k": 40, "min_p": 0.02},
            {"temperature": 1.0, "typical_p": 0.9, "frequency_penalty": 0.5}]
    return [generation(prompt, max_new_tokens=48, stopping={"ignore_eos": True}, response={"token_ids": True},
                       sampling=dict(way, seed=17 * i, repetition_penalty=1.0 + 0.1 * (i % 2)))
            for prompt in PROMPTS.values() for i, way in enumerate(ways)]


def tokens(answer):
    return list(answer.candidates[0].token_ids)


@pytest.fixture(scope="module")
def alone():
    """Of each message, one after the other, on one thread, without cached pages."""
    with Server("--threads=1", "--prefix_cache=false") as server:
        answers = [tokens(server.stub.Generate(inference.GenerateRequest(input=m), timeout=PATIENCE))
                   for m in messages()]
    assert len({tuple(a) for a in answers}) == len(answers)
    return answers


@pytest.mark.parametrize("flags", [["--threads=1"], ["--threads=2"], ["--threads=2", "--max_batched_tokens=96"],
                                   ["--threads=2", "--prefix_cache=false", "--max_running_requests=3"]], ids=" ".join)
def test_tokens_do_not_depend_on_what_runs_beside(alone, flags):
    with Server(*flags) as server:
        for _ in range(2):  # the second time with pages of the first, where they are kept
            assert [tokens(answer) for answer in together(server, messages())] == alone
