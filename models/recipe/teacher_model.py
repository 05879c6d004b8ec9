"""The teacher, SmolLM2-135M-Instruct, as a decoder of one token a row and step.

Reads weights.bin and index.json (pack_teacher.py); writes no files. On a GPU by the kernels of
teacher_kernels.py, else in plain PyTorch, which is also what the kernels are checked against.
"""

import json

import numpy as np
import torch

from teacher_kernels import (
    add_norm_kernel,
    decode_attention_kernel,
    rope_cache_kernel,
    silu_mul_kernel,
)

HIDDEN = 576
HEADS = 9
KV_HEADS = 3
HEAD_DIM = 64
INTERMEDIATE = 1536
LAYERS = 30
VOCABULARY = 49152
NORM_EPS = 1e-5
ROPE_THETA = 100000.0


def as_float(raw):
    return raw.contiguous().view(torch.float16).float()


def dequantize(raw, kind):
    """Bytes (uint8) of a GGUF tensor -> float32.

    Q8_0 and Q4_1 have blocks of 32: a scale, in Q4_1 a minimum, and 8- or 4-bit numbers.
    """
    if kind == "F32":
        return raw.clone().view(torch.float32)
    if kind == "Q8_0":
        blocks = raw.view(-1, 34)
        scale = as_float(blocks[:, :2])
        return scale * blocks[:, 2:].contiguous().view(torch.int8).float()
    if kind == "Q4_1":
        blocks = raw.view(-1, 20)
        scale, minimum = as_float(blocks[:, :2]), as_float(blocks[:, 2:4])
        quants = torch.cat([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], 1).float()
        return quants * scale + minimum
    raise ValueError(f"GGUF type {kind}: only F32, Q8_0 and Q4_1 are read")


def load_weights(folder, device, dtype):
    """-> tensors by their GGUF names."""
    blob = torch.from_numpy(np.fromfile(f"{folder}/weights.bin", np.uint8))
    with open(f"{folder}/index.json") as file:
        index = json.load(file)
    weights = {}
    for name, entry in index.items():
        raw = blob[entry["offset"] : entry["offset"] + entry["bytes"]].to(device)
        weights[name] = dequantize(raw, entry["type"]).reshape(entry["shape"]).to(dtype)
    return weights


