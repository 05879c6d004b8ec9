"""Gradients of the Python package against autograd through PyPI's entmax in float64; PyTorch's tests of operators."""

import pathlib
import random
import sys

import pytest
import tauserve_kernels as tk
import torch
from problems import problem, reference, reference_scores
from tauserve_kernels import cuda_ops, torch_ops

SEED = random.SystemRandom().randrange(2**32)
EXAMPLES = pathlib.Path(__file__).parents[3] / "kernels/python/examples"
needs_operators = pytest.mark.skipif(not hasattr(torch.library, "register_autograd"),
                                     reason=f"PyTorch {torch.__version__} is older than torch.compile's operators, 2.4")


@pytest.fixture(autouse=True)
def rng():
    print(f"seed {SEED}")
    torch.manual_seed(SEED)
    return random.Random(SEED)


def gradients(function, inputs, dout, **options):
    inputs = [x.detach().requires_grad_() for x in inputs]
    function(*inputs, **options).backward(dout)
    return [x.grad for x in inputs]


def worst(got, expected):
    """Of a row, relative to its norm or, if that is more, to the mean of all rows' norms."""
    errors = []
    for g, e in zip(got, expected):
        norms = e.double().norm(dim=-1)
        norms = norms.clamp_min(max(norms.mean().item(), 1e-30))
        errors.append(((g.double() - e.double()).norm(dim=-1) / norms).max().item())
    return max(errors)


def silence(dout, inputs, options):
    """For alpha > 1.5 a weight's slope rises infinitely fast from zero above the threshold (at 2 it jumps), so that the
    rounding of a score near it decides. Rows with such a key get no gradient."""
    alphas = options.get("alpha", 1.5)
    alphas = [alphas] * dout.shape[1] if isinstance(alphas, (int, float)) else alphas
    q, k, _ = inputs
    identity = torch.eye(k.shape[2], dtype=torch.float64).expand(*k.shape[:2], -1, -1)
    p = reference(q, k, identity, **options)
    scores = reference_scores(q, k, **options)
    for h, alpha in enumerate(alphas):
        if alpha > 1.5:
            top = scores[:, h].max(-1, keepdim=True).values
            margin = (alpha - 1) * (scores[:, h] - top) + p[:, h].max(-1, keepdim=True).values ** (alpha - 1)
            dout[:, h] *= (margin.abs().min(-1, keepdim=True).values > 1e-2).to(dout.dtype)
    return dout


def compare(inputs, slopes=None, **options):
    dout = silence(torch.randn_like(inputs[0]), inputs, {"slopes": slopes, **options})
    expected = gradients(reference, [x.double() for x in inputs], dout.double(), slopes=slopes, **options)
    got = gradients(tk.entmax_attention, inputs, dout, alibi_slopes=slopes, **options)
    assert all(g.dtype == x.dtype and g.shape == x.shape for g, x in zip(got, inputs))
    return worst(got, expected)


@pytest.mark.parametrize("alpha", [1, 1.25, 1.5, 1.8, 2])
def test_every_alpha(rng, alpha):
    for _ in range(2):
        assert compare(problem(rng, tokens=rng.randint(1, 150)), alpha=alpha) < 1e-4


def test_bfloat16(rng):
    for _ in range(2):
        assert compare(problem(rng, torch.bfloat16, tokens=rng.randint(1, 150))) < 1e-2


def test_masks_biases_and_mixed_heads(rng):
    for _ in range(3):
        q, k, v = problem(rng, tokens=rng.randint(1, 150))
        heads = q.shape[1]
        options = {"alpha": [rng.choice([1, 1.3, 1.5, 2]) for _ in range(heads)], "scale": rng.choice([-0.3, 0.2])}
        if rng.random() < 0.3:
            options["causal"] = False
        else:
            options["slopes"] = [rng.choice([0, 0.02, 0.5]) for _ in range(heads)]
            options["window"] = rng.choice([None, 1, 50])
        assert compare((q, k, v), **options) < 1e-4


