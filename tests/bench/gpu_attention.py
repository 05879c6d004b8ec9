#!/usr/bin/env python3
"""Attention on a GPU: our kernels and their peers in one run, written to one JSON file.

  python3 tests/bench/gpu_attention.py --bin build/release/bin --out docs/benchmarks/gpu.json
  python3 tests/bench/gpu_attention.py --report docs/benchmarks/gpu.json     Markdown tables of such a file
  python3 tests/bench/gpu_attention.py --plot docs/gpu_ratios.svg --report docs/benchmarks/gpu.json    needs matplotlib

Ours: the programs prefill_check, decode_check and step_bench. Peers, where they can be imported: PyTorch's scaled dot
product attention with FlashAttention-2 and with cuDNN (softmax), AdaSplash-2 (entmax, PyPI's `adasplash`; forward only,
tuned as adasplash_peer says), and for decoding EntmaxKV (approximate entmax; --entmaxkv names a checkout of it). Times are
medians of device events. Shapes: one sequence of 16 heads, causal, for prefill; 8 KV heads x 4 query heads, head_dim 128,
one new token, for decoding; bf16; queries and keys normal with scores of standard deviation sigma. `recorded`: all
attention of a prefill of the embedded model on its own prompts, all layers and heads, against softmax of the same shapes.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import types

from adasplash_peer import AdaSplash
from gpu_report import plot, report

ROOT = pathlib.Path(__file__).resolve().parents[2]
LENGTHS = (4096, 8192, 16384, 32768, 65536, 131072)
HEADS = 16
CHUNKS = (8192, 2048)
DECODE_SHAPES = ((1, 8192), (1, 32768), (1, 131072), (1, 1048576), (16, 8192), (16, 32768), (16, 131072))


def median_ms(run, times):
    import torch

    run()
    torch.cuda.synchronize()
    measured = []
    for _ in range(times):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        measured.append(begin.elapsed_time(end))
    return sorted(measured)[times // 2]


def graph_us(call):
    """Microseconds of one call, replayed as a CUDA graph."""
    import torch

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return 1e3 * median_ms(graph.replay, 31)


def softmax(backend):
    """Scaled dot product attention by "flash" or "cudnn"."""
    import torch.nn.functional as functional
    from torch.nn.attention import SDPBackend, sdpa_kernel

    chosen = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}[backend]

    def call(q, k, v, **arguments):
        with sdpa_kernel(chosen):
            return functional.scaled_dot_product_attention(q, k, v, **arguments)

    return call


def normal(shape, deviation=1.0):
    import torch

    return torch.randn(shape, device="cuda", dtype=torch.float32).mul_(deviation).to(torch.bfloat16)


# --- limits of the device


def limits():
    import torch

    a = normal((8192, 8192))
    b = normal((8192, 8192))
    product = median_ms(lambda: torch.matmul(a, b), 21)
    big = torch.empty(1 << 31, device="cuda", dtype=torch.int8)
    other = torch.empty_like(big)
    copy = median_ms(lambda: other.copy_(big), 11)
    return {"gemm_tflops": round(2 * 8192**3 / product / 1e9, 1),
            "copy_tb_per_second": round(2 * big.numel() / copy / 1e9, 3)}


def time_adasplash():
    import torch

    try:
        peer = AdaSplash(backward=False)
    except ImportError as error:
        return [], {"adasplash": str(error)}
    described = peer.tune((64, 128), LENGTHS, HEADS)
    rows = []
    for dim in (64, 128):
        peer.use(dim)
        for tokens in LENGTHS:
            for sigma in (1.0, 2.0, 4.0):
                q, k = (normal((1, HEADS, tokens, dim), sigma**0.5) for _ in range(2))
                v = normal((1, HEADS, tokens, dim))
                with torch.no_grad():
                    ms = median_ms(lambda: peer.attend(q, k, v), 3 if tokens > 50000 else 9)
                rows.append({"name": "adasplash-2", "dim": dim, "tokens": tokens, "sigma": sigma, "ms": round(ms, 4)})
                print(json.dumps(rows[-1]), flush=True)
    return rows, {"adasplash": described}


# --- the parts


def json_lines(command, timeout):
    print("$ " + " ".join(map(str, command)), flush=True)
    done = subprocess.run([str(c) for c in command], cwd=ROOT, timeout=timeout, text=True, stdout=subprocess.PIPE)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stdout[-1000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def prefill(arguments):
    rows = json_lines([arguments.bin / "prefill_check", "time", "full"], 300)
    peers = []
    for dim in (64, 128):
        for tokens in LENGTHS:
            q, k, v = (normal((1, HEADS, tokens, dim)) for _ in range(3))
            for name in ("flash", "cudnn"):
                call = softmax(name)
                ms = median_ms(lambda: call(q, k, v, is_causal=True), 3 if tokens > 50000 else 9)
                peers.append({"name": name, "dim": dim, "tokens": tokens, "ms": round(ms, 4)})
    adasplash, notes = time_adasplash()
    return {"prefill": rows, "prefill_peers": peers + adasplash, "notes": notes}


def decode(arguments):
    import torch

    rows = json_lines([arguments.bin / "decode_check", "time", "1"], 300)
    peers = []
    for batch, tokens in DECODE_SHAPES:
        q = normal((batch, 32, 1, 128))
        k = torch.randn(batch, 8, tokens, 128, device="cuda", dtype=torch.bfloat16)
        v = torch.randn_like(k)
        for name in ("flash", "cudnn"):
            row = {"name": name, "batch": batch, "tokens": tokens}
            call = softmax(name)
            try:
                row["us"] = round(graph_us(lambda: call(q, k, v, enable_gqa=True)), 2)
            except RuntimeError as error:
                row["error"] = str(error)[:200]
            peers.append(row)
        del q, k, v
        torch.cuda.empty_cache()
    return {"decode": rows, "decode_peers": peers}


def entmaxkv(arguments):
    """EntmaxKV's own timing functions; it takes no grouped queries, so 8 query heads, and runs eagerly."""
    if not arguments.entmaxkv:
        return {"entmaxkv": [], "notes": {"entmaxkv": "not asked for"}}
    import torch

    sys.path.insert(0, str(arguments.entmaxkv / "tests"))
    import run_benchmarks

    rows = []
    for kernel, run in (("top-k", run_benchmarks.run_topk), ("gaussian", run_benchmarks.run_gaussian)):
        for tokens in (8192, 32768, 131072, 1048576):
            options = types.SimpleNamespace(
                batch=1, coverage=0.125, tau_mode="corrected", clamp_tau=False, safety_margin_z=0.0, max_quantile=0.995,
                alpha=1.5, niter=2, alibi=False, kv_heads=8, q_heads=8, head_dim=128, page_size=16, warmup=5, iters=30,
                seed=0, kv_len=tokens)
            row = {"name": f"entmaxkv {kernel}", "batch": 1, "tokens": tokens, "query_heads": 8}
            try:
                row["us"] = round(1e3 * run(options, torch.device("cuda"), torch.float16)["median"], 1)
            except Exception as error:  # what it can't run is reported as such
                row["error"] = f"{type(error).__name__}: {error}"[:200]
            rows.append(row)
            torch.cuda.empty_cache()
    return {"entmaxkv": rows}


