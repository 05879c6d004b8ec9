"""Exact entmax attention for NumPy arrays and PyTorch tensors, on the CPU and on Hopper GPUs.

On CUDA tensors are bfloat16 or float16, all of the same type, alpha is in (1, 2] and head_dim 64, 96, 128 or 256. On
the CPU arrays are float32 (NumPy, PyTorch) or bfloat16 (PyTorch) and are read where they lie. Results are of q's kind
and type. On PyTorch's tensors, entmax_attention and entmax_attention_varlen are differentiable by q, k and v (torch_ops
says how); EntmaxAttention is a layer made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _tauserve_kernels as _native
from .arguments import per_head, scale_or_default, window_or_all

if TYPE_CHECKING:
    from .torch_module import EntmaxAttention

__all__ = ["PAGE_SIZE", "EntmaxAttention", "PagedKvCache", "entmax_attention", "entmax_attention_varlen"]

PAGE_SIZE = 64  # tokens a page of a PagedKvCache holds


def __getattr__(name: str) -> Any:
    if name == "EntmaxAttention":  # PyTorch is optional
        from .torch_module import EntmaxAttention

        return EntmaxAttention
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _detached(array: Any) -> Any:
    return array.detach() if hasattr(array, "detach") else array


def _empty_like(array: Any) -> Any:
    if hasattr(array, "new_empty"):
        return array.new_empty(array.shape)
    return np.empty(array.shape, array.dtype)


def _empty_tau(q: Any) -> Any:
    if hasattr(q, "new_empty"):
        import torch

        return q.new_empty(q.shape[:3], dtype=torch.float32)
    return np.empty(q.shape[:3], np.float32)


def entmax_attention(
    q: Any,
    k: Any,
    v: Any,
    alpha: float | Sequence[float] = 1.5,
    causal: bool = True,
    scale: float | None = None,
    alibi_slopes: Sequence[float] | None = None,
    window: int | None = None,
    return_stats: bool = False,
    return_tau: bool = False,
    num_threads: int = 0,
) -> Any:
    """sum_j p_j v_j with p = entmax_alpha(scale * q . k), exactly: alpha 1 is softmax, 2 sparsemax.

    Args:
      q: [batch, heads, tokens, head_dim], the layout of PyTorch's scaled_dot_product_attention.
      k, v: [batch, kv_heads, kv_tokens, head_dim]. Query head h reads KV head h // (heads // kv_heads). The queries are
        the last `tokens` positions of kv_tokens.
      alpha: in [1, 2]; one number, or one a query head.
      causal: a query sees the keys up to its own position; else all.
      scale: of the scores; None: 1 / sqrt(head_dim).
      alibi_slopes: one a query head, >= 0: slope * (key position - query position) is added to the scores. Causal only.
      window: keys a query sees, itself included; None: all. Causal only.
      return_stats: also return a dict, summed over batch and heads: rows, keys_considered (visible), keys_scored,
        support (p > 0), blocks_* (64 queries x 64 keys of a head), tau_iterations, wide_rows, max_tau_residual. On the
        CPU alone.
      return_tau: also return each row's threshold, float32 [batch, heads, tokens]: a key has weight where
        (alpha - 1) * its score > tau, namely p = ((alpha - 1) * score - tau)^(1 / (alpha - 1)). For softmax the
        log-sum-exp of the scores.
      num_threads: 0: one a core.

    Returns:
      The output, shaped as q; with return_tau or return_stats a tuple of it, tau and the stats, whichever are asked
      for. PyTorch's output is differentiable by q, k and v, but for return_stats.

    Raises:
      ValueError: shapes that do not fit, a head_dim that is no multiple of 16 in [32, 256], numbers out of range.
      TypeError: arguments that are no CPU arrays.
    """
    if len(q.shape) != 4:
        raise ValueError(f"q has {len(q.shape)} dimensions, not 4")
    heads, head_dim = q.shape[1], q.shape[3]
    options = (per_head(alpha, heads, 1.5), per_head(alibi_slopes, heads, 0.0), scale_or_default(scale, head_dim),
               window_or_all(window), bool(causal), num_threads)
    if hasattr(q, "new_empty") and not return_stats:
        from . import torch_ops

        torch_ops.check(q, k, v, 4)
        out, tau, *_ = torch_ops.forward("entmax_forward", q, k, v, *options)
        return (out, torch_ops.tau_of(tau, options[0], options[2])) if return_tau else out
    if any(getattr(x, "requires_grad", False) for x in (q, k, v)):
        raise ValueError("return_stats comes without gradients: detach q, k and v")
    out = _empty_like(q)
    tau = _empty_tau(q) if return_tau else None
    stats = _native.attention(q, k, v, out, tau, None, None, *options)
    results = (out, *([tau] if return_tau else []), *([stats] if return_stats else []))
    return results if len(results) > 1 else out


def entmax_attention_varlen(
    q: Any,
    k: Any,
    v: Any,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any = None,
    max_seqlen_q: int = 0,
    max_seqlen_k: int = 0,
    alpha: float | Sequence[float] = 1.5,
    causal: bool = True,
    scale: float | None = None,
    alibi_slopes: Sequence[float] | None = None,
    window: int | None = None,
    num_threads: int = 0,
) -> Any:
    """entmax_attention of packed sequences of any lengths, each by itself, in the manner of flash_attn_varlen_func.

    Args:
      q: PyTorch tensor [tokens, heads, head_dim], the sequences one behind the other.
      k, v: [kv_tokens, kv_heads, head_dim].
      cu_seqlens_q, cu_seqlens_k: [sequences + 1] int32: where each one begins, and the end. The queries of a sequence
        are the last positions of its keys. None for the second: the same as the first.
      max_seqlen_q, max_seqlen_k: the longest lengths, if known; no device has a use for them so far.
      The rest: as for entmax_attention.

    Returns:
      The output, shaped as q. Differentiable by q, k and v.

    Raises:
      ValueError: as entmax_attention, and for offsets that do not fit.
    """
    from . import torch_ops

    torch_ops.check(q, k, v, 3)
    heads, head_dim = q.shape[1], q.shape[2]
    cu_seqlens_k = cu_seqlens_q if cu_seqlens_k is None else cu_seqlens_k
    return torch_ops.forward(
        "entmax_varlen_forward", q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
        per_head(alpha, heads, 1.5), per_head(alibi_slopes, heads, 0.0), scale_or_default(scale, head_dim),
        window_or_all(window), bool(causal), num_threads)[0]


class PagedKvCache:
    """Keys and values of many sequences in pages of PAGE_SIZE tokens, as servers keep them.

    A block table lists a sequence's pages in order; whose page is whose is the caller's business. Decoding streams
    through a one-byte shadow of the keys where the processor multiplies bytes, and reads a value only where p > 0.

    Args:
      num_pages: capacity. Memory is taken when pages are first written.
      num_kv_heads, head_dim: head_dim is a multiple of 16 in [32, 256].
      dtype: "bfloat16" or "float32": how keys and values are kept.
      num_threads: 0: one a core.
    """

    def __init__(self, num_pages: int, num_kv_heads: int, head_dim: int, dtype: str = "bfloat16",
                 num_threads: int = 0) -> None:
        self._cache = _native.PagedKvCache(num_pages, num_kv_heads, head_dim, dtype, num_threads)

    @property
    def num_pages(self) -> int:
        return self._cache.num_pages

    @property
    def num_kv_heads(self) -> int:
        return self._cache.num_kv_heads

    @property
    def head_dim(self) -> int:
        return self._cache.head_dim

    def append(self, k: Any, v: Any, block_table: Any, start: int) -> None:
        """Writes the keys and values of tokens [start, start + tokens) of one sequence, which come in order.

        Args:
          k, v: [tokens, kv_heads, head_dim].
          block_table: [pages] int32, the sequence's pages, at least up to its last new token.
          start: tokens the sequence has already.
        """
        self._cache.append(_detached(k), _detached(v), _table(block_table), start)

    def decode(
        self,
        q: Any,
        block_tables: Any,
        seq_lens: Any,
        alpha: float | Sequence[float] = 1.5,
        scale: float | None = None,
        alibi_slopes: Sequence[float] | None = None,
        window: int | None = None,
        return_stats: bool = False,
    ) -> Any:
        """Attention of one query for each sequence, its newest token.

        Args:
          q: [batch, heads, head_dim].
          block_tables: [batch, pages] int32; what lies behind a sequence's last page is not read.
          seq_lens: [batch] int32: tokens of each sequence, the newest one, already appended, included.
          The rest: as for entmax_attention.

        Returns:
          The output, shaped as q; with return_stats, a pair (output, stats).
        """
        q = _detached(q)
        if len(q.shape) != 3:
            raise ValueError(f"q has {len(q.shape)} dimensions, not 3")
        heads, head_dim = q.shape[1], q.shape[2]
        out = _empty_like(q)
        stats = self._cache.decode(
            q, out, _table(block_tables), _table(seq_lens), per_head(alpha, heads, 1.5),
            per_head(alibi_slopes, heads, 0.0), scale_or_default(scale, head_dim), window_or_all(window))
        return (out, stats) if return_stats else out


def _table(values: Any) -> Any:
    return np.ascontiguousarray(_detached(values), dtype=np.int32)