class Teacher:
    """step(tokens, positions) -> logits, of `rows` rows at once.

    Keys and values of `slots` positions are kept for each row.
    """

    def __init__(self, weights, rows, slots, device, dtype, use_kernels):
        self.rows = rows
        self.slots = slots
        self.device = device
        self.dtype = dtype
        self.use_kernels = use_kernels
        self.embedding = weights["token_embd.weight"]
        self.last_norm = weights["output_norm.weight"]
        self.layers = [self.layer_weights(weights, layer) for layer in range(LAYERS)]
        shape = (rows, KV_HEADS, slots, HEAD_DIM)
        self.k_cache = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(LAYERS)]
        self.v_cache = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(LAYERS)]
        exponent = -torch.arange(0, HEAD_DIM, 2, device=device).float() / HEAD_DIM
        angles = torch.arange(slots, device=device).float()[:, None] * (ROPE_THETA**exponent)[None]
        self.cos_sin = torch.cat([angles.cos(), angles.sin()], 1).contiguous()

    @staticmethod
    def layer_weights(weights, layer):
        """-> norm, queries + keys + values, output, norm, gate + up, down."""

        def get(name):
            return weights[f"blk.{layer}.{name}.weight"]

        return (
            get("attn_norm"),
            torch.cat([get("attn_q"), get("attn_k"), get("attn_v")]),
            get("attn_output"),
            get("ffn_norm"),
            torch.cat([get("ffn_gate"), get("ffn_up")]),
            get("ffn_down"),
        )

    def step(self, tokens, positions):
        """tokens, positions [rows] -> logits [rows, VOCABULARY]."""
        x = self.embedding[tokens].float()
        y = None  # not yet added to x
        for layer, (norm1, w_qkv, w_o, norm2, w_gate_up, w_down) in enumerate(self.layers):
            qkv = self.add_norm(x, y, norm1) @ w_qkv.T
            attend = self.attend_by_kernels if self.use_kernels else self.attend
            y = attend(layer, qkv, positions) @ w_o.T
            gate_up = self.add_norm(x, y, norm2) @ w_gate_up.T
            y = self.silu_mul(gate_up) @ w_down.T
        return self.add_norm(x, y, self.last_norm) @ self.embedding.T

    def add_norm(self, x, y, weight):
        """Adds y to x in place, if there is one; -> RMS norm."""
        if self.use_kernels:
            out = torch.empty_like(x, dtype=self.dtype)
            add = y is not None
            add_norm_kernel[(self.rows,)](
                x, y if add else x, weight, out, HIDDEN, 1024, add, NORM_EPS
            )
            return out
        if y is not None:
            x += y
        f = x.float()
        inverse = torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + NORM_EPS)
        return (f * inverse * weight.float()).to(self.dtype)

    def silu_mul(self, gate_up):
        if self.use_kernels:
            out = torch.empty(self.rows, INTERMEDIATE, device=self.device, dtype=self.dtype)
            silu_mul_kernel[(self.rows,)](gate_up, out, INTERMEDIATE, 2048)
            return out
        gate, up = gate_up[:, :INTERMEDIATE].float(), gate_up[:, INTERMEDIATE:].float()
        return (torch.nn.functional.silu(gate) * up).to(self.dtype)

    def attend_by_kernels(self, layer, qkv, positions):
        q = torch.empty(self.rows, HEADS * HEAD_DIM, device=self.device, dtype=self.dtype)
        out = torch.empty_like(q)
        k_cache, v_cache = self.k_cache[layer], self.v_cache[layer]
        rope_cache_kernel[(self.rows,)](
            qkv, positions, self.cos_sin, q, k_cache, v_cache, self.slots, HEADS, KV_HEADS
        )
        decode_attention_kernel[(self.rows * KV_HEADS,)](
            q, k_cache, v_cache, positions, out, self.slots, HEADS, KV_HEADS, HEADS // KV_HEADS, 64
        )
        return out

    def rotate(self, x, positions):
        """x [rows, heads, HEAD_DIM]: rotary embedding of adjacent pairs."""
        pairs = x.float().reshape(self.rows, x.shape[1], HEAD_DIM // 2, 2)
        cos = self.cos_sin[positions, None, : HEAD_DIM // 2]
        sin = self.cos_sin[positions, None, HEAD_DIM // 2 :]
        first = pairs[..., 0] * cos - pairs[..., 1] * sin
        second = pairs[..., 0] * sin + pairs[..., 1] * cos
        return torch.stack([first, second], -1).reshape(x.shape).to(self.dtype)

    def attend(self, layer, qkv, positions):
        """qkv [rows, (HEADS + 2 KV_HEADS) * HEAD_DIM] -> [rows, HEADS * HEAD_DIM]."""
        rows = torch.arange(self.rows, device=self.device)
        split = qkv.view(self.rows, HEADS + 2 * KV_HEADS, HEAD_DIM)
        rotated = self.rotate(split[:, : HEADS + KV_HEADS], positions)
        k_cache, v_cache = self.k_cache[layer], self.v_cache[layer]
        k_cache[rows, :, positions] = rotated[:, HEADS:]
        v_cache[rows, :, positions] = split[:, HEADS + KV_HEADS :]
        q = rotated[:, :HEADS].reshape(self.rows, KV_HEADS, HEADS // KV_HEADS, HEAD_DIM).float()
        scores = torch.einsum("bkgd,bksd->bkgs", q, k_cache.float()) / 8
        later = torch.arange(self.slots, device=self.device)[None] > positions[:, None]
        scores = scores.masked_fill(later[:, None, None], -1e30)
        out = torch.einsum("bkgs,bksd->bkgd", scores.softmax(-1), v_cache.float())
        return out.reshape(self.rows, -1).to(self.dtype)
