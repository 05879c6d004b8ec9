#!/usr/bin/env python3
"""A whole server on a GPU: time to the first token, decoding in batches, and what part of the GPU's peak that is.

  python3 tests/bench/make_llama.py --shape 8b /tmp/llama-8b
  python3 tests/bench/make_llama.py --shape 8b --alpha 1 --weights /tmp/llama-8b /tmp/llama-8b-softmax
  python3 tests/bench/gpu_server.py --gemm_tflops 700 --copy_tb 2.9 --merge docs/benchmarks/gpu.json /tmp/llama-8b ...

Starts `tauserve` for each model and calls it by `tauserve-cli`. Prompts are parts of models/prompts; those of a batch
differ and are in the cache before the batch begins, so that all its tokens are decoded together. step_bench on the same
models says what linear layers and attention take. Peaks are gpu_attention.py's in the --merge file, or given.
Fractions: of a prefill, the products of linear layers and of queries with keys (causal; softmax also those with
values) a second over the measured matrix product; of decoding, the bytes of weights and keys that a step reads (softmax
also values; entmax the int8 shadow of keys) a second over the measured copy.
"""

import argparse
import concurrent.futures
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
# (context, batch), as far as the cache holds them
DECODE_SHAPES = ((8192, 1), (32768, 1), (131072, 1), (8192, 16), (16384, 16), (4096, 64))
FIRST_TOKEN_AT = (8192, 32768, 131072)
NEW_TOKENS = 128
CHARACTERS_A_TOKEN = 8  # more than any text here needs