def recorded(arguments):
    """The embedded model's prefill attention on one of its prompts, whole and in chunks: the server's default, and shorter."""
    model = ROOT / "models" / "recall-9m"
    config = json.loads((model / "config.json").read_text())
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    kv_heads, dim = config["num_key_value_heads"], config["head_dim"]
    rows = []
    for tokens in (16384, 65536):
        for chunk in (tokens, *CHUNKS):
            line, = json_lines([arguments.bin / "step_bench", "--profile", f"--chunk={chunk}", "--decode_steps=1",
                                "--prompts=models/prompts/recall-64k.jsonl", model, "cuda", tokens, 1], 120)
            rows.append({"name": "ours", "tokens": tokens, "chunk": chunk, "ms": round(line["profile"]["attention_ms"], 3),
                         "support": round(line["prefill_support"], 1)})
        q = normal((1, heads, tokens, dim))
        k, v = (normal((1, kv_heads, tokens, dim)) for _ in range(2))
        for name in ("flash", "cudnn"):
            call = softmax(name)
            ms = layers * median_ms(lambda: call(q, k, v, is_causal=True, enable_gqa=True), 9)
            rows.append({"name": name, "tokens": tokens, "ms": round(ms, 3)})
    return {"recorded": rows}


PARTS = {"prefill": prefill, "decode": decode, "recorded": recorded, "entmaxkv": entmaxkv}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build" / "release" / "bin")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build" / "gpu-attention.json")
    parser.add_argument("--only", default=",".join(PARTS), help="of " + ",".join(PARTS))
    parser.add_argument("--entmaxkv", type=pathlib.Path, help="a checkout of EntmaxKV")
    parser.add_argument("--report", type=pathlib.Path, help="only print tables of this file")
    parser.add_argument("--plot", type=pathlib.Path, help="with --report: draw the ratios into this SVG file")
    arguments = parser.parse_args()
    if arguments.report:
        results = json.loads(arguments.report.read_text())
        report(results)
        if arguments.plot:
            plot(results, arguments.plot)
        return 0
    import torch

    arguments.bin = arguments.bin.resolve()
    results = {"device": torch.cuda.get_device_name(0), "torch": torch.__version__,
               "command": "tests/bench/gpu_attention.py", "limits": limits(), "notes": {}}
    failed = False
    for part in arguments.only.split(","):
        try:
            measured = PARTS[part](arguments)
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            print(f"{part}: {error}", file=sys.stderr)
            results["notes"][part] = str(error)[:500]
            failed = True
            continue
        results["notes"].update(measured.pop("notes", {}))
        results.update(measured)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    report(results)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
