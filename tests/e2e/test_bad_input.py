"""Input that must be refused: with which status, and that the message has the offending value and the limit."""

import math

import grpc
import pytest

from protos import inference
from requests_made import generate, generation, refused, stream

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NAN = math.nan


@pytest.mark.parametrize("field, value, limit", [
    ("temperature", -0.5, "[0, 100]"), ("temperature", NAN, "[0, 100]"), ("temperature", 101, "[0, 100]"),
    ("temperature", math.inf, "[0, 100]"), ("temperature", -math.inf, "[0, 100]"),
    ("top_p", 0.0, "(0, 1]"), ("top_p", 1.5, "(0, 1]"), ("top_p", -1.0, "(0, 1]"), ("top_p", NAN, "(0, 1]"),
    ("min_p", -0.25, "[0, 1]"), ("min_p", 2.0, "[0, 1]"), ("min_p", NAN, "[0, 1]"),
    ("typical_p", 0.0, "(0, 1]"), ("typical_p", 1.25, "(0, 1]"), ("typical_p", NAN, "(0, 1]"),
    ("repetition_penalty", 0.0, "(0"), ("repetition_penalty", -1.0, "(0"), ("repetition_penalty", NAN, "(0"),
    ("repetition_penalty", math.inf, "(0"),
    ("presence_penalty", 2.5, "[-2, 2]"), ("presence_penalty", NAN, "[-2, 2]"),
    ("frequency_penalty", -3.0, "[-2, 2]"), ("frequency_penalty", NAN, "[-2, 2]"),
])
def test_sampling_out_of_range(server, field, value, limit):
    spelled = "nan" if math.isnan(value) else "inf" if math.isinf(value) else f"{value:g}"
    refused(lambda: generate(server, temperature=None, sampling={field: value}), INVALID, field, spelled, limit)


@pytest.mark.parametrize("fields, parts", [
    ({"sampling": {"logit_bias": {5: 100.5}}}, ("logit_bias", "100.5", "[-100, 100]")),
    ({"sampling": {"logit_bias": {5: NAN}}}, ("logit_bias", "nan", "[-100, 100]")),
    ({"sampling": {"logit_bias": {4096: 1.0}}}, ("logit_bias", 4096)),
    ({"sampling": {"allowed_token_ids": [1, 5000]}}, ("allowed_token_ids", 5000, 4096)),
    ({"stopping": {"stop_strings": ["a"] * 17}}, ("stop_strings", 17, 16)),
    ({"stopping": {"stop_strings": ["x" * 257]}}, ("stop", 257, 256)),
    ({"stopping": {"stop_strings": [""]}}, ("stop", 0, 256)),
    ({"stopping": {"stop_token_ids": [1] * 65}}, ("stop_token_ids", 65, 64)),
    ({"stopping": {"stop_token_ids": [4294967295]}}, ("stop_token_ids", 4294967295, 4096)),
    ({"stopping": {"max_new_tokens": 4, "min_new_tokens": 5}}, ("min_new_tokens", 5, 4)),
    ({"stopping": {"time_limit": {"seconds": 0}}}, ("time_limit", 0)),
    ({"stopping": {"time_limit": {"seconds": -3}}}, ("time_limit", "-3")),
    ({"response": {"top_logprobs": 21}}, ("top_logprobs", 21, 20)),
    ({"cache": {"salt": "s" * 129}}, ("salt", 129, 128)),
    ({"request_id": "r" * 129}, ("request_id", 129, 128)),
    ({"request_id": "line\nbreak"}, ("request_id", "10")),
    ({"request_id": "é"}, ("request_id", "195")),
    ({"truncate_prompt_tokens": 0}, ("truncate_prompt_tokens", 0, 1)),
], ids=lambda x: "-".join(str(p)[:20] for p in x) if isinstance(x, tuple) else "")
def test_parameter_out_of_range(server, fields, parts):
    refused(lambda: generate(server, **fields), INVALID, *parts)


def test_max_new_tokens_of_zero(server):
    refused(lambda: generate(server, max_new_tokens=0), INVALID, "max_new_tokens", 0, 1)


@pytest.mark.parametrize("prompt", ["", [], None], ids=["text", "token_ids", "unset"])
def test_empty_prompt(server, prompt):
    refused(lambda: generate(server, prompt), INVALID, "prompt")


def test_token_id_out_of_range(server):
    refused(lambda: generate(server, [5, 4096]), INVALID, 4096)
    refused(lambda: generate(server, [4294967295]), INVALID, 4294967295, 4096)


def test_prompt_over_the_context(server):
    limit = server.stub.GetModel(inference.GetModelRequest()).max_context_tokens
    refused(lambda: generate(server, [5] * (limit + 7), max_new_tokens=1), INVALID, limit + 7, limit)
    refused(lambda: generate(server, [5] * limit, max_new_tokens=None), INVALID, limit)
    refused(lambda: generate(server, [5] * 10, max_new_tokens=limit - 9), INVALID, 10, limit - 9, limit)
    refused(lambda: generate(server, max_new_tokens=4294967295), INVALID, 4294967295, limit)
    text = "word " * (limit + 5)
    refused(lambda: generate(server, text, max_new_tokens=1), INVALID, limit)


