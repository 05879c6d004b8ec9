"""Starting: flags, configuration file, ports, and model folders that must be refused."""

import json
import shutil
import socket
import struct

import pytest

from protos import control, inference
from requests_made import generate
from server_process import MODEL, Server, run_to_end

FREE_PORTS = ["--listen=127.0.0.1:0", "--control_listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0"]


def fails(*flags, code=1):
    """Runs to its end: `code`, nothing on stdout; returns what it says, one line."""
    returned, stdout, stderr = run_to_end(*flags)
    assert (returned, stdout) == (code, ""), stderr
    assert len(stderr.strip().splitlines()) == 1, stderr
    return stderr


def test_serving_line():
    with Server() as server:
        assert set(server.serving) == {"event", "grpc", "control", "metrics"}
        ports = {server.serving[name].rsplit(":", 1)[1] for name in ("grpc", "control", "metrics")}
        assert len(ports) == 3 and "0" not in ports
        generate(server)
        server.stop()
        assert server.process.stdout.read() == b""  # that line, and nothing else


def test_version():
    code, stdout, stderr = run_to_end("--version")
    assert code == 0 and stdout.startswith("tauserve ") and stderr == ""


def test_help_names_the_flags():
    _, stdout, stderr = run_to_end("--help")
    for flag in ("model", "listen", "control_listen", "metrics_listen", "kv_cache_bytes", "max_batched_tokens",
                 "max_running_requests", "max_waiting_requests", "threads", "dtype", "kv_dtype", "chat_template", "config",
                 "drain_timeout", "log_level", "tls_cert", "tls_key", "tls_client_ca", "auth_tokens_file",
                 "max_concurrent_streams", "max_connection_age", "max_connection_age_grace", "log_prompts"):
        assert f"--{flag}" in stdout + stderr


@pytest.mark.parametrize("flags, parts", [
    ([], ["--model"]),
    ([f"--model={MODEL}", "--max_batched_tokens=-1"], ["max_batched_tokens", "-1"]),
    ([f"--model={MODEL}", "--max_batched_tokens=lots"], ["max_batched_tokens", "lots"]),
    ([f"--model={MODEL}", "--max_running_requests=-1"], ["max_running_requests", "-1"]),
    ([f"--model={MODEL}", "--max_waiting_requests=-1"], ["max_waiting_requests", "-1"]),
    ([f"--model={MODEL}", "--kv_cache_bytes=-1"], ["kv_cache_bytes", "-1"]),
    ([f"--model={MODEL}", "--threads=-2"], ["threads", "-2"]),
    ([f"--model={MODEL}", "--listen=nowhere"], ["listen", "nowhere"]),
    ([f"--model={MODEL}", "--listen=127.0.0.1:70000"], ["listen", "70000"]),
    ([f"--model={MODEL}", "--dtype=int4"], ["dtype", "int4", "bfloat16"]),
    ([f"--model={MODEL}", "--kv_dtype=float16"], ["kv_dtype", "float16", "bfloat16"]),
    ([f"--model={MODEL}", "--device=tpu"], ["device", "tpu", "cpu"]),
    ([f"--model={MODEL}", "--chat_template=xml"], ["chat_template", "xml", "chatml", "llama3"]),
    ([f"--model={MODEL}", "--log_level=loud"], ["log_level", "loud", "debug"]),
    ([f"--model={MODEL}", "--drain_timeout=-3s"], ["drain_timeout", "-3s"]),
    ([f"--model={MODEL}", "--drain_timeout=soon"], ["drain_timeout", "soon"]),
    ([f"--model={MODEL}", "--no_such_flag=1"], ["no_such_flag"]),
    ([f"--model={MODEL}", "left over"], ["left over"]),
], ids=lambda x: x[-1] if isinstance(x, list) and x else "")
def test_bad_flags(flags, parts):
    message = fails(*flags, code=2)
    for part in parts:
        assert part in message


def test_cuda_without_a_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # for machines that have one
    message = fails(f"--model={MODEL}", "--device=cuda", *FREE_PORTS)
    assert "cuda" in message and ("not built into" in message or "NVIDIA" in message)


def test_kv_cache_below_one_page():
    message = fails(f"--model={MODEL}", "--kv_cache_bytes=1000", *FREE_PORTS)
    assert "kv_cache_bytes" in message and "1000" in message


@pytest.mark.parametrize("flag", ["listen", "control_listen", "metrics_listen"])
def test_port_in_use(flag):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        message = fails(f"--model={MODEL}", *[f for f in FREE_PORTS if not f.startswith(f"--{flag}=")],
                        f"--{flag}={address}", code=1)
        assert address in message


def test_config_file(tmp_path):
    config = tmp_path / "server.json"
    config.write_text(json.dumps({"model": str(MODEL), "max_batched_tokens": 300, "max_running_requests": 3,
                                  "kv_cache_bytes": 256 << 20, "drain_timeout": "2s", "prefix_cache": False}))
    with Server(f"--config={config}", "--max_running_requests=5") as server:
        info = server.control.GetServerInfo(control.GetServerInfoRequest())
        assert info.max_batched_tokens == 300
        assert info.max_running_requests == 5  # the command line wins
        assert server.stub.GetModel(inference.GetModelRequest()).kv_pages_total < 400
        prompt = list(range(300, 500))
        generate(server, prompt)
        assert generate(server, prompt).prompt.cached_tokens == 0


