"""The Python package's operators on a GPU: outputs and gradients against float64, packed sequences, determinism,
torch.compile, what is refused and how much is kept.

    PYTHONPATH=build/release/python python3 -m unittest tests/gpu/test_training.py
"""

import random
import unittest

import tauserve_kernels as tk
import torch
from tauserve_kernels import cuda_ops

SEED = random.SystemRandom().randrange(2**32)
TYPES = (torch.bfloat16, torch.float16)


def reference(q, k, v, alpha, causal=True, slopes=None, window=None):
    """Differentiable, float64. The threshold comes from bisection; a Newton step from there carries its gradient."""
    heads, tokens, keys = q.shape[1], q.shape[2], k.shape[2]
    k, v = (x.repeat_interleave(heads // x.shape[1], 1) for x in (k, v))
    alphas = torch.tensor([alpha] * heads if isinstance(alpha, (int, float)) else alpha, device=q.device).double()
    alphas = alphas[:, None, None]
    distance = torch.arange(keys, device=q.device) - (torch.arange(tokens, device=q.device)[:, None] + keys - tokens)
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if slopes is not None:
        scores = scores + torch.tensor(slopes, device=q.device).double()[:, None, None] * distance
    if causal:
        scores = scores.masked_fill(distance > 0, -torch.inf)
    if window is not None:
        scores = scores.masked_fill(distance <= -window, -torch.inf)
    s, power = (alphas - 1) * scores, 1 / (alphas - 1)
    with torch.no_grad():
        high = s.max(-1, keepdim=True).values
        low = high - 1
        for _ in range(60):
            tau = (low + high) / 2
            more = ((s - tau).clamp_min(0) ** power).sum(-1, keepdim=True) > 1
            low, high = torch.where(more, tau, low), torch.where(more, high, tau)
        slope = (power * (s - tau).clamp_min(0) ** (power - 1) * (s > tau)).sum(-1, keepdim=True)
    tau = tau + (((s - tau).clamp_min(0) ** power).sum(-1, keepdim=True) - 1) / slope
    return ((s - tau).clamp_min(0) ** power) @ v


def problem(batch=2, heads=4, kv_heads=2, tokens=300, keys=None, dim=64, sigma=2.0, sizes=(1, 1, 1),
            dtype=torch.bfloat16):
    """`sizes`: factors of q, k and v."""
    keys = keys or tokens
    scale = sigma**0.5
    shapes = ((heads, tokens, scale), (kv_heads, keys, scale), (kv_heads, keys, 1))
    return [(torch.randn(batch, h, n, dim, device="cuda") * x * size).to(dtype)
            for (h, n, x), size in zip(shapes, sizes)]


def gradients(function, inputs, dout, **options):
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = function(*inputs, **options)
    out.backward(dout)
    return [out.detach(), *(x.grad for x in inputs)]


def error(got, expected):
    return ((got.double() - expected).norm() / expected.norm()).item()


class TrainingTest(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(SEED)
        print(f"seed {SEED}", self.id())

    def compare(self, inputs, alpha=1.5, slopes=None, dout_size=1, **options):
        dout = torch.randn_like(inputs[0]) * dout_size
        doubles = [x.double() for x in inputs]
        expected = gradients(reference, doubles, dout.double(), alpha=alpha, slopes=slopes, **options)
        got = gradients(tk.entmax_attention, inputs, dout, alpha=alpha, alibi_slopes=slopes, **options)
        for name, g, e in zip(("out", "dq", "dk", "dv"), got, expected):
            self.assertEqual(g.shape, e.shape)
            self.assertEqual(g.dtype, inputs[0].dtype)
            self.assertLess(error(g, e), 1e-2, (name, g.dtype))

    def test_shapes_and_alphas(self):
        for dtype in TYPES:
            for dim in (64, 96, 128, 256):
                for alpha in (1.5, 1.25, 2):
                    self.compare(problem(dim=dim, dtype=dtype), alpha)
            self.compare(problem(heads=3, kv_heads=3, dtype=dtype), [1.5, 1.2, 1.9])
            self.compare(problem(heads=8, kv_heads=1, tokens=77, keys=501, dtype=dtype))

    def test_masks_and_biases(self):
        for dtype in TYPES:
            self.compare(problem(dtype=dtype), causal=False)
            self.compare(problem(dtype=dtype), window=50)
            self.compare(problem(dtype=dtype), slopes=[1, 0.25, 0.01, 0])

    def test_wide_rows(self):
        for dtype in TYPES:
            self.compare(problem(tokens=900, sigma=0.1, dtype=dtype))
            self.compare(problem(batch=1, heads=2, kv_heads=1, tokens=70, keys=40000, sigma=0.05, dtype=dtype))

    def test_adversarial_keys(self):
        for dtype in TYPES:
            q, k, v = problem(dtype=dtype)
            self.compare([q, k[:, :, :1].expand_as(k), v])  # equal
            large = torch.where(torch.rand(k.shape[2], 1, device="cuda") < 0.02, 6, 1).to(dtype)
            self.compare([q, k * large, v])
            q[..., 0], k[..., 0] = 8, 0  # a sink
            k[:, :, :4, 0] = 8
            self.compare([q, k, v])

    def test_float16s_range(self):
        """Inputs near both of its ends. Gradients are within them; dS = p^(2 - alpha) (dP - mean) is not."""
        for dim in (64, 256):
            for sizes, sigma, dout_size in (
                ((1, 1, 1e3), 1e-3, 100), ((1, 1, 1e-2), 0.1, 1e-2), ((1, 1, 1.2e4), 0.1, 1e-2),
                ((1, 1, 1e-2), 0.1, 5e3), ((1e3, 1e-3, 1), 0.3, 1), ((1e-3, 1e3, 1), 0.3, 1),
            ):
                self.compare(problem(tokens=500, dim=dim, sigma=sigma, sizes=sizes, dtype=torch.float16),
                             dout_size=dout_size)
        # Of a loss scaled too far nothing finite may be left.
        q, k, v = problem(tokens=500, sigma=0.1, dtype=torch.float16)
        dout = torch.randn_like(q)
        dout[:, :, 400] = torch.inf
        self.assertTrue(all(not x.isfinite().all() for x in gradients(tk.entmax_attention, (q, k, v), dout)[1:]))

    def test_any_strides(self):
        inputs = problem()
        dout = torch.randn(1, device="cuda", dtype=torch.bfloat16).expand_as(inputs[0])
        major = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs]
        self.assertTrue(all(error(a, b.double()) < 1e-2 for a, b in zip(
            gradients(tk.entmax_attention, inputs, dout), gradients(tk.entmax_attention, major, dout))))

    def test_packed_sequences(self):
        for dtype in TYPES:
            self.check_packed_sequences(dtype)

    def check_packed_sequences(self, dtype):
        lengths, keys = [70, 0, 1, 300], [100, 5, 64, 300]
        shapes = ((sum(lengths), 4), (sum(keys), 2), (sum(keys), 2))
        q, k, v = (torch.randn(n, h, 64, device="cuda").to(dtype) for n, h in shapes)
        cu_q, cu_k = (torch.tensor([0, *n], device="cuda").cumsum(0).int() for n in (lengths, keys))
        dout = torch.randn_like(q)
        out, *packed = gradients(tk.entmax_attention_varlen, (q, k, v), dout, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k)
        self.assertTrue(bool((packed[1][100:105] == 0).all()))  # keys of a sequence without queries
        row = key = 0
        for n, m in zip(lengths, keys):
            if n > 0:
                single = [x[None, a:a + b].transpose(1, 2) for x, a, b in ((q, row, n), (k, key, m), (v, key, m))]
                part = gradients(tk.entmax_attention, single, dout[None, row:row + n].transpose(1, 2))
                mine = [out[row:row + n], packed[0][row:row + n], packed[1][key:key + m], packed[2][key:key + m]]
                for got, expected in zip(mine, part):
                    self.assertLess(error(got.double(), expected[0].transpose(0, 1).double()), 5e-3)
            row, key = row + n, key + m

    def test_deterministic_algorithms(self):
        for dtype in TYPES:
            inputs = problem(tokens=2000, dtype=dtype)
            dout = torch.randn_like(inputs[0])
            torch.use_deterministic_algorithms(True)
            try:
                first, again = (gradients(tk.entmax_attention, inputs, dout) for _ in range(2))
            finally:
                torch.use_deterministic_algorithms(False)
            self.assertTrue(all(torch.equal(a, b) for a, b in zip(first, again)))

    def test_compile(self):
        inputs = problem()
        dout = torch.randn_like(inputs[0])

        def layer(q, k, v):
            return tk.entmax_attention(q * 1.5, k, v) * 2

        plain = gradients(layer, inputs, dout)
        compiled = gradients(torch.compile(layer, fullgraph=True), inputs, dout)
        for a, b in zip(plain, compiled):
            self.assertLess(error(b, a.double()), 1e-2)

    def test_operators(self):
        q, k, v = (x.requires_grad_() for x in problem(batch=1, tokens=70))
        options = ([1.5] * 4, [0.0] * 4, 0.125, 0, True, 0, True)
        torch.library.opcheck(torch.ops.tauserve.entmax_forward, (q, k, v, *options),
                              test_utils=("test_schema", "test_faketensor", "test_autograd_registration"))

    def test_keeps_no_more_than_it_says(self):
        q, k, v = (x.requires_grad_() for x in problem(batch=1, heads=16, kv_heads=16, tokens=16384, sigma=1))
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        out = tk.entmax_attention(q, k, v)
        kept = torch.cuda.memory_allocated() - before - out.nbytes
        self.assertLess(kept, 1.2 * (2 * q.nbytes + k.nbytes + v.nbytes))
        del out
        with torch.no_grad():
            out = tk.entmax_attention(q, k, v)
        self.assertLess(torch.cuda.memory_allocated() - before, 1.2 * out.nbytes)

    def test_refusals(self):
        q, k, v = problem()
        out = tk.entmax_attention(q, k, v)
        backward = torch.ops.tauserve.entmax_backward
        kept, options = torch.ones(4, 2, 4, 300, device="cuda"), ([1.5] * 4, [0.0] * 4, 0.125, 0, True, 0)
        cases = [
            ("bfloat16", lambda: tk.entmax_attention(q.float(), k.float(), v.float())),
            ("q is torch.float16, k torch.bfloat16", lambda: tk.entmax_attention(q.half(), k, v)),
            ("q is torch.bfloat16, k torch.float16", lambda: tk.entmax_attention(q, k.half(), v.half())),
            ("dout is torch.float16", lambda: backward(out.half(), q, k, v, out, *kept, *options)),
            ("alpha", lambda: tk.entmax_attention(q, k, v, alpha=1)),
            ("head_dim is 80", lambda: tk.entmax_attention(*problem(dim=80))),
            ("alpha has 3", lambda: tk.entmax_attention(q, k, v, alpha=[1.5] * 3)),
            ("no multiple", lambda: tk.entmax_attention(q[:, :3], k, v)),
            ("not negative", lambda: tk.entmax_attention(q, k, v, alibi_slopes=[-1, 0, 0, 0])),
            ("causal", lambda: tk.entmax_attention(q, k, v, causal=False, window=5)),
            ("more queries than keys", lambda: tk.entmax_attention(q, k[:, :, :10], v[:, :, :10])),
            ("cu_seqlens_q", lambda: tk.entmax_attention_varlen(
                q[0].transpose(0, 1), k[0].transpose(0, 1), v[0].transpose(0, 1), torch.tensor([0, 5]))),
        ]
        for word, call in cases:
            with self.assertRaisesRegex(ValueError, word):
                call()

    def test_no_tokens(self):
        q, k, v = problem()
        out, dq, dk, dv = gradients(tk.entmax_attention, (q[:, :, :0], k, v), q[:, :, :0])
        self.assertEqual(out.numel(), 0)
        self.assertTrue(bool((dk == 0).all()) and bool((dv == 0).all()))

    def test_capacity(self):
        q, k, _ = problem()
        self.assertEqual(cuda_ops.capacity(q, k) * 4, 2 * q.nbytes + 2 * k.nbytes)


if __name__ == "__main__":
    unittest.main()