@pytest.mark.parametrize("streaming", [False, True])
def test_unknown_model(server, streaming):
    message = generation(model="gpt-17")
    call = (lambda: list(stream(server, message))) if streaming else (
        lambda: server.stub.Generate(inference.GenerateRequest(input=message)))
    refused(call, grpc.StatusCode.NOT_FOUND, "gpt-17", "recall-9m")
    not_found = grpc.StatusCode.NOT_FOUND
    refused(lambda: server.stub.Tokenize(inference.TokenizeRequest(model="gpt-17")), not_found, "gpt-17")
    refused(lambda: server.stub.Detokenize(inference.DetokenizeRequest(model="gpt-17")), not_found, "gpt-17")
    refused(lambda: server.stub.GetModel(inference.GetModelRequest(model="gpt-17")), not_found, "gpt-17")


def test_hostile_model_name_does_not_flood_the_message(server):
    error = refused(lambda: generate(server, model="m" * 1_000_000), grpc.StatusCode.NOT_FOUND, "recall-9m")
    assert len(error.details()) < 1000


def test_detokenize_out_of_range(server):
    refused(lambda: server.stub.Detokenize(inference.DetokenizeRequest(token_ids=[1, 4096])), INVALID, 4096)


def length_delimited(field, payload):
    assert len(payload) < 128
    return bytes([field << 3 | 2, len(payload)]) + payload


# Clients that don't check, as some languages' don't.
BAD_TEXT = length_delimited(3, b"caf\xe9 au lait")  # Latin-1
RAW = {
    "Generate": length_delimited(1, BAD_TEXT),
    "GenerateStream": length_delimited(1, BAD_TEXT),
    "Tokenize": length_delimited(2, b"caf\xe9 au lait"),
}


@pytest.mark.parametrize("method", RAW)
def test_invalid_utf8(server, method):
    kind = server.channel().unary_stream if method == "GenerateStream" else server.channel().unary_unary
    call = kind(f"/tauserve.inference.v1.InferenceService/{method}")
    before = server.metrics().sum("requests_total", code="INVALID_ARGUMENT")
    run = (lambda: list(call(RAW[method]))) if method == "GenerateStream" else (lambda: call(RAW[method]))
    refused(run, INVALID, "text", "UTF-8", 3)
    counted = server.metrics().sum("requests_total", code="INVALID_ARGUMENT") - before
    assert counted == (0 if method == "Tokenize" else 1)


def test_invalid_utf8_in_a_stop_string(server):
    stopping = length_delimited(7, length_delimited(3, b"ok") + length_delimited(3, b"\xff"))
    call = server.channel().unary_unary("/tauserve.inference.v1.InferenceService/Generate")
    refused(lambda: call(length_delimited(1, length_delimited(3, b"hello") + stopping)), INVALID, "stop_strings", "UTF-8")


def test_bytes_that_are_no_message(server):
    call = server.channel().unary_unary("/tauserve.inference.v1.InferenceService/Generate")
    refused(lambda: call(b"\x0a\x7f\x01"), INVALID)


def test_message_over_the_limit(server):
    before = server.metrics()
    message = generation([5] * (1 << 25))  # 64 MiB and a little
    message.truncate_prompt_tokens = 5
    assert message.ByteSize() <= 64 << 20
    message.text = "x" * (64 << 20)
    error = refused(lambda: server.stub.Generate(inference.GenerateRequest(input=message)),
                    grpc.StatusCode.RESOURCE_EXHAUSTED, 64 << 20)
    assert str(inference.GenerateRequest(input=message).ByteSize()) in error.details()
    after = server.metrics()
    assert after.sum("requests_total", code="OK") == before.sum("requests_total", code="OK")


def test_the_server_still_serves(idle):
    assert generate(idle).usage.completion_tokens == 16


def test_refusals_are_counted_once(idle):
    before = idle.metrics()
    refused(lambda: generate(idle, ""), INVALID)
    refused(lambda: list(stream(idle, generation(""))), INVALID)
    refused(lambda: generate(idle, model="nope"), grpc.StatusCode.NOT_FOUND)
    after = idle.metrics()
    assert after.sum("requests_total", code="INVALID_ARGUMENT") - before.sum("requests_total", code="INVALID_ARGUMENT") == 2
    assert after.sum("requests_total", code="NOT_FOUND") - before.sum("requests_total", code="NOT_FOUND") == 1
    assert after.sum("requests_total") - before.sum("requests_total") == 3
    assert after.sum("admission_rejections_total") - before.sum("admission_rejections_total") == 3
    assert after.sum("request_duration_seconds_count") - before.sum("request_duration_seconds_count") == 3
