"""models/recipe on a GPU: its attention against float64, and that every variant's compiled training steps learn.

    PYTHONPATH=build/release/python python3 -m unittest tests/gpu/test_recipe.py
"""

import argparse
import pathlib
import random
import sys
import unittest

import numpy as np
import tauserve_kernels as tk
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "models" / "recipe"), str(ROOT / "tests" / "gpu")]

import model  # noqa: E402
from test_training import error, gradients, problem, reference  # noqa: E402
from train import Trainer  # noqa: E402

SEED = random.SystemRandom().randrange(2**32)


def softmax_reference(q, k, v, slopes):
    heads, tokens = q.shape[1:3]
    k, v = (x.repeat_interleave(heads // x.shape[1], 1) for x in (k, v))
    position = torch.arange(tokens, device=q.device)
    distance = position - position[:, None]
    scores = q @ k.mT / q.shape[-1] ** 0.5 + torch.tensor(slopes, device=q.device).double()[:, None, None] * distance
    return scores.masked_fill(distance > 0, -torch.inf).softmax(-1) @ v


class RecipeTest(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(SEED)
        print(f"seed {SEED}", self.id())

    def test_attention_of_every_variant(self):
        for name, config in model.VARIANTS.items():
            attend = model.attention_of(config)
            inputs = [x.transpose(1, 2).contiguous() for x in problem(heads=8, kv_heads=4, tokens=512)]
            dout = torch.randn_like(inputs[0])
            got = gradients(attend, inputs, dout)
            doubles = [x.double().transpose(1, 2) for x in inputs]
            expect = softmax_reference if config.alpha == 1 else lambda *x, slopes: reference(*x, 1.5, slopes=slopes)
            expected = gradients(expect, doubles, dout.double().transpose(1, 2), slopes=config.alibi_slopes)
            for part, g, e in zip(("out", "dq", "dk", "dv"), got, expected):
                self.assertLess(error(g, e.transpose(1, 2)), 1e-2, f"{name} {part}")

    def test_every_variant_learns(self):
        settings = argparse.Namespace(muon_rate=0.02, adam_rate=0.01, answer_weight=0.7, device="cuda")
        for name, config in model.VARIANTS.items():
            trainer = Trainer(model.Model(model.tiny(config), compiled=True).cuda(), settings)
            batch = (np.random.default_rng(SEED).integers(0, 4096, (2, 512)), np.ones((2, 512), np.uint8))
            losses = []
            for _ in range(60):
                trainer.step(batch, 1.0, measured=True)
                losses.append(trainer.take_means()[512][0])
            self.assertLess(losses[-1], 0.7 * losses[0], name)

    def test_thresholds(self):
        q, k, v = problem()
        out, tau = tk.entmax_attention(q, k, v, alibi_slopes=[1, 0.1, 0, 0], return_tau=True)
        self.assertEqual((tau.shape, tau.dtype), (q.shape[:3], torch.float32))
        position = torch.arange(300, device="cuda")
        scores = q.double() @ k.double().repeat_interleave(2, 1).mT / 8
        slopes = torch.tensor([1, 0.1, 0, 0], device="cuda").double()[:, None, None]
        scores = scores + slopes * (position - position[:, None])
        s = (scores / 2).masked_fill(position > position[:, None], -torch.inf)
        weights = (s - tau.double()[..., None]).clamp_min(0) ** 2
        self.assertLess((weights.sum(-1) - 1).abs().max().item(), 1e-3)
        self.assertLess(error(out, weights @ v.double().repeat_interleave(2, 1)), 1e-2)


if __name__ == "__main__":
    unittest.main()
