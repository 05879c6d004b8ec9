"""Every method of the inference service, blocking and awaited."""

import dataclasses
import json

import pytest
from requests_made import STORY, generate
from tauserve import FinishReason, GenerationOptions, JsonObject, JsonSchema, Regex

GREEDY = GenerationOptions(temperature=0, max_new_tokens=8)


def test_generate(client):
    answer = client.generate(STORY, GREEDY)
    assert answer.text.startswith(" Mira was out") and answer.model == "recall-9m" and answer.request_id
    assert answer.token_ids[:4] == (1582, 291, 721, 387) and len(answer.token_ids) == 8
    assert answer.finish_reason is FinishReason.MAX_NEW_TOKENS
    assert answer.usage.prompt_tokens == answer.prompt.prompt_tokens == 17
    assert answer.usage.completion_tokens == 8 and len(answer.candidates) == 1
    assert 0 < answer.timings.time_to_first_token <= answer.timings.total
    attention = answer.attention
    assert attention.mean_support_tokens > 1 and attention.keys_considered >= attention.keys_scored > 0
    assert 0 <= attention.prefill_blocks_skipped_share < 1 and 0 <= attention.kv_pages_skipped_share < 1


def test_every_form_of_a_prompt_and_of_tokens(client):
    tokens = client.tokenize(STORY, return_token_strings=True)
    assert len(tokens.token_ids) == len(tokens.token_strings) == 17
    assert client.tokenize(STORY, add_special_tokens=False).token_ids == tokens.token_ids[1:]
    assert client.tokenize(STORY).token_strings == ()
    assert client.detokenize(tokens.token_ids) == STORY
    assert client.detokenize(tokens.token_ids, skip_special_tokens=False) == "<|bos|>" + STORY
    assert client.generate(tokens.token_ids, GREEDY).text == client.generate(STORY, GREEDY).text


def test_get_model(client):
    model = client.get_model()
    assert (model.model, model.entmax_alpha_min, model.vocab_size) == ("recall-9m", 1.5, 4096)
    assert model.eos_token_ids == (1,) and model.chat_template == "chatml"
    assert model.default_sampling.min_p == pytest.approx(0.08)
    assert model.default_sampling.seed is None
    assert client.get_model("recall-9m") == model


def test_every_option_arrives(server, client):
    """The server's answer to each is that to a request made by hand."""
    by_hand = {
        "sampling": dict(temperature=0.8, top_k=50, top_p=0.9, min_p=0.01, typical_p=0.95, repetition_penalty=1.1,
                         presence_penalty=0.2, frequency_penalty=0.1, seed=7, num_candidates=2, logit_bias={300: -2.0},
                         bad_words=["fox"]),
        "stopping": dict(max_new_tokens=12, min_new_tokens=2, stop_strings=["zzz"], stop_token_ids=[4000],
                         include_stop_in_output=True, ignore_eos=True),
        "response": dict(token_ids=True, prompt_token_ids=True, top_logprobs=1, skip_special_tokens=False),
        "cache": dict(bypass_prefix_cache=True, salt="s"),
        "scheduling": dict(priority=1),
    }
    expected = generate(server, STORY, None, None, truncate_prompt_tokens=9, truncation_side=2, **by_hand)
    fields = {name: value for group in by_hand.values() for name, value in group.items()}
    fields["return_token_ids"], fields["return_prompt_token_ids"] = fields.pop("token_ids"), fields.pop("prompt_token_ids")
    options = GenerationOptions(**fields, request_id="mine", model="recall-9m", truncate_prompt_tokens=9,
                                truncation_side="right", time_limit=100.5)
    answer = client.generate(STORY, options)
    assert answer.request_id == "mine"
    assert [c.text for c in answer.candidates] == [c.text for c in expected.candidates]
    assert [list(c.token_ids) for c in answer.candidates] == [list(c.token_ids) for c in expected.candidates]
    assert list(answer.prompt.token_ids) == list(expected.prompt.token_ids) and answer.prompt.prompt_tokens == 9
    logprobs = answer.candidates[1].logprobs
    theirs = expected.candidates[1].logprobs
    assert [(p.token_id, p.rank) for p in logprobs] == [(p.token_id, p.rank) for p in theirs]
    assert [p.logprob for p in logprobs] == pytest.approx([p.logprob for p in theirs], abs=1e-3)
    assert all(len(p.top) == 1 for p in logprobs)


def test_options_that_have_tests_of_their_own(client):
    allowed = client.generate(STORY, dataclasses.replace(GREEDY, allowed_token_ids=[1582, 291], ignore_eos=True))
    assert set(allowed.token_ids) <= {1582, 291}
    without = client.generate(STORY, dataclasses.replace(GREEDY, bad_words_ids=[[1582], [291, 721]]))
    assert 1582 not in without.token_ids
    assert client.generate(STORY, dataclasses.replace(GREEDY, return_text=False)).text == ""
    assert client.generate(STORY, dataclasses.replace(GREEDY, return_token_ids=False)).token_ids == ()
    logprobs = client.generate(STORY, dataclasses.replace(GREEDY, top_prompt_logprobs=2)).prompt.logprobs
    assert len(logprobs) == 17 and logprobs[0].logprob is None and logprobs[1].logprob < 0
    assert len(logprobs[1].top) == 2 and logprobs[1].top[0].logprob >= logprobs[1].top[1].logprob


def test_how_outputs_stop(client):
    answer = client.generate(STORY, dataclasses.replace(GREEDY, stop_strings=[" out"]))
    assert (answer.finish_reason, answer.candidates[0].stop_string) == (FinishReason.STOP_STRING, " out")
    answer = client.generate(STORY, dataclasses.replace(GREEDY, stop_token_ids=[291]))
    assert (answer.finish_reason, answer.candidates[0].stop_token_id) == (FinishReason.STOP_TOKEN, 291)
    answer = client.generate(STORY, GenerationOptions(max_new_tokens=10000, ignore_eos=True, time_limit=0.25))
    assert answer.finish_reason is FinishReason.TIME_LIMIT


def test_structured_outputs(client):
    answer = client.generate(STORY, dataclasses.replace(GREEDY, structured_output=Regex("(good|bad)\\.")))
    assert answer.text in ("good.", "bad.") and answer.finish_reason is FinishReason.CONSTRAINT_COMPLETE
    schema = {"type": "object", "properties": {"fox": {"enum": ["Mira", "Renée"]}}, "required": ["fox"],
              "additionalProperties": False}
    for given in (schema, json.dumps(schema)):
        answer = client.generate(STORY, GenerationOptions(structured_output=JsonSchema(given), max_new_tokens=60))
        assert json.loads(answer.text)["fox"] in ("Mira", "Renée")
    answer = client.generate(STORY, dataclasses.replace(GREEDY, structured_output=JsonObject()))
    assert answer.text.startswith("{")


def test_options_are_checked_where_python_would_hide_a_mistake():
    with pytest.raises(TypeError, match="stop_strings"):
        GenerationOptions(stop_strings="stop")
    with pytest.raises(ValueError, match="truncation_side"):
        GenerationOptions(truncation_side="middle")
    with pytest.raises(dataclasses.FrozenInstanceError):
        GREEDY.temperature = 1.0
