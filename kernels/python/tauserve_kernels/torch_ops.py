"""PyTorch's operators tauserve::entmax_*: differentiable, and known to torch.compile by their shapes.

A row's threshold tau comes out with the output, float32 [batch, heads, tokens] (packed: [heads, tokens]): for alpha > 1
in units of (alpha - 1) * score, for softmax the log-sum-exp of the scores. Backward needs `out`, tau and the inputs, on
CUDA what cuda_ops keeps, too: count, first and entries, empty elsewhere. `keep`: whether a backward pass may come. A
device is a row of _DEVICES and nothing else.

PyTorch before 2.4 has no torch.library.register_autograd: there the same operators are differentiable by an
autograd.Function, and torch.compile does not see through them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from . import _tauserve_kernels as _native
from . import cuda_ops

_OPTIONS = "float[] alpha, float[] alibi_slopes, float scale, int window, bool causal, int num_threads"
_PACKED = "Tensor cu_seqlens_q, Tensor cu_seqlens_k, int max_seqlen_q, int max_seqlen_k"
_RESULT = "(Tensor out, Tensor tau, Tensor count, Tensor first, Tensor entries)"
_KNOWN = "Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, Tensor tau, Tensor count, Tensor first, Tensor entries"
_GRADIENTS = "(Tensor dq, Tensor dk, Tensor dv)"
_SCHEMAS = {
    "entmax_forward": f"(Tensor q, Tensor k, Tensor v, {_OPTIONS}, bool keep) -> {_RESULT}",
    "entmax_backward": f"({_KNOWN}, {_OPTIONS}) -> {_GRADIENTS}",
    "entmax_varlen_forward": f"(Tensor q, Tensor k, Tensor v, {_PACKED}, {_OPTIONS}, bool keep) -> {_RESULT}",
    "entmax_varlen_backward": f"({_KNOWN}, {_PACKED}, {_OPTIONS}) -> {_GRADIENTS}",
}


class Kernels(NamedTuple):
    """One device's functions, with the arguments of their schemas."""

    entmax_forward: Callable[..., Any]
    entmax_backward: Callable[..., Any]
    entmax_varlen_forward: Callable[..., Any]
    entmax_varlen_backward: Callable[..., Any]


def _nothing_kept(q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return q.new_empty(0, dtype=torch.int32), q.new_empty(0, dtype=torch.int64), q.new_empty(0, dtype=torch.int32)


def _new_outputs(q: torch.Tensor, *_: Any) -> tuple[torch.Tensor, ...]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:-1], dtype=torch.float32), *_nothing_kept(q)


def _new_packed_outputs(q: torch.Tensor, *_: Any) -> tuple[torch.Tensor, ...]:
    return q.new_empty(q.shape), q.new_empty((q.shape[1], q.shape[0]), dtype=torch.float32), *_nothing_kept(q)


