#!/usr/bin/env python3
"""Forward and backward of entmax attention on the CPU against PyTorch's scaled_dot_product_attention, in turns.

    PYTHONPATH=build/release/python .venv-torch/bin/python tests/bench/training_attention.py [--tokens=4096,16384]

q and k are random so that scores have the deviation --sigma; float32, causal. The times are the best of all rounds, in
milliseconds: by the clock, and of all cores together, which other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable

import tauserve_kernels
import torch


def measure(function: Callable[[], torch.Tensor], dout: torch.Tensor) -> tuple[float, float, float, float]:
    """Seconds of forward and backward, by the clock and of all cores."""
    wall, cores = [time.perf_counter()], [time.process_time()]
    out = function()
    wall.append(time.perf_counter())
    cores.append(time.process_time())
    out.backward(dout)
    wall.append(time.perf_counter())
    cores.append(time.process_time())
    return wall[1] - wall[0], wall[2] - wall[1], cores[1] - cores[0], cores[2] - cores[1]


def run(tokens: int, args: argparse.Namespace) -> None:
    spread = args.sigma**0.5
    q, k, v, dout = torch.randn(4, 1, args.heads, tokens, args.head_dim)
    q, k, v = (q * spread).requires_grad_(), (k * spread).requires_grad_(), v.requires_grad_()
    sdpa = torch.nn.functional.scaled_dot_product_attention
    functions = {"SDPA": lambda: sdpa(q, k, v, is_causal=True)}
    for alpha in args.alpha:
        functions[f"alpha {alpha:g}"] = functools.partial(tauserve_kernels.entmax_attention, q, k, v, alpha=alpha,
                                                          num_threads=args.threads)
    best: dict[str, tuple[float, ...]] = {}
    for _ in range(args.rounds):
        for name, function in functions.items():
            times = measure(function, dout)
            best[name] = tuple(map(min, best.get(name, times), times))
    peer = best["SDPA"]
    for name, times in best.items():
        both, cores = times[0] + times[1], times[2] + times[3]
        print(f"{tokens:7d} {name:10s} forward {1e3 * times[0]:8.1f}  backward {1e3 * times[1]:8.1f}  "
              f"ratio {both / (peer[0] + peer[1]):5.2f}   cores: forward {1e3 * times[2]:8.1f}  "
              f"backward {1e3 * times[3]:8.1f}  ratio {cores / (peer[2] + peer[3]):5.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=lambda s: [int(x) for x in s.split(",")], default=[4096, 16384])
    parser.add_argument("--alpha", type=lambda s: [float(x) for x in s.split(",")], default=[1.5])
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head_dim", type=int, default=64)
    parser.add_argument("--sigma", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"PyTorch {torch.__version__}, {args.threads} threads, {args.heads} heads of {args.head_dim}, "
          f"sigma {args.sigma:g}")
    for tokens in args.tokens:
        run(tokens, args)


if __name__ == "__main__":
    main()
