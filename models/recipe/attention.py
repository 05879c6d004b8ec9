"""The models' attention: entmax by tauserve_kernels, softmax on a GPU by PyTorch's FlashAttention.

Reads and writes no files. An attention function takes q [batch, rows, heads, head_dim] and k and v
[batch, keys, kv_heads, head_dim], and returns the output, shaped as q. The rows are the last ones of
the keys' positions, and see the keys up to their own.
"""

import torch
from torch.nn import functional as F

import tauserve_kernels

BIAS_DIMS = 16  # of which three are used: kernels want a multiple of 16
DIGIT = 128  # keys' positions have three digits to this base, each exact in bfloat16


def attention_of(config):
    """The attention function of a model.Config."""

    def attend(q, k, v):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        if config.alpha == 1 and q.is_cuda:
            return flash_attention(q, k, v, config.alibi_slopes).transpose(1, 2)
        out = tauserve_kernels.entmax_attention(
            q, k, v, config.alpha, alibi_slopes=config.alibi_slopes
        )
        return out.transpose(1, 2)

    return attend


def flash_attention(q, k, v, slopes):
    """Softmax of q [batch, heads, rows, head_dim], as many rows as keys; biased heads come first."""
    biased = sum(slope > 0 for slope in slopes)
    group = q.shape[1] // k.shape[1]
    kv_biased = biased // group
    scale = q.shape[-1] ** -0.5
    outputs = []
    if biased:
        heads = (q[:, :biased], k[:, :kv_biased], v[:, :kv_biased])
        out = flash(*with_alibi(*heads, slopes[:biased], scale), scale, group)
        outputs.append(out[..., : q.shape[-1]])
    if biased < q.shape[1]:
        outputs.append(flash(q[:, biased:], k[:, kv_biased:], v[:, kv_biased:], scale, group))
    return torch.cat(outputs, 1)


def flash(q, k, v, scale, group):
    return F.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=scale, enable_gqa=group > 1
    )


def with_alibi(q, k, v, slopes, scale):
    """q, k and v with BIAS_DIMS more dimensions, whose softmax attention has ALiBi's bias.

    slope * (key - row) shifts all scores of a row by slope * row, which softmax doesn't see; what is
    left, slope * key, is a product of the slope with the digits of the key. The output's added
    dimensions are 0.
    """
    batch, heads, rows, _ = q.shape
    _, kv_heads, keys, _ = k.shape
    key = torch.arange(keys, device=k.device)
    digits = torch.zeros(keys, BIAS_DIMS, device=k.device, dtype=k.dtype)
    weights = torch.zeros(heads, BIAS_DIMS, device=q.device, dtype=q.dtype)
    slope = torch.tensor(slopes, device=q.device, dtype=torch.float32)
    for place in range(3):
        digits[:, place] = key // DIGIT**place % DIGIT
        weights[:, place] = slope * DIGIT**place / scale
    more_q = weights[None, :, None].expand(batch, heads, rows, BIAS_DIMS)
    more_k = digits[None, None].expand(batch, kv_heads, keys, BIAS_DIMS)
    nothing = torch.zeros_like(more_k)
    return torch.cat([q, more_q], -1), torch.cat([k, more_k], -1), torch.cat([v, nothing], -1)
