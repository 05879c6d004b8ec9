"""The Python package against PyPI's entmax (float64) and a softmax in NumPy, on fresh random inputs."""

import random

import numpy as np
import pytest
import tauserve_kernels as tk
import torch
from problems import error, problem, reference, reference_scores

SEED = random.SystemRandom().randrange(2**32)


@pytest.fixture(autouse=True)
def rng():
    print(f"seed {SEED}")
    torch.manual_seed(SEED)
    return random.Random(SEED)


@pytest.mark.parametrize("alpha", [1, 1.25, 1.5, 1.8, 2])
def test_every_alpha(rng, alpha):
    for _ in range(4):
        q, k, v = problem(rng)
        assert error(tk.entmax_attention(q, k, v, alpha), reference(q, k, v, alpha)) < 2e-5


def test_bfloat16_is_rounded_once(rng):
    for _ in range(4):
        q, k, v = problem(rng, torch.bfloat16)
        out = tk.entmax_attention(q, k, v)
        assert out.dtype == torch.bfloat16
        assert error(out, reference(q, k, v)) < 2**-8


def test_numpy(rng):
    q, k, v = problem(rng)
    out = tk.entmax_attention(q.numpy(), k.numpy(), v.numpy())
    assert isinstance(out, np.ndarray) and out.dtype == np.float32
    assert error(out, reference(q, k, v)) < 2e-5


def test_alpha_and_slope_of_each_head_window_and_scale(rng):
    q = torch.randn(2, 4, 150, 64)
    k, v = torch.randn(2, 2, 2, 190, 64)
    options = {"alpha": [1.5, 1, 1.5, 1.7], "scale": 0.2, "window": rng.randint(1, 200)}
    slopes = [0.0, 0.5, 0.03, 0.25]
    out = tk.entmax_attention(q, k, v, alibi_slopes=slopes, **options)
    assert error(out, reference(q, k, v, slopes=slopes, **options)) < 2e-5


def test_not_causal(rng):
    for alpha in (1, 1.5):
        q, k, v = problem(rng)
        out = tk.entmax_attention(q, k, v, alpha, causal=False)
        assert error(out, reference(q, k, v, alpha, causal=False)) < 2e-5


def test_any_strides(rng):
    q, k, v = problem(rng)
    expected = tk.entmax_attention(q, k, v)

    def token_major(x):  # [batch, tokens, heads, dim] in memory
        return x.transpose(1, 2).contiguous().transpose(1, 2)

    def padded(x):
        return torch.cat([x, x], -1)[..., : x.shape[-1]]

    for change in (token_major, padded):
        out = tk.entmax_attention(change(q), change(k), change(v))
        assert torch.equal(out, expected)
    q.numpy().flags.writeable = False
    assert torch.equal(tk.entmax_attention(q, k, v), expected)


def test_inputs_are_unchanged(rng):
    q, k, v = problem(rng)
    copies = [x.clone() for x in (q, k, v)]
    assert not tk.entmax_attention(q, k, v).requires_grad
    assert all(torch.equal(x, y) for x, y in zip((q, k, v), copies))


def test_threads_do_not_change_a_bit(rng):
    q, k, v = problem(rng, tokens=1500)
    one = tk.entmax_attention(q, k, v, num_threads=1)
    assert torch.equal(one, tk.entmax_attention(q, k, v, num_threads=3))


def test_stats(rng):
    q, k, v = problem(rng, tokens=200, keys=200)
    _, stats = tk.entmax_attention(q, k, v, return_stats=True)
    rows = q.shape[0] * q.shape[1] * 200
    assert stats["rows"] == rows
    assert stats["keys_considered"] == rows * 201 // 2
    assert rows <= stats["support"] <= stats["keys_scored"] <= stats["keys_considered"]
    assert stats["max_tau_residual"] < 1e-4


