"""EntmaxAttention: a layer for PyTorch models."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from . import entmax_attention


class EntmaxAttention(torch.nn.Module):
    """torch.nn.MultiheadAttention with entmax weights: its constructor, its parameters (a state dict of either loads
    into the other) and its call, for inputs [batch, tokens, embed_dim].

    Args:
      embed_dim, num_heads, bias: as of torch.nn.MultiheadAttention. embed_dim / num_heads is a multiple of 16 in
        [32, 256].
      alpha: in [1, 2]; one number, or one a head.
      alibi_slopes, window: as of entmax_attention, for causal attention.
    """

    # torch.nn.TransformerEncoderLayer reads these. It would take the second for leave to compute softmax by itself.
    batch_first = True
    _qkv_same_embed_dim = False

    def __init__(self, embed_dim: int, num_heads: int, bias: bool = True, alpha: float | Sequence[float] = 1.5,
                 alibi_slopes: Sequence[float] | None = None, window: int | None = None,
                 device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is no multiple of {num_heads} heads")
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        if self.head_dim % 16 or not 32 <= self.head_dim <= 256:
            raise ValueError(f"embed_dim / num_heads is {self.head_dim}, not a multiple of 16 in [32, 256]")
        self.alpha, self.alibi_slopes, self.window = alpha, alibi_slopes, window
        kind = {"device": device, "dtype": dtype}
        self.in_proj_weight = torch.nn.Parameter(torch.empty(3 * embed_dim, embed_dim, **kind))
        self.in_proj_bias = torch.nn.Parameter(torch.zeros(3 * embed_dim, **kind)) if bias else None
        self.out_proj = torch.nn.Linear(embed_dim, embed_dim, bias=bias, **kind)
        torch.nn.init.xavier_uniform_(self.in_proj_weight)
        if bias:
            torch.nn.init.zeros_(self.out_proj.bias)

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, alpha={self.alpha}"

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                key_padding_mask: torch.Tensor | None = None, need_weights: bool = False,
                attn_mask: torch.Tensor | None = None, average_attn_weights: bool = True,
                is_causal: bool = False) -> tuple[torch.Tensor, None]:
        """The output [batch, tokens, embed_dim], and None for the weights, which are never formed.

        Args:
          query, key, value: [batch, tokens, embed_dim].
          is_causal: a token sees those up to its own position; of different lengths, the queries are the last ones.
          attn_mask: only with is_causal, as torch.nn wants it there: then it is the causal mask, and is not read.
        """
        if key_padding_mask is not None:
            raise ValueError("key_padding_mask: pack sequences without padding, for entmax_attention_varlen")
        if attn_mask is not None and not is_causal:
            raise ValueError("attn_mask: is_causal, window and alibi_slopes are the masks there are")
        for name, x in (("query", query), ("key", key), ("value", value)):
            if x.dim() != 3 or x.shape[-1] != self.embed_dim:
                raise ValueError(f"{name} is {list(x.shape)}, not [batch, tokens, {self.embed_dim}]")
        weights = self.in_proj_weight.chunk(3)
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            torch.nn.functional.linear(x, w, b).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases))
        out = entmax_attention(q, k, v, self.alpha, is_causal, alibi_slopes=self.alibi_slopes, window=self.window)
        return self.out_proj(out.transpose(1, 2).flatten(2)), None
