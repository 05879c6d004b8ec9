"""How sparse the entmax attention of a model is on one recall document, by layer and head.

Reads and writes no files. README.md explains the numbers that measure() returns.
"""

import random

import numpy as np
import torch

import rows
import tauserve_kernels

PAGE = 64  # keys; also the side of a block
SEED = 5
RANDOM_ROWS = 192
CHUNK_SCORES = 2**24  # of a head at once


class Sparsity:
    """The attention function of a forward pass over one document; `layers` gets an entry a layer.

    answer_rows: int64 positions of the rows that predict a token of an answer. Below, q_rows are
    the queries [rows, heads, head_dim] of the positions `at` [rows], in float32; scores s are
    (alpha - 1) times those of the attention, as thresholds tau [heads, length] are.
    """

    def __init__(self, config, length, answer_rows):
        self.config = config
        self.length = length
        self.pages = length // PAGE
        self.scale = (config.alpha - 1) * config.head_dim**-0.5
        device = answer_rows.device
        self.slopes = (config.alpha - 1) * torch.tensor(config.alibi_slopes, device=device)
        self.key = torch.arange(length, device=device)
        self.last_key = torch.arange(self.pages, device=device) * PAGE + PAGE - 1  # of each page
        random_rows = torch.randint(length * 3 // 4, length, (RANDOM_ROWS,), device=device)
        self.rows = {"random": random_rows, "answer": answer_rows}
        self.layers = []

    def __call__(self, q, k, v):
        config = self.config
        heads_first = [x.transpose(1, 2) for x in (q, k, v)]
        out, tau = tauserve_kernels.entmax_attention(
            *heads_first, config.alpha, alibi_slopes=config.alibi_slopes, return_tau=True
        )
        tau = tau[0]
        group = config.heads // config.kv_heads
        keys = k[0].float().repeat_interleave(group, 1).transpose(0, 1)  # [heads, length, head_dim]
        support, empty = self.count(q[0], keys, tau)
        blocks = self.pages * (self.pages + 1) // 2  # causal ones
        by_rows = {}
        for name, at in self.rows.items():
            q_rows = q[0, at].float()
            by_rows[name] = {
                "proven": self.proven_share(q_rows, at, k[0].float(), tau),
                "empty": self.empty_share(q_rows, at, keys, tau),
                "support": support[:, at].mean(1).tolist(),
            }
        layer = {
            "support": support.mean(1).tolist(),
            "support_max": support.amax(1).tolist(),
            "empty": (empty / blocks).tolist(),
            "pages": by_rows,
        }
        self.layers.append(layer)
        return out.transpose(1, 2)

    def scores(self, q_rows, at, keys):
        """s [heads, rows, keys] for the first keys of all; -1e30 for later keys than the row."""
        key = self.key[: keys.shape[1]]
        products = torch.matmul(q_rows.transpose(0, 1), keys.transpose(1, 2))
        s = products * self.scale + self.slopes[:, None, None] * (key - at[:, None])
        return s.masked_fill_(key > at[:, None], -1e30)

    def count(self, q, keys, tau):
        """Keys with weight [heads, length], and causal blocks without [heads]."""
        support = torch.zeros(self.config.heads, self.length, device=q.device)
        empty = torch.zeros(self.config.heads, device=q.device)
        chunk = max(PAGE, min(1024, CHUNK_SCORES // self.length // PAGE * PAGE))
        for start in range(0, self.length, chunk):
            end = min(self.length, start + chunk)
            at = self.key[start:end]
            attended = self.scores(q[start:end].float(), at, keys[:, :end]) > tau[:, start:end, None]
            support[:, start:end] = attended.sum(-1)
            shape = (self.config.heads, len(at) // PAGE, PAGE, end // PAGE, PAGE)
            live = attended.view(shape).any(-1).any(2)
            causal = (
                self.last_key[: end // PAGE] <= self.last_key[start // PAGE : end // PAGE, None]
            )
            empty += (~live & causal).sum((1, 2))
        return support, empty

    def causal_pages(self, at):
        """[rows, 1, pages]: whether the page begins at the row or before it."""
        return self.last_key - (PAGE - 1) <= at.view(-1, 1, 1)

    def page_bounds(self, q_rows, at, k):
        """[rows, heads, pages]: no score of a page is above; from its keys' minima and maxima."""
        config = self.config
        paged = k.view(self.pages, PAGE, config.kv_heads, config.head_dim)
        smallest, largest = paged.amin(1), paged.amax(1)
        grouped = q_rows.view(len(at), config.kv_heads, -1, config.head_dim)
        bound = torch.einsum("rkgd,nkd->rkgn", grouped.clamp(min=0), largest) + torch.einsum(
            "rkgd,nkd->rkgn", grouped.clamp(max=0), smallest
        )
        bound = bound.reshape(len(at), config.heads, self.pages) * self.scale
        row = at.view(-1, 1, 1)
        nearest = torch.minimum(self.last_key, row) - row
        return bound + self.slopes.view(1, config.heads, 1) * nearest

    def proven_share(self, q_rows, at, k, tau):
        causal = self.causal_pages(at)
        bounds = self.page_bounds(q_rows, at, k)
        proven = (bounds <= tau[:, at].T[..., None]) & causal
        return (proven.sum((0, 2)) / causal.sum((0, 2))).tolist()

    def empty_share(self, q_rows, at, keys, tau):
        s = self.scores(q_rows, at, keys)
        shape = (self.config.heads, len(at), self.pages, PAGE)
        attended = (s > tau[:, at, None]).view(shape).any(-1)
        return (1 - attended.sum((1, 2)) / self.causal_pages(at).sum()).tolist()


def measure(model, bank, length, device):
    """-> an entry for each layer, from one fresh document of `length` tokens."""
    tokens, weights, _ = rows.recall_row(random.Random(SEED), bank, length, early=False)
    answer_rows = torch.from_numpy(np.flatnonzero(weights == rows.ANSWER) - 1).to(device)
    sparsity = Sparsity(model.config, length, answer_rows)
    with torch.no_grad():
        ids = torch.from_numpy(tokens.astype(np.int64)).to(device)[None]
        model.trunk(ids, attention=sparsity)
    return sparsity.layers