@pytest.mark.parametrize("alpha", [1, 1.3, 1.5, 2])
def test_thresholds(rng, alpha):
    """Weights made of tau sum to 1; a tuple has what is asked for, in NumPy and in PyTorch."""
    q, k, v = problem(rng)
    out, tau = tk.entmax_attention(q, k, v, alpha, return_tau=True)
    assert tau.dtype == torch.float32 and tau.shape == q.shape[:3]
    scores = reference_scores(q, k)
    p = (scores - tau.double()[..., None]).exp() if alpha == 1 else (
        ((alpha - 1) * scores - tau.double()[..., None]).clamp_min(0) ** (1 / (alpha - 1)))
    assert (p.sum(-1) - 1).abs().max() < 1e-3
    assert error(out, p @ v.double().repeat_interleave(q.shape[1] // k.shape[1], 1)) < 1e-3
    for inputs in ((q, k, v), [x.numpy() for x in (q, k, v)]):
        also, its_tau, stats = tk.entmax_attention(*inputs, alpha, return_stats=True, return_tau=True)
        assert type(also) is type(its_tau) is type(inputs[0])
        assert np.array_equal(also, out) and np.array_equal(its_tau, tau)
        assert stats["rows"] == (0 if alpha == 1 else tau.numel())


def test_bad_arguments(rng):
    q, k, v = torch.randn(1, 4, 8, 64), torch.randn(1, 2, 8, 64), torch.randn(1, 2, 8, 64)
    bad = [
        (q[0], k, v, {}), (q, k[:, :, :4], v, {}), (q, k[:, :, :4], v[:, :, :4], {}),
        (q[..., :24], k[..., :24], v[..., :24], {}), (q, k[..., :32], v[..., :32], {}),
        (q[:, :3], k, v, {}), (q.double(), k, v, {}), (q, k, v.bfloat16(), {}),
        (q, k, v, {"alpha": 0.9}), (q, k, v, {"alpha": 2.1}), (q, k, v, {"alpha": [1.5, 1.5]}),
        (q, k, v, {"alpha": float("nan")}), (q, k, v, {"scale": float("inf")}),
        (q, k, v, {"window": 0}), (q, k, v, {"alibi_slopes": [0.1]}),
        (q, k, v, {"alibi_slopes": [-0.1] * 4}), (q, k, v, {"window": 3, "causal": False}),
        (q, k, v, {"num_threads": -1}), (q[:, :, :0], k, v, {}),
        (q.transpose(2, 3).contiguous().transpose(2, 3), k, v, {}),
    ]
    for *arrays, options in bad:
        with pytest.raises(ValueError):
            tk.entmax_attention(*arrays, **options)
    with pytest.raises((TypeError, AttributeError)):
        tk.entmax_attention([1.0], [1.0], [1.0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_paged_decoding(rng, dtype):
    kv_heads, group, dim = 2, rng.choice([1, 4]), 64
    kind = getattr(torch, dtype)
    cache = tk.PagedKvCache(64, kv_heads, dim, dtype)
    pages = list(range(64))
    rng.shuffle(pages)
    lengths = [1, 64, 65, rng.randint(100, 900)]
    tables = np.full((4, 16), -1, np.int32)
    sequences = []
    for i, length in enumerate(lengths):
        k, v = torch.randn(2, length, kv_heads, dim).to(kind)
        for p in range(-(-length // tk.PAGE_SIZE)):
            tables[i, p] = pages.pop()
        start = rng.randint(0, length - 1)
        if start:
            cache.append(k[:start], v[:start], tables[i], 0)
        cache.append(k[start:], v[start:], tables[i], start)
        sequences.append((k, v))
    q = torch.randn(4, kv_heads * group, dim).to(kind)
    alpha = [1.5, 1.5, 1, 2][: kv_heads * group] * (kv_heads * group // 4 or 1)
    out, stats = cache.decode(q, tables, lengths, alpha, return_stats=True)
    assert out.shape == q.shape and stats["keys_considered"] >= sum(lengths)
    for i, (k, v) in enumerate(sequences):
        expected = reference(q[i][None, :, None], k.transpose(0, 1)[None], v.transpose(0, 1)[None],
                             alpha)
        assert error(out[i], expected[0, :, 0]) < (2e-5 if dtype == "float32" else 2**-8)


def test_paged_bad_arguments():
    cache = tk.PagedKvCache(4, 2, 64)
    k = torch.randn(70, 2, 64)
    table = [0, 1, 2]
    for bad in (
        lambda: tk.PagedKvCache(0, 2, 64),
        lambda: tk.PagedKvCache(4, 2, 60),
        lambda: tk.PagedKvCache(4, 2, 64, "float16"),
        lambda: cache.append(k, k, [0], 0),
        lambda: cache.append(k, k, [0, 4], 0),
        lambda: cache.append(k, k, table, -1),
        lambda: cache.append(k[:, :1], k[:, :1], table, 0),
        lambda: cache.decode(torch.randn(1, 4, 64), [table], [0]),
        lambda: cache.decode(torch.randn(1, 4, 64), [table], [300]),
        lambda: cache.decode(torch.randn(1, 3, 64), [table], [3]),
        lambda: cache.decode(torch.randn(2, 4, 64), [table], [3]),
    ):
        with pytest.raises(ValueError):
            bad()