def test_any_strides_and_gradients_by_one_input(rng):
    q, k, v = problem(rng)
    dout = torch.randn(1).expand_as(q)  # as sum() makes it
    expected = gradients(tk.entmax_attention, (q, k, v), dout.contiguous())
    major = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    assert all(torch.equal(a, b) for a, b in zip(gradients(tk.entmax_attention, major, dout), expected))
    k.requires_grad_()
    tk.entmax_attention(q, k, v).backward(dout)
    assert torch.equal(k.grad, expected[1]) and q.grad is None


def test_threads_do_not_change_a_bit(rng):
    inputs = problem(rng, tokens=1300)
    dout = torch.randn_like(inputs[0])
    one, three = (gradients(tk.entmax_attention, inputs, dout, num_threads=n) for n in (1, 3))
    assert all(torch.equal(a, b) for a, b in zip(one, three))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_sequences_are_the_separate_ones(rng, dtype):
    heads, kv_heads, dim = 4, 2, 64
    keys = [1, 77, 64, 130, rng.randint(1, 300)]
    queries = [rng.randint(0, n) for n in keys]
    queries[1] = 0  # its keys get zeros
    q = torch.randn(sum(queries), heads, dim).to(dtype)
    k, v = torch.randn(2, sum(keys), kv_heads, dim).to(dtype)
    cu_q, cu_k = (torch.tensor([0, *n]).cumsum(0).int() for n in (queries, keys))
    dout = torch.randn_like(q)
    got = gradients(tk.entmax_attention_varlen, (q, k, v), dout, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k, window=100)

    def separately(q, k, v):
        parts = []
        for i, n in enumerate(queries):
            if n:
                one = [x[c[i] : c[i + 1]].transpose(0, 1)[None] for x, c in ((q, cu_q), (k, cu_k), (v, cu_k))]
                parts.append(tk.entmax_attention(*one, window=100)[0].transpose(0, 1))
        return torch.cat(parts)

    assert torch.equal(tk.entmax_attention_varlen(q, k, v, cu_q, cu_k, window=100), separately(q, k, v))
    assert worst(got, gradients(separately, (q, k, v), dout)) < (1e-5 if dtype == torch.float32 else 1e-2)
    same = tk.entmax_attention_varlen(q, k[: len(q)], v[: len(q)], cu_q)
    assert same.shape == q.shape


def test_bad_packed_arguments():
    q, k = torch.randn(10, 4, 64), torch.randn(10, 2, 64)
    offsets = torch.tensor([0, 4, 10], dtype=torch.int32)
    for args in (
        (q[None], k, k, offsets), (q, k, k[:9], offsets), (q, k, k, offsets[:2]), (q, k, k, offsets + 1),
        (q, k, k, torch.tensor([0, 11, 10])), (q, k, k, offsets, torch.tensor([0, 3, 10])),
        (q, k, k, offsets, torch.tensor([0, 10])), (q[:, :3], k, k, offsets), (q, k, k.bfloat16(), offsets),
    ):
        with pytest.raises(ValueError):
            tk.entmax_attention_varlen(*args)
    with pytest.raises(TypeError, match="no tensor"):
        tk.entmax_attention_varlen(q, k.numpy(), k, offsets)
    with pytest.raises(ValueError, match="return_stats"):
        tk.entmax_attention(torch.randn(1, 1, 4, 32, requires_grad=True), *torch.randn(2, 1, 1, 4, 32),
                            return_stats=True)