def _new_gradients(dout: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                   *_: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    # Zeros: a packed sequence without queries leaves its keys alone.
    return q.new_empty(q.shape), k.new_zeros(k.shape), v.new_zeros(v.shape)


def _last_contiguous(x: torch.Tensor) -> torch.Tensor:
    x = x.detach()
    return x if x.stride(-1) == 1 else x.contiguous()


def _offsets(cu_seqlens: torch.Tensor) -> torch.Tensor:
    return cu_seqlens.detach().to(torch.int32).contiguous()


def _cpu_forward(q, k, v, *options):
    *options, _ = options
    outputs = _new_outputs(q)
    _native.attention(q.detach(), k.detach(), v.detach(), *outputs[:2], None, None, *options)
    return outputs


def _cpu_varlen_forward(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, *options):
    *options, _ = options
    outputs = _new_packed_outputs(q)
    _native.attention(q.detach(), k.detach(), v.detach(), *outputs[:2], _offsets(cu_seqlens_q), _offsets(cu_seqlens_k),
                      *options)
    return outputs


def _cpu_backward(dout, q, k, v, out, tau, count, first, entries, *options):
    gradients = _new_gradients(dout, q, k, v)
    _native.attention_backward(_last_contiguous(dout), q.detach(), k.detach(), v.detach(), tau.detach(), *gradients,
                               None, None, *options)
    return gradients


def _cpu_varlen_backward(dout, q, k, v, out, tau, count, first, entries, cu_seqlens_q, cu_seqlens_k, max_seqlen_q,
                         max_seqlen_k, *options):
    gradients = _new_gradients(dout, q, k, v)
    _native.attention_backward(_last_contiguous(dout), q.detach(), k.detach(), v.detach(), tau.detach(), *gradients,
                               _offsets(cu_seqlens_q), _offsets(cu_seqlens_k), *options)
    return gradients


_DEVICES = {
    "cpu": Kernels(_cpu_forward, _cpu_backward, _cpu_varlen_forward, _cpu_varlen_backward),
    "cuda": Kernels(cuda_ops.entmax_forward, cuda_ops.entmax_backward, cuda_ops.entmax_varlen_forward,
                    cuda_ops.entmax_varlen_backward),
}
_SHAPES = Kernels(_new_outputs, _new_gradients, _new_packed_outputs, _new_gradients)
_CUDA_SHAPES = Kernels(cuda_ops.new_outputs, cuda_ops.new_gradients, cuda_ops.new_packed_outputs,
                       cuda_ops.new_packed_gradients)


def _fake(name: str) -> Callable[..., Any]:
    """Outputs without contents, with the strides of the device's."""
    return lambda x, *rest: getattr(_CUDA_SHAPES if x.device.type == "cuda" else _SHAPES, name)(x, *rest)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    q, k, v, *rest, _ = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.packed = isinstance(rest[0], torch.Tensor)  # with offsets
    tensors = rest[:2] if ctx.packed else []
    ctx.rest = rest[len(tensors):]
    ctx.save_for_backward(q, k, v, *output, *tensors)


def _backward(ctx: Any, dout: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
    op = ops.entmax_varlen_backward if ctx.packed else ops.entmax_backward
    gradients = op(dout, *ctx.saved_tensors, *ctx.rest)
    others = 2 * ctx.packed + len(ctx.rest) + 1  # offsets, options, keep
    return (*gradients, *[None] * others)


def _register_function(library: torch.library.Library, name: str) -> None:
    """Differentiability before register_autograd."""

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            kernels = _DEVICES.get(inputs[0].device.type, _SHAPES)
            output = getattr(kernels, name)(*inputs)
            _setup_context(ctx, inputs, output)
            return output

        backward = staticmethod(_backward)

    library.impl(name, lambda *inputs: Differentiable.apply(*inputs), "Autograd")


def _register() -> torch.library.Library:
    library = torch.library.Library("tauserve", "DEF")
    modern = hasattr(torch.library, "register_autograd")
    tags = {"tags": (torch.Tag.pt2_compliant_tag,)} if modern else {}
    for name, schema in _SCHEMAS.items():
        library.define(name + schema, **tags)
        for device, kernels in _DEVICES.items():
            library.impl(name, getattr(kernels, name), device.upper())
        if modern:
            torch.library.register_fake(f"tauserve::{name}", _fake(name), lib=library)
        else:
            library.impl(name, _fake(name), "Meta")
        if not name.endswith("_forward"):
            continue
        if modern:
            torch.library.register_autograd(f"tauserve::{name}", _backward, setup_context=_setup_context, lib=library)
        else:
            _register_function(library, name)
    return library


_library = _register()  # its registrations live as long as it does
ops = torch.ops.tauserve


def backward_may_come(*inputs: torch.Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in inputs)


def check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dims: int) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{name} is no tensor, as q is, but {type(x).__name__}")
        if x.dim() != dims:
            raise ValueError(f"{name} has {x.dim()} dimensions, not {dims}")
        if x.device.type not in _DEVICES and x.device.type != "meta":
            raise ValueError(f"{name} is on {x.device}; entmax attention runs on {', '.join(_DEVICES)}")
        if x.device != q.device:
            raise ValueError(f"{name} is on {x.device} and q on {q.device}")
        if x.dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"{name} is {x.dtype}, neither float32 nor bfloat16")
        if x.stride(-1) != 1 and x.shape[-1] != 1:
            raise ValueError(f"{name}'s last dimension is not contiguous")
    if k.shape != v.shape:
        raise ValueError(f"k is {list(k.shape)} and v {list(v.shape)}: they differ in shape")
    if k.dtype != v.dtype:
        raise ValueError(f"k is {k.dtype} and v {v.dtype}")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q has head_dim {q.shape[-1]} and k {k.shape[-1]}")
