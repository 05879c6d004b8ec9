"""Checks an exported model against its reference.json: an independent forward pass in NumPy.

Reads MODEL/config.json, MODEL/model.safetensors (bfloat16) and reference.json (make_reference.py);
writes no files. Arithmetic is float64, entmax-1.5 by sorting, and NumPy is all it needs. Prints for
each prompt the largest difference of the 20 stored logits, and whether the greedy tokens are the
stored ones; the exit code is 1 if they aren't.
"""

import argparse
import json
import os
import struct
import sys

import numpy as np

ROWS_AT_ONCE = 256
MODEL_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "recall-9m")


def load_safetensors(path):
    """-> bfloat16 tensors by name, as float64."""
    with open(path, "rb") as file:
        data = file.read()
    (header_bytes,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + header_bytes]).items():
        if name == "__metadata__":
            continue
        assert entry["dtype"] == "BF16", name
        start, end = entry["data_offsets"]
        upper_half = np.frombuffer(data, np.uint16, (end - start) // 2, 8 + header_bytes + start)
        values = (upper_half.astype(np.uint32) << 16).view(np.float32)
        tensors[name] = values.reshape(entry["shape"]).astype(np.float64)
    return tensors


def entmax15(a):
    """p = max(a / 2 - tau, 0)^2 with sum 1, over the last axis; entries of -inf are masked."""
    s = a / 2
    s = s - s.max(-1, keepdims=True)
    ordered = -np.sort(-s, -1)
    ordered = np.where(np.isfinite(ordered), ordered, -1e6)
    count = np.arange(1, ordered.shape[-1] + 1)
    mean = np.cumsum(ordered, -1) / count
    mean_square = np.cumsum(ordered * ordered, -1) / count
    under_root = (1 - count * (mean_square - mean * mean)) / count
    tau = mean - np.sqrt(np.maximum(under_root, 0))
    support = (tau <= ordered).sum(-1, keepdims=True)
    return np.maximum(s - np.take_along_axis(tau, support - 1, -1), 0) ** 2


def silu(x):
    return x / (1 + np.exp(-x))


class Model:
    """model(ids) feeds tokens after those already fed -> logits [vocabulary] of the last one."""

    def __init__(self, folder):
        with open(f"{folder}/config.json") as file:
            self.config = json.load(file)
        self.weights = load_safetensors(f"{folder}/model.safetensors")
        self.heads = self.config["num_attention_heads"]
        self.kv_heads = self.config["num_key_value_heads"]
        self.head_dim = self.config["head_dim"]
        self.alibi_heads = self.config["alibi_num_heads"]
        self.reset()

    def reset(self):
        """Forgets all tokens."""
        layers = range(self.config["num_hidden_layers"])
        self.keys = [[] for _ in layers]
        self.values = [[] for _ in layers]
        self.fed = 0

    def __call__(self, ids):
        position = self.fed + np.arange(len(ids))
        x = self.weights["model.embed_tokens.weight"][ids]
        for layer in range(self.config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}"
            h = self.norm(x, f"{prefix}.input_layernorm")
            x = x + self.linear(self.attention(layer, h, position), f"{prefix}.self_attn.o_proj")
            h = self.norm(x, f"{prefix}.post_attention_layernorm")
            gate = self.linear(h, f"{prefix}.mlp.gate_proj")
            up = self.linear(h, f"{prefix}.mlp.up_proj")
            x = x + self.linear(silu(gate) * up, f"{prefix}.mlp.down_proj")
        self.fed += len(ids)
        return self.linear(self.norm(x[-1], "model.norm"), "model.embed_tokens")

    def linear(self, x, name):
        return x @ self.weights[f"{name}.weight"].T

    def norm(self, x, name):
        root = np.sqrt((x * x).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
        return x / root * self.weights[f"{name}.weight"]

    def query_scale(self, prefix, h, position):
        """[tokens, heads without a bias]: delta + beta * log(i + 2)^gamma."""
        beta = np.logaddexp(0, self.linear(h, f"{prefix}.attn_scale_beta_proj"))
        gamma = np.tanh(self.linear(h, f"{prefix}.attn_scale_gamma_proj"))
        gamma = self.config["attn_scale_gamma_range"] * gamma
        return self.config["attn_scale_delta"] + beta * np.log(position + 2.0)[:, None] ** gamma

    def attention(self, layer, h, position):
        """h [tokens, hidden] -> [tokens, heads * head_dim]; keeps keys and values."""
        prefix = f"model.layers.{layer}.self_attn"
        count = len(h)
        q = self.linear(h, f"{prefix}.q_proj").reshape(count, self.heads, self.head_dim)
        k = self.linear(h, f"{prefix}.k_proj").reshape(count, self.kv_heads, self.head_dim)
        v = self.linear(h, f"{prefix}.v_proj").reshape(count, self.kv_heads, self.head_dim)
        q[:, self.alibi_heads :] *= self.query_scale(prefix, h, position)[..., None]
        self.keys[layer].append(k)
        self.values[layer].append(v)
        keys = np.concatenate(self.keys[layer])
        values = np.concatenate(self.values[layer])
        key = np.arange(len(keys))
        out = np.empty((count, self.heads, self.head_dim))
        for head in range(self.heads):
            kv_head = head // (self.heads // self.kv_heads)
            slope = 2.0**-head if head < self.alibi_heads else 0.0
            for start in range(0, count, ROWS_AT_ONCE):
                chunk = slice(start, start + ROWS_AT_ONCE)
                row = position[chunk, None]
                products = q[chunk, head] @ keys[:, kv_head].T / np.sqrt(self.head_dim)
                scores = products + slope * (key[None] - row)
                weights = entmax15(np.where(key[None] <= row, scores, -np.inf))
                out[chunk, head] = weights @ values[:, kv_head]
        return out.reshape(count, -1)


def check(model, entry):
    """-> the largest difference of a stored logit, and whether the greedy tokens are equal."""
    model.reset()
    logits = model(np.array(entry["ids"]))
    difference = max(abs(logits[token] - logit) for token, logit in entry["top"])
    top = [int(token) for token in np.argsort(-logits)[: len(entry["top"])]]
    same_order = top == [token for token, _ in entry["top"]]
    greedy = []
    for _ in entry["greedy"]:
        token = int(logits.argmax())
        greedy.append(token)
        logits = model(np.array([token]))
    same_tokens = greedy == entry["greedy"]
    print(
        f"{entry['name']}: {len(entry['ids'])} tokens, max logit difference {difference:.2e}, "
        f"same top 20 order: {same_order}, same greedy tokens: {same_tokens}",
        flush=True,
    )
    return difference, same_tokens


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--model", default=MODEL_FOLDER, help="folder of the exported model")
    add("--reference", help="a file; MODEL/reference.json if not given")
    return parser.parse_args()


def main():
    args = parse_arguments()
    model = Model(args.model)
    with open(args.reference or f"{args.model}/reference.json") as file:
        results = [check(model, entry) for entry in json.load(file)["prompts"]]
    same = all(same_tokens for _, same_tokens in results)
    verdict = "all greedy tokens equal" if same else "GREEDY DIFFERS"
    print(f"max difference {max(difference for difference, _ in results):.3e}", verdict)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
