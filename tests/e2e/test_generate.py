"""What a client gets from Generate and GenerateStream."""

import json
import math

import grpc
import pytest

from protos import ROOT, inference
from requests_made import STORY, generate, generation, kinds, refused, stream, text_of, tokens_of

REFERENCE = json.loads((ROOT / "models" / "recall-9m" / "reference.json").read_text())["prompts"]


@pytest.mark.parametrize("case", REFERENCE, ids=lambda case: case["name"])
def test_greedy_tokens_equal_the_reference(server, case):
    response = generate(server, case["prompt"], max_new_tokens=32, stopping={"ignore_eos": True},
                        response={"token_ids": True, "prompt_token_ids": True, "skip_special_tokens": False})
    assert list(response.prompt.token_ids) == case["ids"]
    assert list(response.candidates[0].token_ids) == case["greedy"]
    assert response.candidates[0].text == case["greedy_text"]
    assert response.candidates[0].finish.finish_reason == inference.FINISH_REASON_MAX_NEW_TOKENS


def test_unary_response_is_complete(idle):
    response = generate(idle, request_id="unary-complete", max_new_tokens=8)
    assert response.request_id == "unary-complete"
    assert response.model == "recall-9m"
    assert response.usage.prompt_tokens == response.prompt.prompt_tokens == 17
    assert response.usage.completion_tokens == 8
    t = response.timings
    seconds = [x.ToTimedelta().total_seconds() for x in (t.queue, t.prefill, t.decode, t.total, t.time_to_first_token)]
    queue, prefill, decode, total, first = seconds
    assert prefill > 0 and decode > 0
    assert first == pytest.approx(queue + prefill, abs=1e-5)
    assert first + decode <= total + 1e-5
    a = response.attention
    # 6 layers x 8 heads; 17 prompt tokens lie in one page, and so do the 7 that are decoded into it.
    assert a.prefill_blocks_considered == 48
    assert 0 < a.prefill_blocks_attended <= a.prefill_blocks_scored <= a.prefill_blocks_considered
    assert a.kv_pages_considered == 7 * 6 * 4
    assert a.keys_considered == 48 * sum(range(1, 25))
    assert 1 <= a.mean_support_tokens <= 24
    assert a.tau_unconverged_rows == 0


def test_stream_order_and_sums(idle):
    prompt = [0] + [300 + i % 1000 for i in range(2000)]
    message = generation(prompt, max_new_tokens=20, request_id="stream-order", stopping={"ignore_eos": True},
                         response={"token_ids": True}, cache={"bypass_prefix_cache": True})
    events = list(stream(idle, message))
    order = kinds(events)
    phases = ["started", "prefill_progress", "delta", "candidate_finished", "completed"]
    assert [phase for phase in phases if phase in order] == phases
    assert order == sorted(order, key=phases.index)
    assert order.count("started") == order.count("candidate_finished") == order.count("completed") == 1
    assert [event.request_id for event in events] == ["stream-order"] + [""] * (len(events) - 1)
    assert events[0].started.prompt_tokens == 2001
    progress = [e.prefill_progress for e in events if e.WhichOneof("event") == "prefill_progress"]
    done = [p.processed_tokens for p in progress]
    assert done == sorted(set(done)) and done[-1] == 2001
    assert {p.total_tokens for p in progress} == {2001}
    deltas = [e.delta for e in events if e.WhichOneof("event") == "delta"]
    assert all(d.num_tokens == len(d.token_ids) for d in deltas)
    assert sum(d.num_tokens for d in deltas) == 20
    finished = events[-2].candidate_finished
    assert finished.finish_reason == inference.FINISH_REASON_MAX_NEW_TOKENS
    assert events[-1].completed.usage.completion_tokens == 20
    assert events[-1].completed.usage.prompt_tokens == 2001


def test_stream_and_unary_agree(server):
    message = generation(max_new_tokens=40, response={"token_ids": True})
    events = list(stream(server, message))
    response = server.stub.Generate(inference.GenerateRequest(input=message))
    assert text_of(events) == response.candidates[0].text
    assert tokens_of(events) == list(response.candidates[0].token_ids)


def test_progress_can_be_turned_off(server):
    events = list(stream(server, generation([5] * 1500, max_new_tokens=2), prefill_progress=False))
    assert "prefill_progress" not in kinds(events)
    assert kinds(events)[0] == "started"


