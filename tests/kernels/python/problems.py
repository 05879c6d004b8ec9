"""Attention of PyTorch's own operations and PyPI's entmax, in float64 and differentiable, and random problems."""

import entmax
import torch


def reference_scores(q, k, alpha=1.5, causal=True, scale=None, slopes=None, window=None):
    """q [batch, heads, tokens, dim], k with fewer heads; -1e9 where not visible."""
    tokens, keys = q.shape[2], k.shape[2]
    k = k.double().repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = q.double() @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    distance = torch.arange(keys)[None, :] - torch.arange(keys - tokens, keys)[:, None]
    if slopes is not None:
        scores = scores + torch.tensor(slopes).double()[:, None, None] * distance
    if causal:
        hidden = distance > 0
        if window is not None:
            hidden = hidden | (distance <= -window)
        scores = scores.masked_fill(hidden, -1e9)
    return scores


def reference(q, k, v, alpha=1.5, **options):
    heads = q.shape[1]
    scores = reference_scores(q, k, alpha, **options)
    alphas = [alpha] * heads if isinstance(alpha, (int, float)) else alpha
    weights = [
        torch.softmax(scores[:, h], -1) if a == 1
        else entmax.entmax_bisect(scores[:, h], a, dim=-1, n_iter=60)
        for h, a in enumerate(alphas)
    ]
    return torch.stack(weights, 1) @ v.double().repeat_interleave(heads // v.shape[1], 1)


def error(out, expected):
    """The worst row's, relative."""
    out = torch.as_tensor(out).double()
    return ((out - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-30)).max().item()


def problem(rng, dtype=torch.float32, tokens=None, keys=None):
    kv_heads, group, dim = rng.choice([1, 2, 3]), rng.choice([1, 2, 4]), rng.choice([32, 64, 80, 128])
    tokens = tokens or rng.randint(1, 300)
    keys = keys or tokens + rng.choice([0, 0, rng.randint(1, 200)])
    batch = rng.choice([1, 2])
    q = torch.randn(batch, kv_heads * group, tokens, dim) * rng.choice([0.5, 1.0, 2.0])
    k, v = torch.randn(2, batch, kv_heads, keys, dim)
    return q.to(dtype), k.to(dtype), v.to(dtype)
