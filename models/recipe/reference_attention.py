"""The attention of entmax_attention.py in plain PyTorch, entmax-1.5 by sorting: slow and obvious.

Reads and writes no files. It checks the kernels, and stands in for them on a CPU. Shapes are those
of entmax_attention.py; memory grows with the square of the length.
"""

import torch


def scores(q, k, slopes):
    """a [batch, heads, rows, keys] in float32, causal: later keys are -1e30."""
    head_dim = q.shape[3]
    group = q.shape[2] // k.shape[2]
    every_k = k.repeat_interleave(group, 2)
    a = torch.einsum("bihd,bjhd->bhij", q.float(), every_k.float()) * head_dim**-0.5
    row = torch.arange(q.shape[1], device=q.device)
    key = torch.arange(k.shape[1], device=q.device)
    a = a + slopes.view(1, -1, 1, 1) * (key[None] - row[:, None])
    return a.masked_fill(key[None] > row[:, None], -1e30)


def entmax15(a):
    """Exact, by sorting (Peters et al. 2019, algorithm 2), over the last dimension."""
    s = a / 2
    s = s - s.max(-1, keepdim=True).values
    ordered = s.sort(-1, descending=True).values
    count = torch.arange(1, ordered.shape[-1] + 1, device=ordered.device, dtype=ordered.dtype)
    mean = ordered.cumsum(-1) / count
    mean_square = (ordered * ordered).cumsum(-1) / count
    under_root = torch.clamp((1 - count * (mean_square - mean * mean)) / count, min=0)
    tau = mean - under_root.sqrt()
    support = (tau <= ordered).sum(-1, keepdim=True)
    return torch.clamp(s - tau.gather(-1, support - 1), min=0) ** 2


class Entmax15(torch.autograd.Function):
    """entmax15 with its gradient in closed form: the one through sort and cumsum is slow."""

    @staticmethod
    def forward(ctx, a):
        p = entmax15(a)
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx, d_p):
        g = ctx.saved_tensors[0].sqrt()
        return g * (d_p - (g * d_p).sum(-1, keepdim=True) / g.sum(-1, keepdim=True))


def attend_exactly(q, k, v, slopes, entmax=entmax15):
    """-> float32 output [batch, rows, heads, head_dim]; the gradient goes through the sort."""
    group = q.shape[2] // k.shape[2]
    p = entmax(scores(q, k, slopes))
    return torch.einsum("bhij,bjhd->bihd", p, v.float().repeat_interleave(group, 2))


def attend(q, k, v, slopes):
    """Stands in for Entmax15Attention.apply where there is no GPU."""
    return attend_exactly(q, k, v, slopes, Entmax15.apply).to(q.dtype)