def test_text_can_be_turned_off(server):
    response = generate(server, response={"text": False, "token_ids": True})
    assert response.candidates[0].text == "" and len(response.candidates[0].token_ids) == 16
    response = generate(server)
    assert response.candidates[0].text and not response.candidates[0].token_ids
    assert not response.prompt.token_ids


def test_logprobs(server):
    response = generate(server, max_new_tokens=12, response={"token_ids": True, "top_logprobs": 5})
    candidate = response.candidates[0]
    assert [l.token_id for l in candidate.logprobs] == list(candidate.token_ids)
    for logprob in candidate.logprobs:
        assert logprob.rank == 1 and logprob.logprob < 0
        assert len(logprob.top) == 5
        values = [t.logprob for t in logprob.top]
        assert values == sorted(values, reverse=True)
        assert logprob.top[0].token_id == logprob.token_id
        assert values[0] == pytest.approx(logprob.logprob, abs=1e-6)
        assert sum(math.exp(v) for v in values) <= 1 + 1e-5
    none = generate(server, max_new_tokens=2, response={"top_logprobs": 0})
    assert len(none.candidates[0].logprobs) == 2 and not none.candidates[0].logprobs[0].top
    assert not generate(server, max_new_tokens=2).candidates[0].logprobs


def test_logprobs_agree_with_the_reference(server):
    case = REFERENCE[0]
    response = generate(server, case["prompt"], max_new_tokens=1, response={"top_logprobs": 20})
    top = response.candidates[0].logprobs[0].top
    assert [t.token_id for t in top] == [token for token, _ in case["top"]]
    for got, (_, logit) in zip(top, case["top"]):
        # Differences of logits are differences of log-probabilities.
        assert got.logprob - top[0].logprob == pytest.approx(logit - case["top"][0][1], abs=4e-2)


def test_seed_decides_the_sample(server):
    def sample(seed):
        return generate(server, temperature=1.0, sampling={"seed": seed}, max_new_tokens=24).candidates[0].text
    assert sample(7) == sample(7)
    assert len({sample(seed) for seed in range(6)}) > 1


def test_unset_fields_take_the_models_defaults(server):
    model = server.stub.GetModel(inference.GetModelRequest())
    defaults = model.default_sampling
    assert defaults.temperature == pytest.approx(0.7)
    assert defaults.min_p == pytest.approx(0.08)
    assert defaults.repetition_penalty == pytest.approx(1.1)
    explicit = {"temperature": 0.7, "min_p": 0.08, "repetition_penalty": 1.1, "seed": 3}
    implicit = generate(server, temperature=None, sampling={"seed": 3}, max_new_tokens=24)
    assert implicit.candidates[0].text == generate(server, sampling=explicit, max_new_tokens=24).candidates[0].text


def test_greedy_leaves_the_models_penalty_out_but_not_the_requests(server):
    plain = generate(server, REFERENCE[1]["prompt"], max_new_tokens=32, response={"token_ids": True})
    assert list(plain.candidates[0].token_ids) == REFERENCE[1]["greedy"]  # "... for a few days" again and again
    penalised = generate(server, REFERENCE[1]["prompt"], max_new_tokens=32, response={"token_ids": True},
                         sampling={"repetition_penalty": 1.5})
    assert list(penalised.candidates[0].token_ids) != REFERENCE[1]["greedy"]


def test_top_k_one_is_greedy(server):
    greedy = generate(server).candidates[0].text
    assert generate(server, temperature=5.0, sampling={"top_k": 1, "repetition_penalty": 1.0}).candidates[0].text == greedy


def test_logit_bias_and_allowed_tokens(server):
    allowed = [400, 500, 600]
    response = generate(server, sampling={"allowed_token_ids": allowed}, response={"token_ids": True})
    assert set(response.candidates[0].token_ids) <= set(allowed)
    response = generate(server, sampling={"logit_bias": {777: 100.0}}, response={"token_ids": True})
    assert set(response.candidates[0].token_ids) == {777}


def contains(tokens, bad):
    return any(tokens[i:i + len(bad)] == bad for i in range(len(tokens) - len(bad) + 1))


def test_bad_words_never_come(server):
    whole = generate(server, max_new_tokens=32, response={"token_ids": True}).candidates[0]
    ids = list(whole.token_ids)
    # Greedy up to where the last token of the sequence would come, and something else there.
    bad = ids[5:8]
    assert not contains(ids[:7], bad)
    other = generate(server, max_new_tokens=32, sampling={"bad_words_ids": [inference.TokenIds(ids=bad)]},
                     response={"token_ids": True}).candidates[0]
    assert list(other.token_ids)[:7] == ids[:7] and other.token_ids[7] != ids[7]
    assert not contains(list(other.token_ids), bad)
    # A word, at any temperature.
    assert " was" in whole.text
    for seed in range(4):
        sampling = {"bad_words": ["was"], "seed": seed, "temperature": 0.7 * seed}
        assert " was " not in generate(server, temperature=None, max_new_tokens=64, sampling=sampling).candidates[0].text


