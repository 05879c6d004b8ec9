"""Muon for the blocks' matrices, AdamW for the embedding, the norms and the scale projections.

Reads and writes no files.
"""

import torch

MATRICES = ("w_q", "w_k", "w_v", "w_o", "w_gate", "w_up", "w_down")
MUON_MOMENTUM = 0.95
MUON_FRESH = 0.05  # share of the new gradient
ADAM_BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1  # of the matrices alone
SMALL_RATE = 0.5  # of norms and scale projections, times the embedding's


def orthogonalize(gradients):
    """Muon's Newton-Schulz iteration: brings the singular values of [..., rows, columns] near 1."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = gradients.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Optimizer:
    def __init__(self, model, muon_rate, adam_rate):
        self.muon_rate = muon_rate
        self.adam_rate = adam_rate
        # One stack for each kind of matrix, over the layers: parameters and momentum.
        self.stacks = []
        for name in MATRICES:
            parameters = [getattr(layer, name) for layer in model.layers]
            shape = (len(parameters), *parameters[0].shape)
            momentum = torch.zeros(shape, device=parameters[0].device)
            self.stacks.append((parameters, momentum))
        small = [model.final_norm]
        for layer in model.layers:
            small += [layer.attention_norm, layer.mlp_norm]
            small += [] if layer.w_scale is None else [layer.w_scale]
        self.adam = torch.optim.AdamW(
            [
                {"params": [model.embedding], "share": 1.0, "weight_decay": 0.0},
                {"params": small, "share": SMALL_RATE, "weight_decay": 0.0},
            ],
            lr=adam_rate,
            betas=ADAM_BETAS,
            eps=1e-8,
            **({"fused": True} if model.embedding.is_cuda else {}),
        )

    @torch.no_grad()
    def step(self, factor):
        """One step, with all learning rates times `factor`."""
        for group in self.adam.param_groups:
            group["lr"] = self.adam_rate * factor * group["share"]
        self.adam.step()
        rate = self.muon_rate * factor
        for parameters, momentum in self.stacks:
            gradients = torch.stack([p.grad for p in parameters])
            momentum.mul_(MUON_MOMENTUM).add_(gradients, alpha=MUON_FRESH)
            update = orthogonalize(gradients * MUON_FRESH + momentum * MUON_MOMENTUM).float()
            rows, columns = parameters[0].shape
            stretch = max(1, rows / columns) ** 0.5
            torch._foreach_mul_(parameters, 1 - rate * WEIGHT_DECAY)
            torch._foreach_add_(parameters, list((update * (-rate * stretch)).unbind(0)))
