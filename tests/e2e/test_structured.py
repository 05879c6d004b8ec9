"""Structured outputs: whatever the model would rather say, a finished answer is what was asked for."""

import concurrent.futures
import json
import random
import re
import sys
import threading

import grpc
import jsonschema
import pytest

from protos import ROOT, inference
from requests_made import STORY, generate, generation, refused, stream, text_of
from server_process import PATIENCE
from test_cli import cli

sys.path.insert(0, str(ROOT / "tests" / "server" / "constraint"))

from compare_constraints import FORMATS, random_schema, strict_loads  # noqa: E402

COMPLETE = inference.FINISH_REASON_CONSTRAINT_COMPLETE
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "email": {"type": "string", "pattern": r"^[a-z]{1,8}@[a-z]{1,8}\.(com|org)$"},
        "mood": {"enum": ["calm", "cross", None, 7]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 1, "maxItems": 3},
        "home": {"$ref": "#/$defs/place"},
    },
    "required": ["name", "age", "tags"],
    "$defs": {"place": {"type": "object", "properties": {"x": {"type": "number", "minimum": -1, "maximum": 1},
                                                        "near": {"anyOf": [{"$ref": "#/$defs/place"},
                                                                           {"type": "null"}]}},
                        "required": ["x"]}},
}
SCHEMAS = [PERSON, {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4},
           {"type": "object", "additionalProperties": {"type": "boolean"}, "properties": {"yes": {"const": True}}},
           {"oneOf": [{"type": "string", "format": "date"}, {"type": "boolean"}]}]


def structured(**constraint):
    return {"structured_output": constraint}


def answer(server, seed, max_new_tokens=120, **fields):
    sampling = {"temperature": 1.0, "seed": seed}
    return generate(server, max_new_tokens=max_new_tokens, sampling=sampling, **fields).candidates[0]


