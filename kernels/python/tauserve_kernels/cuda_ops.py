"""The operators on CUDA tensors: libtauserve_training.so beside this file, called as kernels/cuda/training_api.h says.

The forward pass keeps, for the backward pass, each row's threshold in units of q . k, the number of its keys with
weight, the place of their entries (-1: not kept) and the entries, 4 bytes each; these take at most as much memory as q,
k, v and the output. Other rows are made again.

What a call needs beside its tensors is made once for a shape: up to 8k tokens the host's time is what bounds it.
"""

from __future__ import annotations

import ctypes
import functools
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

_LIBRARY = pathlib.Path(__file__).with_name("libtauserve_training.so")
_ELEMENTS = {torch.bfloat16: 0, torch.float16: 1}  # TauserveElement
DTYPES = tuple(_ELEMENTS)


class _Batch(ctypes.Structure):
    _fields_ = [
        ("sequences", ctypes.c_void_p),
        ("host_sequences", ctypes.c_void_p),
        ("heads", ctypes.c_void_p),
        ("host_heads", ctypes.c_void_p),
        ("num_sequences", ctypes.c_int32),
        ("num_tokens", ctypes.c_int32),
        ("num_keys", ctypes.c_int32),
        ("num_heads", ctypes.c_int32),
        ("num_kv_heads", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("sliding_window", ctypes.c_int32),
        ("causal", ctypes.c_int32),
        ("element", ctypes.c_int32),
    ]


class _Kept(ctypes.Structure):
    _fields_ = [
        ("threshold", ctypes.c_void_p),
        ("count", ctypes.c_void_p),
        ("first", ctypes.c_void_p),
        ("entries", ctypes.c_void_p),
        ("capacity", ctypes.c_int64),
        ("used", ctypes.c_void_p),
    ]


@functools.lru_cache(maxsize=None)
def _library() -> ctypes.CDLL:
    if not _LIBRARY.exists():
        raise RuntimeError("tauserve_kernels was built without CUDA: install it again where nvcc 13 is on the PATH")
    library = ctypes.CDLL(str(_LIBRARY))
    pointer, batch = ctypes.c_void_p, ctypes.POINTER(_Batch)
    kept, int64, int32 = ctypes.POINTER(_Kept), ctypes.c_int64, ctypes.c_int32
    functions: dict[str, tuple[Any, list[Any]]] = {
        "refusal": (ctypes.c_char_p, [batch]),
        "forward_workspace_bytes": (int64, [batch]),
        "backward_workspace_bytes": (int64, [batch, int64, int32]),
        "forward": (ctypes.c_char_p, [batch, *[pointer] * 4, kept, pointer, int64, pointer]),
        "backward": (ctypes.c_char_p, [batch, *[pointer] * 7, kept, int32, pointer, int64, pointer]),
    }
    for name, (result, arguments) in functions.items():
        function = getattr(library, f"tauserve_{name}")
        function.restype, function.argtypes = result, arguments
    return library


class _Table:
    """Rows of numbers in host and in device memory."""

    def __init__(self, rows: Sequence[Sequence[float]], dtype: torch.dtype, device: torch.device) -> None:
        self.host = torch.tensor(rows, dtype=dtype)
        self.device = self.host.to(device)


class _Sequences(_Table):
    """First token, tokens, first key and keys of every sequence."""

    def __init__(self, rows: Sequence[Sequence[int]], device: torch.device) -> None:
        super().__init__(rows, torch.int32, device)
        self.short_of_keys = any(keys < tokens for _, tokens, _, keys in rows)


class _Heads(_Table):
    """alpha and ALiBi slope of every head."""

    def __init__(self, alpha: tuple[float, ...], slopes: tuple[float, ...], device: torch.device) -> None:
        super().__init__(list(zip(alpha, slopes)), torch.float32, device)


_heads = functools.lru_cache(maxsize=256)(_Heads)


def _packed_sequences(cu_seqlens_q: torch.Tensor, cu_seqlens_k: torch.Tensor, num_tokens: int, num_keys: int,
                      device: torch.device) -> _Sequences:
    """Waits for the device where the offsets lie there: work is planned on the host."""
    begins, key_begins = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    if len(begins) != len(key_begins) or len(begins) < 2:
        raise ValueError(f"cu_seqlens_q has {len(begins)} elements and cu_seqlens_k {len(key_begins)}: not as many, or "
                         "fewer than 2")
    for name, offsets, end in (("cu_seqlens_q", begins, num_tokens), ("cu_seqlens_k", key_begins, num_keys)):
        if offsets[0] != 0 or offsets[-1] != end or any(a > b for a, b in zip(offsets, offsets[1:])):
            raise ValueError(f"{name} does not rise from 0 to {end}")
    rows = [(a, b - a, c, d - c) for a, b, c, d in zip(begins, begins[1:], key_begins, key_begins[1:]) if b > a]
    return _Sequences(rows, device)


class _Options(NamedTuple):
    alpha: tuple[float, ...]  # of each head, as alibi_slopes
    alibi_slopes: tuple[float, ...]
    scale: float
    window: int
    causal: bool


class _Plan:
    """All of a call but its tensors, which are contiguous: q [tokens, heads, head_dim], k and v [keys, kv_heads,
    head_dim].

    shape: tokens, keys, heads, kv_heads, head_dim.
    """

    def __init__(self, sequences: _Sequences, shape: tuple[int, ...], options: _Options, dtype: torch.dtype,
                 device: torch.device) -> None:
        tokens, keys, heads, kv_heads, head_dim = shape
        alpha, alibi_slopes, scale, window, causal = options
        if any(not 1 < a <= 2 for a in alpha):
            raise ValueError(f"alpha is {list(alpha)}; on CUDA it must be in (1, 2], scaled_dot_product_attention has "
                             "softmax")
        if scale <= 0:
            raise ValueError(f"scale is {scale}; on CUDA it must be positive")
        if kv_heads == 0 or heads % kv_heads:
            raise ValueError(f"q has {heads} heads, no multiple of k's {kv_heads}")
        for name, values in (("alpha", alpha), ("alibi_slopes", alibi_slopes)):
            if len(values) != heads:
                raise ValueError(f"{name} has {len(values)} numbers for {heads} heads")
        if any(not 0 <= x < math.inf for x in alibi_slopes):
            raise ValueError(f"alibi_slopes is {list(alibi_slopes)}; slopes are not negative")
        if not causal and (window or any(alibi_slopes)):
            raise ValueError("window and alibi_slopes are for causal attention")
        if sequences.short_of_keys:
            raise ValueError("a sequence has more queries than keys; on CUDA its queries must be the last of its keys")
        self.device = device
        self.sequences = sequences
        self.heads = _heads(alpha, alibi_slopes, device)
        self.batch = _Batch(
            sequences.device.data_ptr(), sequences.host.data_ptr(), self.heads.device.data_ptr(),
            self.heads.host.data_ptr(), len(sequences.host), tokens, keys, heads, kv_heads, head_dim, scale, window,
            int(causal), _ELEMENTS[dtype])
        with torch.cuda.device(device):
            refusal = _library().tauserve_refusal(self.batch)
        if refusal:
            raise ValueError(refusal.decode())
        self.forward_bytes = _library().tauserve_forward_workspace_bytes(self.batch)
        self._backward_bytes: dict[tuple[int, int], int] = {}

    def backward_bytes(self, entries: int, deterministic: int) -> int:
        size = self._backward_bytes.get((entries, deterministic))
        if size is None:
            size = _library().tauserve_backward_workspace_bytes(self.batch, entries, deterministic)
            self._backward_bytes[entries, deterministic] = size
        return size

    def run(self, name: str, workspace_bytes: int, *arguments: Any) -> None:
        workspace = torch.empty(workspace_bytes, dtype=torch.uint8, device=self.device)
        stream = torch.cuda.current_stream(self.device).cuda_stream
        call = functools.partial(getattr(_library(), f"tauserve_{name}"), self.batch, *arguments,
                                 workspace.data_ptr(), workspace_bytes, stream)
        if torch.cuda.current_device() == self.device.index:
            error = call()
        else:
            with torch.cuda.device(self.device):
                error = call()
        if error:
            raise RuntimeError(f"entmax attention failed: {error.decode()}")


@functools.lru_cache(maxsize=256)
def _equal_plan(batch: int, tokens: int, keys: int, heads: int, kv_heads: int, head_dim: int, options: _Options,
                dtype: torch.dtype, device: torch.device) -> _Plan:
    """Of `batch` sequences of equal lengths."""
    sequences = _Sequences([(i * tokens, tokens, i * keys, keys) for i in range(batch)], device)
    return _Plan(sequences, (batch * tokens, batch * keys, heads, kv_heads, head_dim), options, dtype, device)


def _check_types(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    if q.dtype not in _ELEMENTS or k.dtype != q.dtype or v.dtype != q.dtype:
        raise ValueError(f"q is {q.dtype}, k {k.dtype} and v {v.dtype}; on CUDA all must be bfloat16, or all float16")


def capacity(q: torch.Tensor, k: torch.Tensor) -> int:
    """Entries that a forward pass may keep: as many bytes as q, k, v and the output have."""
    return (2 * q.numel() + 2 * k.numel()) * 2 // 4


def _new_kept(q: torch.Tensor, k: torch.Tensor, keep: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = q.numel() // q.shape[-1]
    return (q.new_empty(rows, dtype=torch.int32), q.new_empty(rows, dtype=torch.int64),
            q.new_empty(capacity(q, k) if keep else 0, dtype=torch.int32))


def _forward(plan: _Plan, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, keep: bool) -> tuple[torch.Tensor, ...]:
    """out and thresholds [tokens, heads(, head_dim)], then count, first and entries."""
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out, threshold = torch.empty_like(q), q.new_empty(q.shape[:2], dtype=torch.float32)
    count, first, entries = _new_kept(q, k, keep)
    if out.numel() == 0:
        return out, threshold, count, first, entries
    used = q.new_empty(1, dtype=torch.int64)
    kept = _Kept(threshold.data_ptr(), count.data_ptr(), first.data_ptr(), entries.data_ptr(), entries.numel(),
                 used.data_ptr())
    plan.run("forward", plan.forward_bytes, q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), kept)
    return out, threshold, count, first, entries


def _backward(plan: _Plan, dout: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
              threshold: torch.Tensor, count: torch.Tensor, first: torch.Tensor,
              entries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """dout and threshold as _forward's out and threshold."""
    if dout.dtype != q.dtype:
        raise ValueError(f"dout is {dout.dtype}, the output {q.dtype}")
    dout, q, k, v, threshold = (x.contiguous() for x in (dout, q, k, v, threshold))
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    if dq.numel() == 0:
        return dq, dk.zero_(), dv.zero_()
    deterministic = int(torch.are_deterministic_algorithms_enabled())
    kept = _Kept(threshold.data_ptr(), count.data_ptr(), first.data_ptr(), entries.data_ptr(), entries.numel(), None)
    pointers = [x.data_ptr() for x in (q, k, v, dout, dq, dk, dv)]
    plan.run("backward", plan.backward_bytes(entries.numel(), deterministic), *pointers, kept, deterministic)
    return dq, dk, dv


def new_outputs(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *options: Any) -> tuple[torch.Tensor, ...]:
    batch, heads, tokens, head_dim = q.shape
    tau = q.new_empty((batch, tokens, heads), dtype=torch.float32).transpose(1, 2)
    return _new_like(q), tau, *_new_kept(q, k, options[-1])


def new_packed_outputs(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *options: Any) -> tuple[torch.Tensor, ...]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=torch.float32).T, *_new_kept(q, k, options[-1])


def new_gradients(dout: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                  *_: Any) -> tuple[torch.Tensor, ...]:
    return _new_like(q), _new_like(k), _new_like(v)


def new_packed_gradients(dout: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                         *_: Any) -> tuple[torch.Tensor, ...]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _new_like(x: torch.Tensor) -> torch.Tensor:
    batch, heads, tokens, head_dim = x.shape
    return x.new_empty((batch, tokens, heads, head_dim)).transpose(1, 2)


def _rows(x: torch.Tensor) -> torch.Tensor:
    """[batch, heads, tokens, ...] -> [batch * tokens, heads, ...]."""
    return x.transpose(1, 2).flatten(0, 1)


def _unrow(x: torch.Tensor, batch: int) -> torch.Tensor:
    return x.view(batch, x.shape[0] // batch, *x.shape[1:]).transpose(1, 2)


def _equal_plan_of(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: Sequence[Any]) -> _Plan:
    _check_types(q, k, v)
    alpha, alibi_slopes, *rest = options
    batch, heads, tokens, head_dim = q.shape
    return _equal_plan(batch, tokens, k.shape[2], heads, k.shape[1], head_dim,
                       _Options(tuple(alpha), tuple(alibi_slopes), *rest), q.dtype, q.device)


def entmax_forward(q, k, v, *options):
    *options, _, keep = options  # without num_threads
    out, threshold, *kept = _forward(_equal_plan_of(q, k, v, options), _rows(q), _rows(k), _rows(v), keep)
    return _unrow(out, q.shape[0]), _unrow(threshold, q.shape[0]), *kept


def entmax_backward(dout, q, k, v, out, threshold, count, first, entries, *options):
    *options, _ = options
    tensors = [_rows(x) for x in (dout, q, k, v, threshold)]
    gradients = _backward(_equal_plan_of(q, k, v, options), *tensors, count, first, entries)
    return tuple(_unrow(x, q.shape[0]) for x in gradients)


def _packed_plan(q, k, v, cu_seqlens_q, cu_seqlens_k, options: Sequence[Any]) -> _Plan:
    _check_types(q, k, v)
    alpha, alibi_slopes, *rest = options
    sequences = _packed_sequences(cu_seqlens_q, cu_seqlens_k, q.shape[0], k.shape[0], q.device)
    return _Plan(sequences, (q.shape[0], k.shape[0], q.shape[1], k.shape[1], q.shape[2]),
                 _Options(tuple(alpha), tuple(alibi_slopes), *rest), q.dtype, q.device)


def entmax_varlen_forward(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, *options):
    *options, _, keep = options
    out, threshold, *kept = _forward(_packed_plan(q, k, v, cu_seqlens_q, cu_seqlens_k, options), q, k, v, keep)
    return out, threshold.T, *kept


def entmax_varlen_backward(dout, q, k, v, out, threshold, count, first, entries, cu_seqlens_q, cu_seqlens_k,
                           max_seqlen_q, max_seqlen_k, *options):
    *options, _ = options
    plan = _packed_plan(q, k, v, cu_seqlens_q, cu_seqlens_k, options)
    return _backward(plan, dout, q, k, v, threshold.T, count, first, entries)


def tau_of(threshold: torch.Tensor, alpha: Sequence[float], scale: float) -> torch.Tensor:
    """Thresholds [batch, heads, tokens] in units of (alpha - 1) * score."""
    return threshold * threshold.new_tensor([(a - 1) * scale for a in alpha])[:, None]