class Server:
    def __init__(self, binaries, model, flags):
        self.binaries = binaries
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [binaries / "tauserve", f"--model={model}", "--device=cuda", "--listen=127.0.0.1:0",
             "--control_listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0", *flags],
            stdout=subprocess.PIPE, stderr=self.log)
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(timeout=60)
            raise RuntimeError(f"{model}: {self.said()[-600:]}")
        self.address = json.loads(line)["grpc"]

    def said(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def generate(self, text, tokens, new_tokens, flags=()):
        command = [self.binaries / "tauserve-cli", "generate", f"--server={self.address}", "--file=-",
                   f"--truncate_prompt_tokens={tokens}", f"--max_new_tokens={new_tokens}", "--ignore_eos",
                   "--temperature=0", "--json", *flags]
        done = subprocess.run(command, input=text, text=True, timeout=300, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if done.returncode != 0:
            raise RuntimeError(f"{tokens} tokens: {done.stderr[-600:]}")
        return json.loads(done.stdout)

    def stop(self):
        self.process.terminate()
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Prompts:
    """Different texts, each with at least as many tokens as asked for."""

    def __init__(self):
        lines = (ROOT / "models" / "prompts" / "recall-64k.jsonl").read_text().splitlines()
        self.text = " ".join(json.loads(line)["prompt"] for line in lines)

    def get(self, number, tokens):
        start = number * 9973 % len(self.text)
        turned = self.text[start:] + self.text[:start]
        return turned[: tokens * CHARACTERS_A_TOKEN]


class Shape:
    """Sizes of a model, and what a prefill computes and a decode step reads."""

    def __init__(self, folder):
        c = json.loads((folder / "config.json").read_text())
        self.name = folder.name
        self.softmax = c.get("entmax_alpha", 1) == 1
        self.layers, self.heads, self.kv_heads = (
            c[key] for key in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads"))
        self.dim = c["head_dim"]
        attention = (2 * self.heads + 2 * self.kv_heads) * self.dim * c["hidden_size"]
        self.layer_weights = self.layers * (attention + 3 * c["hidden_size"] * c["intermediate_size"])
        self.output_weights = c["vocab_size"] * c["hidden_size"]

    def prefill_flops(self, tokens):
        products = 2 if self.softmax else 1  # with keys, and with values
        return 2 * self.layer_weights * tokens + products * tokens**2 * self.heads * self.dim * self.layers

    def step_bytes(self, context, batch):
        key_bytes = 4 * self.dim if self.softmax else self.dim + 4
        return 2 * (self.layer_weights + self.output_weights) + batch * context * self.layers * self.kv_heads * key_bytes


def measure(arguments, folder, peaks):
    shape, prompts = Shape(folder), Prompts()
    rows = []

    def add(row):
        rows.append({"model": shape.name, "attention": "softmax" if shape.softmax else "entmax", **row})
        print(json.dumps(rows[-1]), flush=True)

    server = Server(arguments.bin, folder, arguments.server_flag)
    try:
        server.generate(prompts.get(0, 64), 64, 4)
        for tokens in FIRST_TOKEN_AT:
            answer = server.generate(prompts.get(0, tokens), tokens, 1, ["--bypass_prefix_cache"])
            seconds = answer["timings"]["prefill_seconds"]
            add({"kind": "first token", "tokens": answer["usage"]["prompt_tokens"],
                 "ttft_seconds": round(answer["timings"]["time_to_first_token_seconds"], 4),
                 "tokens_per_second": round(tokens / seconds),
                 "of_gemm_peak": round(shape.prefill_flops(tokens) / seconds / peaks["gemm_tflops"] / 1e12, 3),
                 "support": round(answer["attention"].get("mean_prefill_support_tokens", 0), 1)})
        for context, batch in DECODE_SHAPES:
            try:
                add(decode(server, prompts, shape, context, batch, peaks))
            except RuntimeError as error:
                add({"kind": "decode", "context": context, "batch": batch, "left_out": str(error)[:200]})
    finally:
        code = server.stop()
    if code != 0:
        raise RuntimeError(f"the server ended with {code}: {server.said()[-600:]}")
    return rows


def decode(server, prompts, shape, context, batch, peaks):
    texts = [prompts.get(i, context) for i in range(batch)]
    with concurrent.futures.ThreadPoolExecutor(batch) as pool:
        for answer in pool.map(lambda text: server.generate(text, context, 1), texts):
            pass
        answers = list(pool.map(lambda text: server.generate(text, context, NEW_TOKENS), texts))
    cached = min(answer["usage"]["cached_prompt_tokens"] for answer in answers)
    if cached < context - 64:
        raise RuntimeError(f"only {cached} of {context} tokens stayed in the cache")
    rates = sorted(answer["timings"]["decode_tokens_per_second"] for answer in answers)
    step = 1 / rates[len(rates) // 2]
    size = shape.step_bytes(context + NEW_TOKENS // 2, batch)
    return {"kind": "decode", "context": context, "batch": batch, "step_ms": round(1e3 * step, 3),
            "tokens_per_second": round(batch / step),
            "of_copy_rate": round(size / step / peaks["copy_tb_per_second"] / 1e12, 3)}


def steps(arguments, folder, peaks):
    """What a prefill of 32k tokens spends on what, and decode steps without engine and sampler."""
    shape = Shape(folder)
    command = [arguments.bin / "step_bench", "--profile", "--chunk=8192", folder, "cuda", "32768", "1", "8192", "16"]
    done = subprocess.run([str(c) for c in command], text=True, timeout=300, stdout=subprocess.PIPE, check=True)
    rows = []
    for line in done.stdout.splitlines():
        row = json.loads(line)
        row["kind"] = "steps"
        row["linear_of_gemm_peak"] = round(row["profile"]["linear_tflops"] / peaks["gemm_tflops"], 3)
        size = shape.step_bytes(row["context"], row["batch"])
        row["decode_of_copy_rate"] = round(size / row["decode_step_us"] / peaks["copy_tb_per_second"] / 1e6, 3)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=pathlib.Path, nargs="+")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build" / "release" / "bin")
    parser.add_argument("--merge", type=pathlib.Path, help="results of gpu_attention.py, which get a part \"server\"")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build" / "gpu-server.json")
    parser.add_argument("--gemm_tflops", type=float)
    parser.add_argument("--copy_tb", type=float)
    parser.add_argument("--server_flag", action="append", default=[], help="a flag of tauserve; may be given several times")
    arguments = parser.parse_args()
    arguments.bin = arguments.bin.resolve()
    results = json.loads(arguments.merge.read_text()) if arguments.merge else {}
    peaks = dict(results.get("limits", {}))
    if arguments.gemm_tflops:
        peaks["gemm_tflops"] = arguments.gemm_tflops
    if arguments.copy_tb:
        peaks["copy_tb_per_second"] = arguments.copy_tb
    if len(peaks) < 2:
        parser.error("the peaks are needed: --merge, or --gemm_tflops and --copy_tb")
    results["server"], failed = [], False
    for folder in arguments.models:
        for part in (measure, steps):
            try:
                results["server"] += part(arguments, folder, peaks)
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                print(f"{folder.name}: {error}", file=sys.stderr)
                failed = True
    out = arguments.merge or arguments.out
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"results: {out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