def test_bad_words_may_leave_nothing(server):
    pair = [inference.TokenIds(ids=[400, 500]), inference.TokenIds(ids=[500, 500]), inference.TokenIds(ids=[400, 400]),
            inference.TokenIds(ids=[500, 400])]
    refused(lambda: generate(server, sampling={"allowed_token_ids": [400, 500], "bad_words_ids": pair}),
            grpc.StatusCode.INVALID_ARGUMENT, "bad_words", "no token to choose")
    refused(lambda: generate(server, sampling={"bad_words": [""]}), grpc.StatusCode.INVALID_ARGUMENT, "0 bytes")


def test_max_new_tokens_default_is_bounded(server):
    response = generate(server, max_new_tokens=None, stopping={"ignore_eos": True})
    assert response.usage.completion_tokens == 1024
    assert response.candidates[0].finish.finish_reason == inference.FINISH_REASON_MAX_NEW_TOKENS


def test_eos_and_min_new_tokens(server):
    case = next(c for c in REFERENCE if c["name"] == "code")  # answers in a few tokens, then <|eos|>
    response = generate(server, case["prompt"], max_new_tokens=32, response={"token_ids": True})
    finish = response.candidates[0].finish
    assert finish.finish_reason == inference.FINISH_REASON_EOS_TOKEN and finish.stop_token_id == 1
    assert response.candidates[0].text == " 48213"
    longer = generate(server, case["prompt"], max_new_tokens=32, stopping={"min_new_tokens": 20})
    assert longer.usage.completion_tokens >= 20


def test_stop_token(server):
    greedy = REFERENCE[0]["greedy"]
    stop = greedy[4]
    response = generate(server, REFERENCE[0]["prompt"], max_new_tokens=32, stopping={"stop_token_ids": [stop]})
    finish = response.candidates[0].finish
    assert finish.finish_reason == inference.FINISH_REASON_STOP_TOKEN and finish.stop_token_id == stop
    assert response.usage.completion_tokens == greedy.index(stop) + 1


@pytest.mark.parametrize("include", [False, True])
def test_stop_string_never_leaks(server, include):
    full = generate(server, max_new_tokens=32).candidates[0].text
    stop = full[20:27]  # begins and ends inside of words
    stopping = {"stop_strings": ["never in it", stop], "include_stop_in_output": include}
    events = list(stream(server, generation(max_new_tokens=32, stopping=stopping)))
    finished = events[-2].candidate_finished
    assert finished.finish_reason == inference.FINISH_REASON_STOP_STRING and finished.stop_string == stop
    expected = full[:full.index(stop)] + (stop if include else "")
    assert text_of(events) == expected
    text = ""
    for event in events:
        text += event.delta.text if event.WhichOneof("event") == "delta" else ""
        assert expected.startswith(text)


def test_stop_string_that_does_not_come_holds_nothing_back(server):
    full = generate(server, max_new_tokens=32).candidates[0].text
    stop = full[-5:] + "\x00"  # everything but its last character comes at the very end
    response = generate(server, max_new_tokens=32, stopping={"stop_strings": [stop]})
    assert response.candidates[0].text == full


@pytest.mark.parametrize("seed", range(4))
def test_text_never_splits_a_character(server, seed):
    # Wild sampling makes bytes of broken and of whole characters. A message whose text was cut inside of one would not
    # parse; and what is streamed must be what the tokens decode to.
    message = generation("日本語 🙂 é", temperature=100.0, max_new_tokens=200, sampling={"seed": seed},
                         stopping={"ignore_eos": True}, response={"token_ids": True})
    events = list(stream(server, message))
    ids = tokens_of(events)
    assert len(ids) == 200
    decoded = server.stub.Detokenize(inference.DetokenizeRequest(token_ids=ids))
    assert text_of(events) == decoded.text


def test_whole_characters_arrive_whole(server):
    ids = server.stub.Tokenize(inference.TokenizeRequest(text="🙂é", add_special_tokens=False)).token_ids
    allowed = sorted(set(ids))
    message = generation(temperature=1.0, max_new_tokens=64, response={"token_ids": True},
                         sampling={"allowed_token_ids": allowed, "seed": 1, "repetition_penalty": 1.0})
    events = list(stream(server, message))
    assert text_of(events) == server.stub.Detokenize(inference.DetokenizeRequest(token_ids=tokens_of(events))).text


