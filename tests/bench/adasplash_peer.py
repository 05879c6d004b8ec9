"""AdaSplash-2 (PyPI's `adasplash`; arXiv 2604.15180) as a peer: entmax-1.5, causal, tuned by its own configurations.

Its kernels tune themselves anew for every length, which takes minutes of a GPU that waits for a compiler. Here every
configuration is compiled by a pool of processes into Triton's cache, tuning runs once a head_dim, at TUNED_AT tokens, and
its choice serves all lengths.
"""

import multiprocessing
import os
import sys

TUNED_AT = 16384
PROCESSES = 12
FORWARD = ("_get_tau", "_get_tau_v2", "_get_tau_v3", "_get_output")
BACKWARD = ("_bwd_q_kernel", "_bwd_kv_kernel")
NEED_BACKWARD = 9  # which of _get_output's arguments


class ForwardOnly:
    """_get_output without what only its backward pass reads."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        def launch(*arguments):
            arguments = list(arguments)
            arguments[NEED_BACKWARD] = False
            return self.kernel[grid](*arguments)

        return launch


class AdaSplash:
    """Raises ImportError where the package is not installed. One of `backward` a process.

    backward: with what the backward pass needs; else the forward pass is spared it.
    """

    def __init__(self, backward):
        import adasplash.adasplash_v2  # noqa: F401

        self.backward = backward
        self.module = sys.modules["adasplash.adasplash_v2"]
        names = FORWARD + (BACKWARD if backward else ())
        self.kernels = {name: getattr(self.module, name) for name in names}
        if not backward:
            self.module._get_output = ForwardOnly(self.kernels["_get_output"])
        self.configs = {name: list(kernel.configs) for name, kernel in self.kernels.items()}
        self.best = {}  # head_dim -> kernel -> number of its configuration

    def attend(self, q, k, v):
        """q, k and v [batch, heads, tokens, head_dim], tokens a power of two -> the output, shaped as q."""
        return self.module.sparse_attn(*(x.contiguous() for x in (q, k, v)))

    def tune(self, dims, lengths, heads):
        """-> by head_dim, the configurations that were chosen, in words."""
        most = max(len(configs) for configs in self.configs.values())
        numbers = [list(range(i, most, 6)) for i in range(6)]
        self._compile_all([(dim, TUNED_AT, heads, part) for dim in dims for part in numbers])
        described = {}
        for dim in dims:
            self._offer(self.configs)
            self._run(dim, TUNED_AT, heads)
            chosen = {name: kernel.best_config for name, kernel in self.kernels.items()}
            self.best[dim] = {name: self.configs[name].index(config) for name, config in chosen.items()}
            described[f"dim {dim}"] = {name: str(config) for name, config in chosen.items()}
        self._compile_all([(dim, tokens, heads, [self.best[dim]]) for dim in dims for tokens in lengths])
        return described

    def use(self, dim):
        """From now on, what was chosen for this head_dim."""
        self._choose(self.best[dim])

    def _offer(self, configs):
        for name, kernel in self.kernels.items():
            kernel.configs = list(configs[name])
            kernel.cache.clear()

    def _choose(self, numbers):
        self._offer({name: [self.configs[name][number]] for name, number in numbers.items()})

    def _run(self, dim, tokens, heads):
        """Scores of standard deviation 2."""
        import torch

        q, k, v = torch.randn(3, 1, heads, tokens, dim, device="cuda")
        tensors = [(x * factor).bfloat16() for x, factor in ((q, 2**0.5), (k, 2**0.5), (v, 1.0))]
        with torch.set_grad_enabled(self.backward):
            out = self.attend(*(x.requires_grad_(self.backward) for x in tensors))
        if self.backward:
            out.backward(torch.ones_like(out))
        torch.cuda.synchronize()

    def _compile_all(self, tasks):
        context = multiprocessing.get_context("spawn")
        with context.Pool(min(PROCESSES, os.cpu_count() or 1)) as pool:
            pool.map(compile_configurations, [(self.backward, *task) for task in tasks], chunksize=1)


def compile_configurations(task):
    """Compiles into Triton's cache what tuning or timing will run, in a process of its own."""
    backward, dim, tokens, heads, numbers = task
    peer = AdaSplash(backward)
    for number in numbers:
        each = number if isinstance(number, dict) else {n: number % len(c) for n, c in peer.configs.items()}
        peer._choose(each)
        try:
            peer._run(dim, tokens, heads)
        except Exception:  # noqa: BLE001: a configuration that needs too much shared memory; tuning leaves it out too
            continue
