#!/usr/bin/env python3
"""Our kernels beside other people's, in one run: medians and ratios.

Attention: PyTorch's CPU scaled_dot_product_attention against our softmax and our entmax-1.5, on the same random queries
and keys (scores of standard deviation 1, head_dim 64), one thread. Prefill is causal, in milliseconds a head; decode is
one token with 4 query heads on a KV head. Whole model (--server, see peers_llama.py): llama.cpp against our server.

In the repository's root; the kernels are compiled (deploy/setup.sh installs what that needs), and so is llama.cpp:
  python3 -m venv .venv-bench
  .venv-bench/bin/pip install -r tests/bench/requirements.txt ./kernels/python
  .venv-bench/bin/python tests/bench/peers.py [--json] [--tokens 4096 8192 ...] [--server build/release/bin]
PyTorch comes from PyPI: Debian's, which deploy/setup.sh installs, is 1.13, whose CPU has no flash attention yet. PyPI's
is linked with CUDA's libraries and does not load without them: the environment takes 5.5 GB of disk. Pin the run to an
idle core (taskset -c 1): times are wall-clock.

What is compared:
- Each side in its faster type, bfloat16 or float32, on contiguous tensors. SDPA by its flash kernel, which was the
  faster at all lengths (math: 6 times slower at 4k). For SDPA a decoded token's group of query heads are 4 tokens of
  one head: it then reads keys once, and was 1.5 to 10 times as fast as with enable_gqa.
- Our prefill is what a caller of tauserve_kernels.entmax_attention pays: keys and values are copied into pages and
  bfloat16 converted within the time. "call" is the same call with a window of one key: what is not the search through
  the keys, and a bit more. Decoding reads a cache that has been filled before, as SDPA's tensors have.
- The contestants take turns in every repetition.
"""

import argparse
import functools
import json
import statistics
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import tauserve_kernels

HEAD_DIM = 64
DECODE_GROUP = 4
DECODE_QUERIES = 32  # tokens a timing decodes, each with a query of its own
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
KINDS = {"softmax": {"alpha": 1}, "entmax": {"alpha": 1.5}, "call": {"alpha": 1, "window": 1}}


def median_ms(runs, repetitions):
    """Medians of what takes turns; each runs once before that, so that memory is warm."""
    for run in runs.values():
        run()
    times = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(t) for name, t in times.items()}


def sdpa(q, k, v, **options):
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        F.scaled_dot_product_attention(q, k, v, **options)


def row(work, tokens, times):
    """Of times by (contestant, type): each contestant's fastest, and all of them."""
    result = {"work": work, "tokens": tokens}
    for who in ("sdpa", "softmax", "entmax"):
        dtype = min(TYPES, key=lambda d: times[who, d])
        result[who] = times[who, dtype]
        result[f"{who}_type"] = dtype
    result["call"] = times["call", result["entmax_type"]]
    result["all"] = {f"{who} {dtype}": ms for (who, dtype), ms in times.items()}
    return result


def prefill(tokens, heads, repetitions):
    q, k, v = torch.randn(3, 1, heads, tokens, HEAD_DIM)
    runs = {}
    for name, dtype in TYPES.items():
        qkv = [x.to(dtype) for x in (q, k, v)]
        runs["sdpa", name] = functools.partial(sdpa, *qkv, is_causal=True)
        for kind, options in KINDS.items():
            runs[kind, name] = functools.partial(tauserve_kernels.entmax_attention, *qkv, num_threads=1, **options)
    return row("prefill", tokens, {key: ms / heads for key, ms in median_ms(runs, repetitions).items()})


def decode_sdpa(queries, keys, values):
    for query in queries:
        sdpa(query[None], keys, values)


def decode_ours(queries, cache, tables, lengths, options):
    for query in queries:
        cache.decode(query, tables, lengths, **options)


def decode(tokens, repetitions):
    q = torch.randn(DECODE_QUERIES, 1, DECODE_GROUP, HEAD_DIM)
    k, v = torch.randn(2, 1, 1, tokens, HEAD_DIM)
    pages = -(-tokens // tauserve_kernels.PAGE_SIZE)
    tables, lengths = np.arange(pages, dtype=np.int32)[None], np.array([tokens], dtype=np.int32)
    runs = {}
    for name, dtype in TYPES.items():
        queries, keys, values = (x.to(dtype) for x in (q, k, v))
        cache = tauserve_kernels.PagedKvCache(pages, 1, HEAD_DIM, name, num_threads=1)
        cache.append(keys[0].transpose(0, 1), values[0].transpose(0, 1), tables[0], 0)
        runs["sdpa", name] = functools.partial(decode_sdpa, queries, keys, values)
        for kind, options in KINDS.items():
            runs[kind, name] = functools.partial(decode_ours, queries, cache, tables, lengths, options)
    return row("decode", tokens, {key: ms / DECODE_QUERIES for key, ms in median_ms(runs, repetitions).items()})


def print_attention(rows):
    print("| work | tokens | SDPA, ms | our softmax, ms | our entmax, ms (of that, call) "
          "| our softmax / SDPA | entmax / our softmax | entmax / SDPA |")
    print("|---" * 8 + "|")
    short = {"float32": "f32", "bfloat16": "bf16"}
    for r in rows:
        sdpa_ms, softmax, entmax = (f"{r[who]:.3g} {short[r[who + '_type']]}" for who in ("sdpa", "softmax", "entmax"))
        print(f"| {r['work']} | {r['tokens']:,} "
              f"| {sdpa_ms} | {softmax} | {entmax} ({r['call']:.2g}) "
              f"| {r['softmax'] / r['sdpa']:.2f} | {r['entmax'] / r['softmax']:.2f} | {r['entmax'] / r['sdpa']:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="*", default=[4096, 8192, 16384, 32768])
    parser.add_argument("--heads", type=int, default=2, help="heads of a prefill call")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print all times instead of tables")
    parser.add_argument("--server", metavar="BIN_DIR", help="the folder of tauserve and tauserve-cli: also whole models")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    with torch.inference_mode():
        attention = [prefill(tokens, args.heads, args.repetitions) for tokens in args.tokens]
        attention += [decode(tokens, 3 * args.repetitions) for tokens in args.tokens]
    models = []
    if args.server:
        import peers_llama

        models = peers_llama.compare(args.server, peers_llama.LENGTHS, args.repetitions)
    if args.json:
        print(json.dumps({"attention": attention, "models": models}, indent=1))
        return
    print_attention(attention)
    if models:
        print()
        peers_llama.print_models(models)


if __name__ == "__main__":
    main()
