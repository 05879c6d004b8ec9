"""Several candidates of one prompt: what each of them is, and what they are together."""

import json

import grpc
import pytest

from protos import ROOT, control, inference
from requests_made import STORY, generate, generation, kinds, long_generation, read_until, refused, stream, together
from server_process import PATIENCE, Server, wait_until

REFERENCE = json.loads((ROOT / "models" / "recall-9m" / "reference.json").read_text())["prompts"]


def sampled(seed, num_candidates=None, prompt=STORY, max_new_tokens=48, **fields):
    sampling = {"seed": seed, "repetition_penalty": 1.0}
    if num_candidates:
        sampling["num_candidates"] = num_candidates
    return generation(prompt, temperature=1.0, sampling=sampling, max_new_tokens=max_new_tokens,
                      response={"token_ids": True}, **fields)


def ask(server, message):
    return server.stub.Generate(inference.GenerateRequest(input=message), timeout=PATIENCE)


def ids(candidate):
    return list(candidate.token_ids)


@pytest.mark.parametrize("case", REFERENCE, ids=lambda case: case["name"])
def test_greedy_candidates_equal_the_reference(idle, case):
    response = generate(idle, case["prompt"], max_new_tokens=32, sampling={"num_candidates": 3},
                        stopping={"ignore_eos": True}, response={"token_ids": True, "top_logprobs": 1})
    assert [c.index for c in response.candidates] == [0, 1, 2]
    for candidate in response.candidates:
        assert ids(candidate) == case["greedy"]
        assert len(candidate.logprobs) == 32
        assert candidate.text == response.candidates[0].text
    assert response.usage.prompt_tokens == len(case["ids"])
    assert response.usage.completion_tokens == 3 * 32


@pytest.mark.parametrize("prompt", [STORY, [0] + [400 + i % 900 for i in range(127)], [0] * 200],
                         ids=["part of a page", "whole pages", "several pages"])
def test_each_candidate_is_what_its_seed_gives_alone(idle, prompt):
    all_of_them = ask(idle, sampled(11, 4, prompt))
    assert len({tuple(c.token_ids) for c in all_of_them.candidates}) > 1
    for i, candidate in enumerate(all_of_them.candidates):
        alone = ask(idle, sampled(11 + i, prompt=prompt)).candidates[0]
        assert ids(candidate) == ids(alone) and candidate.text == alone.text
        assert candidate.finish.finish_reason == alone.finish.finish_reason
    assert all_of_them.usage.completion_tokens == sum(len(c.token_ids) for c in all_of_them.candidates)


def test_a_stream_tells_candidates_apart(idle):
    message = sampled(3, 3, stopping={"stop_strings": ["."]})
    events = list(stream(idle, message))
    unary = ask(idle, message)
    assert kinds(events).count("started") == kinds(events).count("completed") == 1
    for i, candidate in enumerate(unary.candidates):
        mine = [getattr(e, e.WhichOneof("event")) for e in events
                if e.WhichOneof("event") in ("delta", "candidate_finished")]
        mine = [e for e in mine if e.index == i]
        assert [type(e).__name__ for e in mine[-1:]] == ["CandidateFinished"]
        assert "".join(e.text for e in mine[:-1]) == candidate.text
        assert [t for e in mine[:-1] for t in e.token_ids] == ids(candidate)
        assert mine[-1].finish_reason == candidate.finish.finish_reason
    assert events[-1].completed.usage.completion_tokens == unary.usage.completion_tokens


def test_the_prompt_is_computed_once(idle):
    prompt = [0] + [500 + i % 700 for i in range(999)]
    one = generate(idle, prompt, cache={"salt": "once-1"}, max_new_tokens=2)
    many = generate(idle, prompt, cache={"salt": "once-2"}, max_new_tokens=2, sampling={"num_candidates": 8})
    assert many.attention.prefill_blocks_considered == one.attention.prefill_blocks_considered
    assert many.attention.kv_pages_considered == 8 * one.attention.kv_pages_considered


def test_pages_are_shared(page_bytes):
    # 19 pages and a part of one; each candidate but the last to write has a copy of the latter: 27 of 30.
    prompt = [0] + [300 + i % 3000 for i in range(19 * 64 + 9)]
    with Server(f"--kv_cache_bytes={30 * page_bytes}", "--prefix_cache=false") as small:
        response = generate(small, prompt, sampling={"num_candidates": 8}, max_new_tokens=9,
                            response={"token_ids": True})
        assert len({tuple(c.token_ids) for c in response.candidates}) == 1
        assert response.timings.preemptions == 0


def test_leaving_frees_all(idle):
    call = stream(idle, long_generation(sampling={"num_candidates": 4}, temperature=1.0, request_id="left"))
    read_until(call, "delta")
    assert idle.load().running_requests == 1
    call.cancel()
    idle.wait_idle()

    call = stream(idle, long_generation(sampling={"num_candidates": 4}, temperature=1.0, request_id="aborted"))
    read_until(call, "delta")
    idle.control.AbortRequests(control.AbortRequestsRequest(request_ids=["aborted"]))
    ends = [e.candidate_finished for e in call if e.WhichOneof("event") == "candidate_finished"]
    assert sorted(e.index for e in ends) == [0, 1, 2, 3]
    assert {e.finish_reason for e in ends} == {inference.FINISH_REASON_ABORTED}

    late = long_generation(sampling={"num_candidates": 4}, temperature=1.0)
    with pytest.raises(grpc.RpcError) as error:
        list(stream(idle, late, timeout=0.5))
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED

    limited = long_generation(sampling={"num_candidates": 4}, stopping={"time_limit": {"nanos": 300_000_000}})
    response = ask(idle, limited)
    assert [c.finish.finish_reason for c in response.candidates] == [inference.FINISH_REASON_TIME_LIMIT] * 4


def test_preempted_candidates_go_on_as_before(page_bytes):
    with Server(f"--kv_cache_bytes={9 * page_bytes}", "--prefix_cache=false") as small:
        messages = [sampled(seed, 3, list(range(start, start + 70)), 200, stopping={"ignore_eos": True})
                    for seed, start in ((5, 300), (50, 900))]
        answers = together(small, messages)
        assert sum(answer.timings.preemptions for answer in answers) > 0
        for message, answer in zip(messages, answers):
            for i, candidate in enumerate(answer.candidates):
                alone = sampled(message.sampling.seed + i, None, list(message.token_ids.ids), 200,
                                stopping={"ignore_eos": True})
                assert ids(candidate) == ids(ask(small, alone).candidates[0])
        wait_until(lambda: small.load().kv_cache_usage_ratio == 0, "all pages to be free")


def test_limits(idle):
    for bad in (0, 65):
        refused(lambda: generate(idle, sampling={"num_candidates": bad}), grpc.StatusCode.INVALID_ARGUMENT,
                f"num_candidates is {bad}", "[1, 64]")
    # This server was started with --max_running_requests=8.
    refused(lambda: generate(idle, sampling={"num_candidates": 9}), grpc.StatusCode.INVALID_ARGUMENT,
            "num_candidates is 9", "8 that run")
