#!/usr/bin/env python3
"""Whole models: llama.cpp beside our server, tokens a second on one thread each, medians.

llama.cpp (llama-cpp-python, compiled for this machine) runs a Llama of the embedded model's shape: its layers, heads,
widths and vocabulary, with random weights, softmax and rotary embeddings. What it computes does not depend on the
weights. Our server runs the embedded model on the end of one of its 64k prompts, since entmax's work does depend on
what is read; it is asked over gRPC, and its own timings are used. Both generate greedily.

Both sides are tuned: at the shortest length all of `LLAMA_SETTINGS` (types of weights and of the KV cache, batch sizes,
flash attention on and off) and `SERVER_SETTINGS` run once, at longer ones those that were among the best; then the best
for prefill and the best for decode of both sides take turns.

In the repository's root, with the environment of peers.py, pinned to an idle core; 7 minutes, of which llama.cpp's 16k
tokens are most:
  .venv-bench/bin/python tests/bench/peers_llama.py build/release/bin [--tokens 1024 4096 ...] [--json]
"""

import argparse
import collections
import contextlib
import itertools
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

import gguf
import llama_cpp
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "recall-9m"
PROMPTS = ROOT / "models" / "prompts" / "recall-64k.jsonl"
LENGTHS = [1024, 4096, 16384]
NEW_TOKENS = 64
PHASES = ("prefill", "decode")

TYPES = {"f32": gguf.GGMLQuantizationType.F32, "f16": gguf.GGMLQuantizationType.F16,
         "bf16": gguf.GGMLQuantizationType.BF16}
# weights, KV cache, flash attention, tokens a batch (n_ubatch)
LLAMA_SETTINGS = list(itertools.product(TYPES, ["f16", "bf16"], [True, False], [64, 128, 256, 512, 2048]))
SERVER_SETTINGS = list(itertools.product(["float32", "bfloat16"], repeat=2))  # --dtype, --kv_dtype


@llama_cpp.llama_log_callback
def no_log(level, text, user_data):
    pass


