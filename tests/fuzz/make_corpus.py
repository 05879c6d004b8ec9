"""Seeds for the fuzz targets, a folder for each: make_corpus.py FOLDER. Small ones that are right, made from the embedded
model's files and the chat templates of the tests, so that what is wrong with an input is what the fuzzer did to it."""

import json
import pathlib
import struct
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "tests" / "server" / "model" / "chat")]

import templates  # noqa: E402
from protos import inference  # noqa: E402

MODEL = ROOT / "models" / "recall-9m"


def safetensors(tensors, metadata=None):
    """`tensors`: (name, dtype, shape, bytes of data)."""
    header, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, dtype, shape, values in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def weights():
    yield safetensors([("a", "F32", [2, 3], bytes(24)), ("b", "BF16", [4], bytes(8)), ("c", "F16", [], bytes(2))])
    yield safetensors([("i", "I64", [1], bytes(8)), ("empty", "F32", [0, 7], b"")], {"format": "pt"})
    # The first tensors of the embedded model, with a little of the data.
    with open(MODEL / "model.safetensors", "rb") as file:
        size, = struct.unpack("<Q", file.read(8))
        names = list(json.loads(file.read(size)))[:4]
        yield safetensors([(name, "BF16", [1, 16], file.read(32)) for name in names if name != "__metadata__"])


def configs():
    config = json.loads((MODEL / "config.json").read_text())
    yield json.dumps(config).encode()
    yield (MODEL / "generation_config.json").read_bytes()
    qwen = dict(config, architectures=["Qwen3ForCausalLM"], model_type="qwen3", sliding_window=128, use_sliding_window=True,
                entmax_alpha=[1.5] * config["num_hidden_layers"], eos_token_id=[1, 2])
    yield json.dumps(qwen).encode()
    rope = dict(config, apply_rotary=True, rope_theta=10000.0,
                rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                              "original_max_position_embeddings": 8192})
    yield json.dumps(rope).encode()
    yarn = dict(rope, rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768})
    yield json.dumps(yarn).encode()


def tokenizers():
    whole = json.loads((MODEL / "tokenizer.json").read_text())
    vocabulary, merges = whole["model"]["vocab"], whole["model"]["merges"]
    ends = {token["content"] for token in whole["added_tokens"]}
    letters = [token for token in vocabulary if len(token) == 1 or token in ends][:120]
    known, kept = set(letters), []
    for merge in merges:
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        if len(kept) < 20 and left in known and right in known:
            kept.append(merge)
            known.add(left + right)
    for pieces in (whole["pre_tokenizer"], {"type": "ByteLevel", "add_prefix_space": True},
                   {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True},
                                                          {"type": "Split", "pattern": {"String": " "},
                                                           "behavior": "MergedWithNext", "invert": False},
                                                          {"type": "ByteLevel", "use_regex": False}]}):
        small = dict(whole, pre_tokenizer=pieces, normalizer={"type": "NFC"})
        tokens = sorted(known, key=lambda token: vocabulary.get(token, 1 << 20))
        small["model"] = dict(whole["model"], vocab={token: number for number, token in enumerate(tokens)}, merges=kept)
        small["added_tokens"] = [dict(token, id=small["model"]["vocab"][token["content"]])
                                 for token in whole["added_tokens"] if token["content"] in known]
        text = json.dumps(small)
        for content in ends:
            text = text.replace(f'"ids": [{vocabulary[content]}]', f'"ids": [{small["model"]["vocab"].get(content, 0)}]')
        yield text.encode()


def chats():
    for number, text in enumerate(["Once upon a time, it's 3 o'clock.\n\n", "<|bos|><|im_end|> <|eot_id|>[INST]",
                                   "e\u0301\u4e2d\U0001f600\u00a0\t\r\n", "<think>\nwell\n</think>\n\nyes"]):
        yield bytes([number * 23 % 64, number]) + text.encode()
    for value in vars(templates).values():
        if isinstance(value, str) and "{%" in value:
            yield b"\x11\x05" + value.encode()


def requests():
    request = inference.GenerateStreamRequest()
    request.input.text = "Once upon a time"
    request.input.request_id = "seed-1"
    yield request
    request = inference.GenerateStreamRequest()
    request.input.token_ids.ids.extend([0, 5, 4095])
    sampling = request.input.sampling
    sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p, sampling.seed = 0.7, 40, 0.9, 0.05, 7
    sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty = 1.1, 0.5, -0.5
    sampling.logit_bias[7] = -3.5
    sampling.allowed_token_ids.extend([5, 6, 7])
    stopping = request.input.stopping
    stopping.max_new_tokens, stopping.min_new_tokens, stopping.ignore_eos = 100, 2, True
    stopping.stop_strings.extend(["\n\n", "END"])
    stopping.stop_token_ids.append(3)
    stopping.time_limit.seconds = 10
    request.input.response.token_ids = True
    request.input.response.top_logprobs = 5
    request.stream.prefill_progress = False
    yield request
    request = inference.GenerateStreamRequest()
    for role, content in (("system", "Be brief."), ("user", "Who are you?"), ("assistant", "A fox"), ("user", "?")):
        request.input.chat.messages.add(role=role, content=content)
    yield request


def regexes():
    for number, text in enumerate([r"ab+|c?d*", r"(?:\d{1,3}\.){3}\d{1,3}", r"[^a-z\s]{2,}(yes|no)", "\\u{1F600}[\u00e9-\u4e2d]?.",
                                   r"^(?<name>x|\x41)$", r"\w+@\w+\.(com|org)"]):
        yield bytes([number * 41 % 256]) + text.encode()


def schemas():
    for number, schema in enumerate([
            {"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer"}},
             "required": ["name"], "additionalProperties": False},
            {"type": "array", "items": {"enum": ["a", 1, None, {"b": [True]}]}, "minItems": 1, "maxItems": 3},
            {"$defs": {"tree": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#/$defs/tree"}}]}},
             "$ref": "#/$defs/tree"},
            {"oneOf": [{"const": 1.5}, {"type": "string", "pattern": "^a+$"}, {"type": "number", "minimum": 0, "maximum": 10}]},
            {"type": ["boolean", "null"]}, {"type": "string", "format": "date"}]):
        yield bytes([number * 41 % 256]) + json.dumps(schema).encode()


def main():
    folder = pathlib.Path(sys.argv[1])
    seeds = {"safetensors": weights(), "config": configs(), "tokenizer_json": tokenizers(), "chat": chats(),
             "regex": regexes(), "json_schema": schemas(),
             "generate_request": (request.SerializeToString() for request in requests())}
    for name, inputs in seeds.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(inputs):
            (folder / name / f"seed-{number}").write_bytes(data)


if __name__ == "__main__":
    main()