@pytest.mark.parametrize("text, parts", [
    ('{"max_batched_token": 3}', ["max_batched_token"]),
    ('{"max_batched_tokens": "three"}', ["max_batched_tokens", "three"]),
    ('{"max_batched_tokens": 3.5}', ["max_batched_tokens", "3.5"]),
    ('{"max_batched_tokens": true}', ["max_batched_tokens", "true"]),
    ('{"model": 7}', ["model", "7"]),
    ('{"threads": [1]}', ["threads", "[1]"]),
    ('{"prefix_cache": "maybe"}', ["prefix_cache", "maybe"]),
    ('{"listen": null}', ["listen", "null"]),
    ('{"model": ', ["JSON"]),
    ('[1, 2]', ["JSON object"]),
    ('{"config": "other.json"}', ["config"]),
], ids=lambda x: x if isinstance(x, str) else "")
def test_bad_config_file(tmp_path, text, parts):
    config = tmp_path / "server.json"
    config.write_text(text)
    message = fails(f"--config={config}", f"--model={MODEL}", *FREE_PORTS, code=2)
    assert str(config) in message
    for part in parts:
        assert part in message


def test_config_file_that_is_not_there(tmp_path):
    assert "nothing.json" in fails(f"--config={tmp_path / 'nothing.json'}", code=2)


@pytest.fixture
def folder(tmp_path):
    copy = tmp_path / "broken-model"
    shutil.copytree(MODEL, copy)
    return copy


def refuses(folder, *parts):
    message = fails(f"--model={folder}", *FREE_PORTS)
    for part in parts:
        assert str(part) in message, message


def header(folder):
    """The safetensors file's JSON header and its data."""
    data = (folder / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8:8 + size]), data[8 + size:]


def write(folder, tensors, data):
    text = json.dumps(tensors).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


NORM = "model.norm.weight"


def test_missing_folder(tmp_path):
    refuses(tmp_path / "not-there", "not-there")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    refuses(folder, name)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json"])
def test_broken_json(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-20])
    refuses(folder, name)


def test_truncated_weights(folder):
    tensors, data = header(folder)
    write(folder, tensors, data[:-1000])
    refuses(folder, "model.safetensors", "tensor", "truncated", len(data) - 1000)


def test_weights_of_a_few_bytes(folder):
    (folder / "model.safetensors").write_bytes(b"\x10\x00\x00")
    refuses(folder, "model.safetensors", 3)


def test_absurd_header_size(folder):
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 62) + path.read_bytes()[8:])
    refuses(folder, "model.safetensors", 1 << 62)


def test_wrong_shape(folder):
    tensors, data = header(folder)
    assert tensors[NORM]["shape"] == [320]
    tensors[NORM]["shape"] = [2, 160]
    write(folder, tensors, data)
    refuses(folder, "model.safetensors", NORM, "320", "160")


def test_unknown_dtype(folder):
    tensors, data = header(folder)
    tensors[NORM]["dtype"] = "Q3_K"
    write(folder, tensors, data)
    refuses(folder, "model.safetensors", NORM, "Q3_K")


def test_overlapping_offsets(folder):
    tensors, data = header(folder)
    begin, end = tensors[NORM]["data_offsets"]
    tensors[NORM]["data_offsets"] = [begin - 64, end - 64] if begin else [begin + 64, end + 64]
    write(folder, tensors, data)
    refuses(folder, "model.safetensors", NORM)


def test_offsets_outside_of_the_file(folder):
    tensors, data = header(folder)
    tensors[NORM]["data_offsets"] = [len(data), len(data) + 640]
    write(folder, tensors, data)
    refuses(folder, "model.safetensors", NORM, len(data) + 640)


def test_missing_tensor(folder):
    tensors, data = header(folder)
    tensors["another.name"] = tensors.pop(NORM)
    write(folder, tensors, data)
    refuses(folder, "model.safetensors", NORM)


@pytest.mark.parametrize("key, value", [
    ("hidden_size", 10**12), ("num_hidden_layers", -1), ("num_attention_heads", 7), ("head_dim", 65),
    ("vocab_size", 0), ("entmax_alpha", 3.5), ("entmax_alpha", "much"), ("max_position_embeddings", 0),
])
def test_absurd_config(folder, key, value):
    config = json.loads((folder / "config.json").read_text())
    config[key] = value
    (folder / "config.json").write_text(json.dumps(config))
    refuses(folder, "config.json", key, value)


def test_unknown_architecture(folder):
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["MambaForCausalLM"]
    (folder / "config.json").write_text(json.dumps(config))
    refuses(folder, "config.json", "MambaForCausalLM")


def test_tokenizer_larger_than_the_model(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append(dict(tokenizer["added_tokens"][0], id=4096, content="<|one too many|>"))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    refuses(folder, 4097, 4096)