def write_gguf(path, weights):
    """A Llama of the embedded model's shape with normal random weights."""
    config = json.loads((MODEL / "config.json").read_text())
    random = np.random.default_rng(1)
    hidden, inner, dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q_width, kv_width = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(dim)
    writer.add_value_length(dim)
    writer.add_rope_dimension_count(dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")

    def add(name, rows, cols):
        tensor = random.normal(0, config["initializer_range"], (rows, cols)).astype(np.float32)
        writer.add_tensor(name, gguf.quants.quantize(tensor, TYPES[weights]), raw_dtype=TYPES[weights])

    def add_norm(name):
        writer.add_tensor(name, np.ones(hidden, np.float32))

    add("token_embd.weight", config["vocab_size"], hidden)
    add_norm("output_norm.weight")
    for layer in range(config["num_hidden_layers"]):
        add_norm(f"blk.{layer}.attn_norm.weight")
        add(f"blk.{layer}.attn_q.weight", q_width, hidden)
        add(f"blk.{layer}.attn_k.weight", kv_width, hidden)
        add(f"blk.{layer}.attn_v.weight", kv_width, hidden)
        add(f"blk.{layer}.attn_output.weight", hidden, q_width)
        add_norm(f"blk.{layer}.ffn_norm.weight")
        add(f"blk.{layer}.ffn_gate.weight", inner, hidden)
        add(f"blk.{layer}.ffn_up.weight", inner, hidden)
        add(f"blk.{layer}.ffn_down.weight", hidden, inner)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Llama:
    """llama.cpp with one of LLAMA_SETTINGS and room for so many tokens."""

    def __init__(self, path, settings, tokens):
        _, kv_type, flash, batch = settings
        model_params = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = tokens + NEW_TOKENS
        params.n_batch = params.n_ubatch = batch
        params.n_threads = params.n_threads_batch = 1
        params.type_k = params.type_v = TYPES[kv_type].value
        params.flash_attn_type = (llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash
                                  else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED)
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError(f"llama.cpp makes no context of {settings}")
        self.batch = batch
        self.sampler = llama_cpp.llama_sampler_init_greedy()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        llama_cpp.llama_sampler_free(self.sampler)
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def decode(self, ids):
        array = (llama_cpp.llama_token * len(ids))(*ids)
        code = llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(array, len(ids)))
        if code:
            raise RuntimeError(f"llama_decode returned {code}")

    def sample(self):
        return llama_cpp.llama_sampler_sample(self.sampler, self.context, -1)

    def run(self, ids):
        """(prefill, decode) in tokens a second."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        start = time.perf_counter()
        for at in range(0, len(ids), self.batch):
            self.decode(ids[at:at + self.batch])
        token = self.sample()
        middle = time.perf_counter()
        for _ in range(NEW_TOKENS - 1):
            self.decode([token])
            token = self.sample()
        end = time.perf_counter()
        return len(ids) / (middle - start), (NEW_TOKENS - 1) / (end - middle)


class Server:
    """Our server on ports of its own, one thread."""

    def __init__(self, folder, dtype, kv_dtype):
        self.folder = pathlib.Path(folder)
        self.process = subprocess.Popen(
            [self.folder / "tauserve", f"--model={MODEL}", "--threads=1", f"--dtype={dtype}", f"--kv_dtype={kv_dtype}",
             "--listen=127.0.0.1:0", "--control_listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server ended with exit code {self.process.wait()}")
        self.address = json.loads(line)["grpc"]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()

    def run(self, tokens):
        """(prefill, decode) in tokens a second, on the last tokens of a prompt."""
        done = subprocess.run(
            [self.folder / "tauserve-cli", "generate", f"--server={self.address}", f"--prompts={PROMPTS}",
             f"--truncate_prompt_tokens={tokens}", "--temperature=0", "--ignore_eos", f"--max_new_tokens={NEW_TOKENS}",
             "--bypass_prefix_cache", "--json", "--noprogress"], capture_output=True, check=False)
        answer = json.loads(done.stdout)  # its exit code says whether the answer is right, which is not asked here
        if "error" in answer:
            raise RuntimeError(answer["error"])
        if answer["usage"]["prompt_tokens"] != tokens:
            raise RuntimeError(f"{PROMPTS} has only {answer['usage']['prompt_tokens']} tokens, not {tokens}")
        timings = answer["timings"]
        return timings["prefill_tokens_per_second"], timings["decode_tokens_per_second"]


class Contestant:
    """Tries its settings, at growing lengths only those that have been among the best.

    start(setting, tokens) is a context manager of a function that runs once: (prefill, decode) in tokens a second.
    """

    def __init__(self, settings, start):
        self.settings = settings
        self.start = start
        self.kept = 8

    def tune(self, tokens):
        """The settings that are best at prefill and at decode."""
        tried = {}
        for setting in self.settings:
            with self.start(setting, tokens) as run:
                tried[setting] = run()
        orders = [sorted(tried, key=lambda setting: -tried[setting][phase]) for phase in range(len(PHASES))]
        self.kept = max(2, self.kept // 2)
        self.settings = list({setting: None for order in orders for setting in order[:self.kept]})
        return [order[0] for order in orders]


def race(contestants, tokens, repetitions):
    """{phase: {name: median rate, name_setting: the setting that is best at it}}; the contestants take turns."""
    best = {name: contestant.tune(tokens) for name, contestant in contestants.items()}
    rates = collections.defaultdict(list)
    with contextlib.ExitStack() as stack:
        runs = {(name, setting): stack.enter_context(contestants[name].start(setting, tokens))
                for name, settings in best.items() for setting in settings}
        for _ in range(repetitions):
            for key, run in runs.items():
                rates[key].append(run())
    return {phase: {key: value for name, settings in best.items() for key, value in (
                (name, statistics.median(r[i] for r in rates[name, settings[i]])), (f"{name}_setting", settings[i]))}
            for i, phase in enumerate(PHASES)}


def compare(folder, lengths, repetitions):
    """For each length its number of tokens and what `race` returns."""
    llama_cpp.llama_log_set(no_log, None)
    random = np.random.default_rng(2)
    vocabulary = json.loads((MODEL / "config.json").read_text())["vocab_size"]
    with tempfile.TemporaryDirectory() as work:
        for weights in TYPES:
            write_gguf(f"{work}/{weights}.gguf", weights)

        @contextlib.contextmanager
        def start_llama(setting, tokens):
            with Llama(f"{work}/{setting[0]}.gguf", setting, tokens) as llama:
                yield lambda: llama.run(random.integers(vocabulary, size=tokens).tolist())

        @contextlib.contextmanager
        def start_server(setting, tokens):
            with Server(folder, *setting) as server:
                server.run(64)  # its first step makes memory
                yield lambda: server.run(tokens)

        contestants = {"llama": Contestant(LLAMA_SETTINGS, start_llama),
                       "tauserve": Contestant(SERVER_SETTINGS, start_server)}
        return [{"tokens": tokens, **race(contestants, tokens, repetitions)} for tokens in sorted(lengths)]


def print_models(rows):
    print("| work | prompt tokens | llama.cpp, tokens/s (weights, KV) | tauserve, tokens/s (weights, KV) "
          "| tauserve / llama.cpp |")
    print("|---" * 5 + "|")
    for phase in PHASES:
        for row in rows:
            r = row[phase]
            weights, kv_type, flash, batch = r["llama_setting"]
            attention = "flash" if flash else "no flash"
            print(f"| {phase} | {row['tokens']:,} "
                  f"| {r['llama']:,.0f} ({weights}, {kv_type}, {attention}, batch {batch}) "
                  f"| {r['tauserve']:,.0f} ({', '.join(r['tauserve_setting'])}) | {r['tauserve'] / r['llama']:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin_dir", help="the folder of tauserve and tauserve-cli")
    parser.add_argument("--tokens", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = compare(args.bin_dir, args.tokens, args.repetitions)
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print_models(rows)


if __name__ == "__main__":
    main()