def answers(server, seeds, **fields):
    """Of seeds 0, 1, ..., at once."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda seed: answer(server, seed, **fields), range(seeds)))


# Names that are free, as the third one's, seldom end by chance.
@pytest.mark.parametrize("schema, least", zip(SCHEMAS, [4, 4, 0, 4]), ids=range(len(SCHEMAS)))
def test_finished_answers_are_valid(server, schema, least):
    validator = jsonschema.Draft202012Validator(schema, format_checker=FORMATS)
    finished = 0
    for candidate in answers(server, 8, **structured(json_schema=json.dumps(schema))):
        if candidate.finish.finish_reason == inference.FINISH_REASON_MAX_NEW_TOKENS:
            continue
        validator.validate(json.loads(candidate.text))
        finished += 1
    assert finished >= least


def test_random_schemas(server):
    seed = random.randrange(2 ** 32)
    print("seed", seed)
    rng = random.Random(seed)
    finished = 0
    schemas = [random_schema(rng) for _ in range(32)]

    def ask(schema):
        try:
            return answer(server, seed, 60, **structured(json_schema=json.dumps(schema)))
        except grpc.RpcError as error:
            assert re.search("more than|no integer|no number|matches nothing", error.details()), (schema, error)
            return None

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        candidates = list(pool.map(ask, schemas))
    for schema, candidate in zip(schemas, candidates):
        if candidate is None or candidate.finish.finish_reason == inference.FINISH_REASON_MAX_NEW_TOKENS:
            continue
        jsonschema.Draft202012Validator(schema, format_checker=FORMATS).validate(
            strict_loads(candidate.text))
        finished += 1
    assert finished >= 8


@pytest.mark.parametrize("pattern", [r"[A-Z][a-z]{2,9}( [a-z]{1,8}){3}\.", r"\d{4}-\d\d-\d\d", "(é|漢字){3}|😀",
                                     "^(yes|no)$"])
def test_regex(server, pattern):
    for candidate in answers(server, 5, **structured(regex=pattern)):
        assert candidate.finish.finish_reason == COMPLETE
        assert re.fullmatch(pattern, candidate.text), candidate.text


def test_json_object_and_end_of_sequence(server):
    ends = set()
    for candidate in answers(server, 8, **structured(json_object={})):
        ends.add(candidate.finish.finish_reason)
        if candidate.finish.finish_reason == COMPLETE:
            assert isinstance(json.loads(candidate.text), dict)
    assert COMPLETE in ends and ends <= {COMPLETE, inference.FINISH_REASON_MAX_NEW_TOKENS}
    # Here longer texts match, too: the model's own end token ends it.
    candidate = generate(server, max_new_tokens=20, sampling={"logit_bias": {1: 100.0}},
                         **structured(regex="[a-z ]{3,}")).candidates[0]
    assert candidate.finish.finish_reason == inference.FINISH_REASON_EOS_TOKEN
    assert re.fullmatch("[a-z ]{3,}", candidate.text)


def test_greedy_stream_equals_unary(server):
    message = generation(max_new_tokens=200, **structured(json_schema=json.dumps(PERSON)))
    events = list(stream(server, message))
    response = server.stub.Generate(inference.GenerateRequest(input=message), timeout=PATIENCE)
    assert text_of(events) == response.candidates[0].text
    assert events[-2].candidate_finished.finish_reason == response.candidates[0].finish.finish_reason == COMPLETE
    jsonschema.validate(json.loads(text_of(events)), PERSON)


def test_stop_strings_and_others_at_once(server):
    candidate = generate(server, stopping={"stop_strings": ["-"]}, **structured(regex=r"\d{4}-\d\d")).candidates[0]
    assert candidate.finish.finish_reason == inference.FINISH_REASON_STOP_STRING
    assert re.fullmatch(r"\d{4}", candidate.text)
    plain = generate(server, max_new_tokens=40).candidates[0].text
    texts = {}

    def run(i):
        fields = structured(regex=r"[a-f]{%d}" % (10 + i)) if i % 2 else {}
        texts[i] = generate(server, max_new_tokens=40, **fields).candidates[0].text

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(8):
        assert re.fullmatch(r"[a-f]{%d}" % (10 + i), texts[i]) if i % 2 else texts[i] == plain


@pytest.mark.parametrize("constraint, parts", [
    ({"regex": "a(?=b)"}, ["regex: position 2"]),
    ({"regex": "((a{1,1000}){1,1000})"}, ["regex is too large"]),
    ({"regex": ""}, ["only the empty text"]),
    ({"json_schema": "{"}, ["json_schema: not valid JSON"]),
    ({"json_schema": '{"properties":{"n":{"multipleOf":7}}}'}, ["/properties/n", "'multipleOf'"]),
    ({"json_schema": '{"anyOf":[' * 10000 + "{}" + "]}" * 10000}, ["nested more than 64"]),
    ({"json_schema": '{"$ref":"#"}'}, ["matches nothing"]),
    ({}, ["structured_output is empty"]),
])
def test_refusals(server, constraint, parts):
    message = generation(**structured(**constraint))
    message.structured_output.SetInParent()
    refused(lambda: server.stub.Generate(inference.GenerateRequest(input=message), timeout=PATIENCE),
            grpc.StatusCode.INVALID_ARGUMENT, *parts)


def test_metrics_count_constraints(server):
    before = server.metrics()
    fields = structured(regex="metrics[0-9]{3}")
    tokens = sum(len(answer(server, 1, response={"token_ids": True}, **fields).token_ids) for _ in range(3))
    after = server.metrics()

    def grown(name, **labels):
        return after.sum(name, **labels) - before.sum(name, **labels)

    assert grown("constraints_total", result="miss") == 1 and grown("constraints_total", result="hit") == 2
    assert grown("constraint_compile_seconds_count") == 1
    assert grown("constraint_mask_seconds_count") == tokens


def test_command_line(server, tmp_path):
    done = cli(server, "generate", STORY, "--regex=[a-z]{5}", "--stats=false")
    assert done.returncode == 0 and re.fullmatch("[a-z]{5}\n?", done.stdout), done
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMAS[1]))
    for schema in (str(tmp_path / "schema.json"), json.dumps(SCHEMAS[1])):
        done = cli(server, "generate", STORY, f"--json_schema={schema}", "--json", "--temperature=0")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["finish_reason"] == "constraint_complete"
        jsonschema.validate(json.loads(json.loads(done.stdout)["text"]), SCHEMAS[1])
    done = cli(server, "generate", STORY, "--json_object", "--regex=a")
    assert done.returncode != 0 and "one only" in done.stderr
    done = cli(server, "generate", STORY, f"--json_schema={tmp_path}/none.json")
    assert done.returncode != 0 and "none.json: cannot be read" in done.stderr