def test_types_of_devices():
    """What CUDA's operators refuse before they look for a GPU, and types where there is none."""
    q, k = torch.randn(1, 4, 10, 64), torch.randn(1, 2, 10, 64)
    half, brain = torch.float16, torch.bfloat16
    with pytest.raises(ValueError, match="q is torch.float16; on cpu it must be torch.float32 or torch.bfloat16"):
        tk.entmax_attention(q.half(), k.half(), k.half())
    options = ([1.5] * 4, [0.0] * 4, 0.125, 0, True, 0, True)
    cu = torch.tensor([0, 10], dtype=torch.int32)
    for types in ((half, brain, brain), (half, half, brain), (brain, half, half), (torch.float32,) * 3):
        inputs = [x.to(t) for x, t in zip((q, k, k), types)]
        message = f"q is {types[0]}, k {types[1]} and v {types[2]}; on CUDA all must be bfloat16, or all float16"
        with pytest.raises(ValueError, match=message):
            cuda_ops.entmax_forward(*inputs, *options)
        with pytest.raises(ValueError, match=message):
            cuda_ops.entmax_varlen_forward(*(x[0].transpose(0, 1) for x in inputs), cu, cu, 10, 10, *options)
        with pytest.raises(ValueError, match=message):
            tau = torch.zeros(1, 4, 10)
            cuda_ops.entmax_backward(inputs[0], *inputs, inputs[0], tau, *torch.zeros(3, 1), *options[:-1])


def test_shapes_on_cuda():
    for dtype in (torch.float16, torch.bfloat16):
        q = torch.empty(3, 8, 100, 64, dtype=dtype, device="meta")
        k = torch.empty(3, 2, 150, 64, dtype=dtype, device="meta")
        torch_ops.check(q, k, k, 4)
        options = ([1.5] * 8, [0.0] * 8, 0.125, 0, True, 0)
        out, tau, count, first, entries = cuda_ops.new_outputs(q, k, k, *options, True)
        assert out.dtype == dtype and out.shape == q.shape
        assert tau.dtype == torch.float32 and tau.shape == q.shape[:3]
        assert len(count) == len(first) == 3 * 8 * 100
        assert len(entries) * entries.element_size() == 2 * 2 * (q.numel() + k.numel())
        gradients_of = cuda_ops.new_gradients(out, q, k, k, out, tau, count, first, entries, *options)
        assert [(x.dtype, x.shape) for x in gradients_of] == [(dtype, x.shape) for x in (q, k, k)]
        q, k = (x[0].transpose(0, 1) for x in (q, k))
        out, tau, *_ = cuda_ops.new_packed_outputs(q, k, k, *options, True)
        assert out.dtype == dtype and out.shape == q.shape and tau.shape == (8, 100)


def test_the_layer_is_multihead_attention(rng):
    peer = torch.nn.MultiheadAttention(128, 4, batch_first=True)
    layer = tk.EntmaxAttention(128, 4, alpha=1)
    layer.load_state_dict(peer.state_dict())
    x = torch.randn(2, 50, 128)
    assert torch.allclose(layer(x, x, x)[0], peer(x, x, x)[0], atol=1e-5)
    layer.alpha = 1.5
    out, weights = layer(x, x, x, is_causal=True)
    out.square().mean().backward()
    assert weights is None and not torch.allclose(out, layer(x, x, x)[0], atol=1e-3)
    assert all(p.grad.isfinite().all() and p.grad.any() for p in layer.parameters() if p.dim() == 2)
    for arguments in ({"key_padding_mask": torch.zeros(2, 50)}, {"attn_mask": torch.zeros(50, 50)}):
        with pytest.raises(ValueError):
            layer(x, x, x, **arguments)
    with pytest.raises(ValueError, match="head"):
        tk.EntmaxAttention(128, 5)


def test_the_layer_in_a_transformer_layer(rng):
    block = torch.nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
    layer = tk.EntmaxAttention(128, 4)
    layer.load_state_dict(block.self_attn.state_dict())
    block.self_attn = layer
    x = torch.randn(2, 40, 128)
    trained = block(x)
    block.eval()
    with torch.no_grad():  # where PyTorch has a fused softmax layer of its own
        assert torch.equal(block(x), trained)


