"""PyTorch's operators tauserve::entmax_*: differentiable, and known to torch.compile by their shapes.

A row's threshold tau comes out with the output, float32 [batch, heads, tokens] (packed: [heads, tokens]): for alpha > 1
in units of (alpha - 1) * score, for softmax the log-sum-exp of the scores; on CUDA in cuda_ops' units. Backward needs
`out`, tau and the inputs, on CUDA what cuda_ops keeps, too: count, first and entries, empty elsewhere. `keep`: whether
a backward pass may come. A device is a row of _DEVICES, its types one of _DTYPES, and nothing else. Gradients have
none of their own.

PyTorch's dispatcher takes several times as long as all else that the host does for a call: forward() goes around it by
an autograd.Function where no one listens. PyTorch before 2.4 has no torch.library.register_autograd: there the
operators are differentiable by that function, too, and torch.compile does not see through them.
"""

from __future__ import annotations

import functools
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
_DTYPES = {"cpu": (torch.float32, torch.bfloat16), "cuda": cuda_ops.DTYPES}
_SHAPES = Kernels(_new_outputs, _new_gradients, _new_packed_outputs, _new_gradients)
_CUDA_SHAPES = Kernels(cuda_ops.new_outputs, cuda_ops.new_gradients, cuda_ops.new_packed_outputs,
                       cuda_ops.new_packed_gradients)


def _fake(name: str) -> Callable[..., Any]:
    """Outputs without contents, with the strides of the device's."""
    return lambda x, *rest: getattr(_CUDA_SHAPES if x.device.type == "cuda" else _SHAPES, name)(x, *rest)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    q, k, v, *rest, _ = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.packed = isinstance(rest[0], torch.Tensor)  # with offsets
    tensors = rest[:2] if ctx.packed else []
    ctx.rest = rest[len(tensors):]
    ctx.save_for_backward(q, k, v, *output, *tensors)


def _backward(ctx: Any, operators: Any, dout: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """By one of `operators`."""
    function = operators.entmax_varlen_backward if ctx.packed else operators.entmax_backward
    if operators is not ops and torch.is_grad_enabled():
        function = functools.partial(_Gradients.apply, function)
    gradients = function(dout, *ctx.saved_tensors, *ctx.rest)
    others = 2 * ctx.packed + len(ctx.rest) + 1  # offsets, options, keep
    return (*gradients, *[None] * others)


def _no_second_derivative(ctx: Any, *_: Any) -> None:
    raise RuntimeError("entmax attention has no second derivatives")


class _Gradients(torch.autograd.Function):
    """A backward function whose results are not to be taken for constants."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Any], *inputs: Any) -> Any:
        return function(*inputs)

    backward = staticmethod(_no_second_derivative)


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, name: str, *inputs: Any) -> Any:
        kernels = _DEVICES.get(inputs[0].device.type, _SHAPES)
        output = getattr(kernels, name)(*inputs)
        _setup_context(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, dout: torch.Tensor, *_: Any) -> Any:
        return None, *_backward(ctx, _DEVICES.get(dout.device.type, _SHAPES), dout)


def _register() -> torch.library.Library:
    library = torch.library.Library("tauserve", "DEF")
    modern = hasattr(torch.library, "register_autograd")
    tags = {"tags": (torch.Tag.pt2_compliant_tag,)} if modern else {}
    for name, schema in _SCHEMAS.items():
        library.define(name + schema, **tags)
        for device, kernels in _DEVICES.items():
            library.impl(name, getattr(kernels, name), device.upper())
        forward = name.endswith("_forward")
        if not modern:
            library.impl(name, _fake(name), "Meta")
            if forward:
                library.impl(name, functools.partial(_Differentiable.apply, name), "Autograd")
            continue
        torch.library.register_fake(f"tauserve::{name}", _fake(name), lib=library)
        if forward:
            torch.library.register_autograd(f"tauserve::{name}", lambda ctx, dout, *_: _backward(ctx, ops, dout),
                                            setup_context=_setup_context, lib=library)
        else:
            torch.library.register_autograd(f"tauserve::{name}", _no_second_derivative, lib=library)
    return library


_library = _register()  # its registrations live as long as it does
ops = torch.ops.tauserve


_compiling = getattr(getattr(torch, "compiler", None), "is_compiling", lambda: False)
_dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)
_transform = getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", lambda: None)
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def _nobody_listens(tensors: tuple[torch.Tensor, ...]) -> bool:
    """Whether no compiler, tracer, mode, transform or subclass of Tensor wants to see the operator."""
    return (not _compiling() and not torch.jit.is_tracing() and _dispatch_modes() == 0 and _transform() is None
            and all(type(x) in _PLAIN for x in tensors) and tensors[0].device.type in _DEVICES)


def forward(name: str, *inputs: Any) -> tuple[torch.Tensor, ...]:
    """The outputs of the operator `name`, with `inputs` that check() has let pass, less `keep`."""
    tensors = inputs[:3]
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    if not _nobody_listens(tensors):
        return getattr(ops, name)(*inputs, keep)
    if keep:
        return _Differentiable.apply(name, *inputs, keep)
    return getattr(_DEVICES[tensors[0].device.type], name)(*inputs, keep)


def tau_of(tau: torch.Tensor, alpha: list[float], scale: float) -> torch.Tensor:
    """A forward operator's tau, on every device in units of (alpha - 1) * score."""
    return cuda_ops.tau_of(tau, alpha, scale) if tau.device.type == "cuda" else tau


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
        dtypes = _DTYPES.get(x.device.type) or sum(_DTYPES.values(), ())
        if x.dtype not in dtypes:
            raise ValueError(f"{name} is {x.dtype}; on {x.device.type} it must be {' or '.join(map(str, dtypes))}")
        if x.stride(-1) != 1 and x.shape[-1] != 1:
            raise ValueError(f"{name}'s last dimension is not contiguous")
    if k.shape != v.shape:
        raise ValueError(f"k is {list(k.shape)} and v {list(v.shape)}: they differ in shape")
    if k.dtype != v.dtype:
        raise ValueError(f"k is {k.dtype} and v {v.dtype}")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q has head_dim {q.shape[-1]} and k {k.shape[-1]}")