def test_prefix_cache(idle):
    prompt = [0] + [500 + i % 700 for i in range(1000)]
    first = generate(idle, prompt, cache={"salt": "fresh"}, response={"token_ids": True})
    assert first.prompt.cached_tokens == 0
    again = generate(idle, prompt, cache={"salt": "fresh"}, response={"token_ids": True})
    assert again.prompt.cached_tokens == again.usage.cached_prompt_tokens == 15 * 64
    assert again.candidates[0].token_ids == first.candidates[0].token_ids
    assert generate(idle, prompt, cache={"salt": "other"}).prompt.cached_tokens == 0
    assert generate(idle, prompt, cache={"salt": "fresh", "bypass_prefix_cache": True}).prompt.cached_tokens == 0


def test_truncated_prompt_keeps_its_end(server):
    ids = list(range(300, 400))
    whole = generate(server, ids[-10:], response={"token_ids": True, "prompt_token_ids": True})
    cut = generate(server, ids, truncate_prompt_tokens=10, response={"token_ids": True, "prompt_token_ids": True})
    assert list(cut.prompt.token_ids) == ids[-10:]
    assert cut.candidates[0].token_ids == whole.candidates[0].token_ids
    cut = generate(server, ids, truncate_prompt_tokens=10, truncation_side=inference.TRUNCATION_SIDE_RIGHT,
                   response={"prompt_token_ids": True})
    assert list(cut.prompt.token_ids) == ids[:10]
    refused(lambda: generate(server, ids, truncation_side=7), grpc.StatusCode.INVALID_ARGUMENT,
            "truncation_side is 7", "right")


def test_time_limit_ends_softly(idle):
    limit = {"time_limit": {"nanos": 200_000_000}, "max_new_tokens": 20000, "ignore_eos": True}
    response = generate(idle, stopping=limit)
    assert response.candidates[0].finish.finish_reason == inference.FINISH_REASON_TIME_LIMIT
    assert response.candidates[0].text
    assert response.timings.total.ToTimedelta().total_seconds() >= 0.2


def test_requests_together_get_what_they_get_alone(server):
    calls = [(case, server.stub.Generate.future(inference.GenerateRequest(input=generation(
        case["prompt"], max_new_tokens=32, stopping={"ignore_eos": True}, response={"token_ids": True}))))
        for case in REFERENCE for _ in range(3)]
    for case, call in calls:
        assert list(call.result(timeout=120).candidates[0].token_ids) == case["greedy"]


def test_made_up_request_ids_differ(server):
    ids = {generate(server, max_new_tokens=1).request_id for _ in range(5)}
    assert len(ids) == 5 and "" not in ids


def test_tokenize_and_detokenize(server):
    text = "Once upon a time — 🙂 <|eos|>"
    tokens = server.stub.Tokenize(inference.TokenizeRequest(text=text, return_token_strings=True))
    assert tokens.count == len(tokens.token_ids) == len(tokens.token_strings)
    assert tokens.token_ids[0] == 0 and tokens.token_strings[0] == "<|bos|>" and tokens.token_ids[-1] == 1
    bare = server.stub.Tokenize(inference.TokenizeRequest(text=text, add_special_tokens=False))
    assert list(bare.token_ids) == list(tokens.token_ids)[1:] and not bare.token_strings
    back = server.stub.Detokenize(inference.DetokenizeRequest(token_ids=bare.token_ids, skip_special_tokens=False))
    assert back.text == text
    assert server.stub.Detokenize(inference.DetokenizeRequest(token_ids=tokens.token_ids)).text == text[:-7]


def test_model(server):
    model = server.stub.GetModel(inference.GetModelRequest(model="recall-9m"))
    assert model.model == "recall-9m" and model.architecture == "LlamaForCausalLM"
    assert (model.vocab_size, model.num_layers, model.num_attention_heads) == (4096, 6, 8)
    assert (model.num_kv_heads, model.head_dim, model.kv_page_tokens) == (4, 64, 64)
    assert list(model.eos_token_ids) == [1]
    assert model.entmax_alpha_min == model.entmax_alpha_max == 1.5
    assert model.kv_pages_total == server.metrics().sum("kv_pages_free")
    assert model.max_context_tokens == min(131072, model.kv_pages_total * 64)