@needs_operators
def test_operators_pass_opcheck(rng):
    options = ([1.5, 1.0], [0.1, 0.0], 0.2, 0, True, 2)
    q = torch.randn(2, 2, 33, 32, requires_grad=True)
    k, v = torch.randn(2, 2, 1, 40, 32, requires_grad=True).unbind()
    torch.library.opcheck(torch.ops.tauserve.entmax_forward, (q, k, v, *options, True))
    out, *kept = (x.detach() for x in torch.ops.tauserve.entmax_forward(q, k, v, *options, True))
    rest = [x.detach() for x in (q, k, v)]
    torch.library.opcheck(torch.ops.tauserve.entmax_backward, (torch.ones_like(out), *rest, out, *kept, *options))
    cu_q, cu_k = torch.tensor([[0, 13, 20], [0, 15, 30]], dtype=torch.int32)
    q = torch.randn(20, 2, 32, requires_grad=True)
    k, v = torch.randn(2, 30, 1, 32, requires_grad=True).unbind()
    torch.library.opcheck(torch.ops.tauserve.entmax_varlen_forward, (q, k, v, cu_q, cu_k, 13, 15, *options, True))


@needs_operators
def test_operators_and_the_way_around_them_agree(rng):
    """A mode that listens gets the operators: their gradients are those of the calls that no one hears."""
    from torch.utils._python_dispatch import TorchDispatchMode

    heard = []

    class Listener(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            heard.append(str(func))
            return func(*args, **(kwargs or {}))

    inputs = problem(rng)
    dout = torch.randn_like(inputs[0])
    alone = gradients(tk.entmax_attention, inputs, dout)
    with Listener():
        listened = gradients(tk.entmax_attention, inputs, dout)
    assert {"tauserve.entmax_forward.default", "tauserve.entmax_backward.default"} <= set(heard)
    for a, b in zip(alone, listened):
        assert torch.equal(a, b)


def test_second_derivatives_are_refused(rng):
    q, k, v = (x.requires_grad_() for x in problem(rng, tokens=20))
    first, = torch.autograd.grad(tk.entmax_attention(q, k, v).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(first.sum(), q)


@needs_operators
def test_second_derivatives_of_the_operators_are_refused(rng):
    q, k, v = (x.requires_grad_() for x in problem(rng, tokens=20))
    options = ([1.5] * q.shape[1], [0.0] * q.shape[1], 0.2, 0, True, 2)
    out = torch.ops.tauserve.entmax_forward(q, k, v, *options, True)[0]
    first, = torch.autograd.grad(out.sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(first.sum(), q)


@needs_operators
def test_compiles_whole(rng):
    inputs = problem(rng, tokens=70)
    dout = torch.randn_like(inputs[0])

    def step(q, k, v):
        return tk.entmax_attention(q * 1.5, k, v, alpha=1.5, window=30) * 2

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*inputs), step(*inputs))
    for a, b in zip(gradients(compiled, inputs, dout), gradients(step, inputs, dout)):
        assert torch.equal(a, b)
    layer = tk.EntmaxAttention(64, 2)
    x = torch.randn(1, 20, 64)
    whole = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.allclose(whole(x, x, x, is_causal=True)[0], layer(x, x, x, is_causal=True)[0], atol=1e-6)


def test_a_llama_learns():
    pytest.importorskip("transformers", minversion="4.48",
                        reason="transformers and a current PyTorch (deploy/requirements-torch.txt) are not installed")
    sys.path.insert(0, str(EXAMPLES))
    import llama_entmax

    torch.manual_seed(0)
    ids = torch.randint(4096, (300,))  # nothing to know but by heart
    losses = llama_entmax.train(llama_entmax.tiny_llama(), ids, steps=25)
    assert losses[0] > 5 and sum(losses[-3:]) / 3 < 0.8 * losses[0]
