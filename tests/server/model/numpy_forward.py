"""A model folder's logits in plain NumPy: what Tauserve's transformer is compared with.

It shares nothing with the C++ code but the file formats. Every architecture, rotary kind and entmax
key that the server reads is here; entmax by sorting (alpha 1.5 and 2) or bisection (any other), in
float64 unless asked otherwise.

Usage: numpy_forward.py MODEL_DIR TOKEN...     prints the five likeliest next tokens
"""
import json
import math
import os
import struct
import sys

import numpy as np

ROWS = 256  # queries whose scores are held at once


def load_tensors(folder, dtype):
    """All tensors of model.safetensors or of the shards of its index."""
    index = os.path.join(folder, 'model.safetensors.index.json')
    if os.path.exists(os.path.join(folder, 'model.safetensors')):
        files = ['model.safetensors']
    else:
        with open(index) as f:
            files = sorted(set(json.load(f)['weight_map'].values()))
    tensors = {}
    for name in files:
        with open(os.path.join(folder, name), 'rb') as f:
            data = f.read()
        size = struct.unpack('<Q', data[:8])[0]
        for key, entry in json.loads(data[8:8 + size]).items():
            if key == '__metadata__':
                continue
            begin, end = entry['data_offsets']
            raw = data[8 + size + begin:8 + size + end]
            if entry['dtype'] == 'BF16':
                values = (np.frombuffer(raw, '<u2').astype(np.uint32) << 16).view(np.float32)
            else:
                values = np.frombuffer(raw, {'F32': '<f4', 'F16': '<f2'}[entry['dtype']])
            tensors[key] = values.astype(dtype).reshape(entry['shape'])
    return tensors


def softmax(a):
    p = np.exp(a - a.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def entmax_sorted(a, alpha):
    """Exact entmax for alpha 1.5 and 2 over the last axis (Peters et al. 2019, algorithm 2)."""
    s = (alpha - 1) * (a - a.max(-1, keepdims=True))
    z = np.where(np.isfinite(s), s, -1e6)
    z = -np.sort(-z, -1)
    k = np.arange(1, z.shape[-1] + 1)
    mean = np.cumsum(z, -1) / k
    if alpha == 2:
        tau = mean - 1 / k
    else:
        variance = np.cumsum(z * z, -1) / k - mean * mean
        tau = mean - np.sqrt(np.maximum(1 / k - variance, 0))
    support = (tau <= z).sum(-1, keepdims=True)
    return np.maximum(s - np.take_along_axis(tau, support - 1, -1), 0) ** (1 / (alpha - 1))


def entmax_bisected(a, alpha):
    s = (alpha - 1) * (a - a.max(-1, keepdims=True))
    low = np.full(s.shape[:-1] + (1,), -1.0)
    high = np.zeros_like(low)
    for _ in range(70):
        tau = (low + high) / 2
        mass = (np.maximum(s - tau, 0) ** (1 / (alpha - 1))).sum(-1, keepdims=True)
        low = np.where(mass >= 1, tau, low)
        high = np.where(mass >= 1, high, tau)
    p = np.maximum(s - low, 0) ** (1 / (alpha - 1))
    return p / p.sum(-1, keepdims=True)


def weights(a, alpha):
    if alpha == 1:
        return softmax(a)
    return entmax_sorted(a, alpha) if alpha in (1.5, 2) else entmax_bisected(a, alpha)


def rotary(config, head_dim):
    """(inverse frequencies, factor on cosine and sine)."""
    keys = dict(config.get('rope_parameters') or config.get('rope_scaling') or {})
    theta = keys.get('rope_theta', config.get('rope_theta', 10000.0))
    dim = int(head_dim * keys.get('partial_rotary_factor', config.get('partial_rotary_factor', 1)))
    f = 1 / theta ** (np.arange(0, dim, 2) / dim)
    kind = keys.get('rope_type', keys.get('type', 'default'))
    if kind == 'default':
        return f, 1.0
    factor = keys['factor']
    if kind == 'linear':
        return f / factor, 1.0
    context = keys.get('original_max_position_embeddings', config['max_position_embeddings'])
    if kind == 'llama3':
        low, high = keys['low_freq_factor'], keys['high_freq_factor']
        wavelength = 2 * np.pi / f
        smooth = np.clip((context / wavelength - low) / (high - low), 0, 1)
        return (1 - smooth) * f / factor + smooth * f, 1.0
    assert kind == 'yarn', kind

    def scale(m):
        return 0.1 * m * math.log(factor) + 1 if factor > 1 else 1.0
    attention = keys.get('attention_factor')
    if attention is None:
        both = keys.get('mscale') and keys.get('mscale_all_dim')
        attention = scale(keys['mscale']) / scale(keys['mscale_all_dim']) if both else scale(1)

    def pair(turns):
        return dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))
    first, last = pair(keys.get('beta_fast') or 32), pair(keys.get('beta_slow') or 1)
    if keys.get('truncate', True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    if first == last:
        last += 0.001
    ramp = np.clip((np.arange(dim // 2) - first) / (last - first), 0, 1)
    return f / factor * ramp + f * (1 - ramp), attention


def windows(config):
    """Keys that each layer's queries see, None for all."""
    kind, layers = config['architectures'][0], config['num_hidden_layers']
    if kind == 'MistralForCausalLM':
        return [config.get('sliding_window', 4096)] * layers
    if kind == 'LlamaForCausalLM' or not config.get('use_sliding_window'):
        return [None] * layers
    types = config.get('layer_types') or [
        'sliding_attention' if i >= config.get('max_window_layers', 28) else 'full_attention'
        for i in range(layers)]
    return [config.get('sliding_window', 4096) if t == 'sliding_attention' else None
            for t in types]


class Model:
    def __init__(self, folder, dtype=np.float64):
        with open(os.path.join(folder, 'config.json')) as f:
            self.config = c = json.load(f)
        self.dtype = dtype
        self.w = load_tensors(folder, dtype)
        self.heads = c['num_attention_heads']
        self.kv_heads = c.get('num_key_value_heads') or self.heads
        self.dim = c.get('head_dim') or c['hidden_size'] // self.heads
        self.frequencies, self.rotary_factor = rotary(c, self.dim)
        self.windows = windows(c)
        self.alibi_heads = 0
        self.slopes = np.zeros(self.heads)
        if c.get('apply_nape'):
            self.alibi_heads = n = c.get('alibi_num_heads', self.heads // 2)
            by_type = [1 / i if c.get('alibi_slope_type', 'linear') == 'linear' else 2.0 ** (1 - i)
                       for i in range(1, n + 1)]
            self.slopes[:n] = c.get('alibi_slopes') or by_type
        self.reset()

    def reset(self):
        """Forgets all tokens."""
        self.length = 0
        layers = self.config['num_hidden_layers']
        self.keys = [np.zeros((0, self.kv_heads, self.dim), self.dtype) for _ in range(layers)]
        self.values = [np.zeros((0, self.kv_heads, self.dim), self.dtype) for _ in range(layers)]

    def alpha(self, layer, head):
        a = self.config.get('entmax_alpha', 1)
        a = a[layer] if isinstance(a, list) else a
        return a[head] if isinstance(a, list) else a

    def norm(self, x, name):
        mean = (x * x).mean(-1, keepdims=True)
        return x / np.sqrt(mean + self.dtype(self.config.get('rms_norm_eps', 1e-6))) * self.w[name]

    def linear(self, x, name):
        y = x @ self.w[name + '.weight'].T
        return y + self.w[name + '.bias'] if name + '.bias' in self.w else y

    def rotate(self, x, positions):
        angle = positions[:, None, None] * self.frequencies
        cosine = (np.cos(angle) * self.rotary_factor).astype(self.dtype)
        sine = (np.sin(angle) * self.rotary_factor).astype(self.dtype)
        half = len(self.frequencies)
        a, b, rest = x[..., :half], x[..., half:2 * half], x[..., 2 * half:]
        return np.concatenate([a * cosine - b * sine, b * cosine + a * sine, rest], -1)

    def query_scale(self, h, positions, prefix):
        """[tokens, heads without ALiBi]"""
        c, log = self.config, np.log(positions + 2.0)[:, None]
        kind = c['attn_scale_type']
        if kind == 'nakanishi':
            return log * self.w[prefix + 'attn_scale_beta'].reshape(1, -1)
        if kind == 'learn':
            beta = self.w[prefix + 'attn_scale_beta'].reshape(1, -1)
            gamma = self.w[prefix + 'attn_scale_gamma'].reshape(1, -1)
        else:
            beta = np.logaddexp(0, self.linear(h, prefix + 'attn_scale_beta_proj'))
            gamma = c.get('attn_scale_gamma_range', 2) * np.tanh(
                self.linear(h, prefix + 'attn_scale_gamma_proj'))
        return c.get('attn_scale_delta', 1) + beta * log ** gamma

    def attention(self, layer, h):
        prefix = f'model.layers.{layer}.self_attn.'
        n = len(h)
        positions = self.length + np.arange(n)
        q = self.linear(h, prefix + 'q_proj').reshape(n, self.heads, self.dim)
        k = self.linear(h, prefix + 'k_proj').reshape(n, self.kv_heads, self.dim)
        v = self.linear(h, prefix + 'v_proj').reshape(n, self.kv_heads, self.dim)
        if prefix + 'q_norm.weight' in self.w:
            q, k = self.norm(q, prefix + 'q_norm.weight'), self.norm(k, prefix + 'k_norm.weight')
        if self.config.get('apply_rotary', True):
            q, k = self.rotate(q, positions), self.rotate(k, positions)
        if self.config.get('attn_scale_type'):
            scale = self.query_scale(h, positions, prefix)
            q[:, self.alibi_heads:] *= scale[..., None].astype(self.dtype)
        self.keys[layer] = np.concatenate([self.keys[layer], k])
        self.values[layer] = np.concatenate([self.values[layer], v])
        j = np.arange(self.length + n)
        out = np.empty((n, self.heads, self.dim), self.dtype)
        for head in range(self.heads):
            g = head // (self.heads // self.kv_heads)
            for r in range(0, n, ROWS):
                i = positions[r:r + ROWS, None]
                a = q[r:r + ROWS, head] @ self.keys[layer][:, g].T / math.sqrt(self.dim)
                a = a + (self.slopes[head] * (j - i)).astype(self.dtype)
                hidden = j > i
                if self.windows[layer] is not None:
                    hidden |= j <= i - self.windows[layer]
                p = weights(np.where(hidden, -np.inf, a), self.alpha(layer, head))
                out[r:r + ROWS, head] = p @ self.values[layer][:, g]
        return self.linear(out.reshape(n, -1), prefix + 'o_proj')

    def mlp(self, layer, h):
        prefix = f'model.layers.{layer}.mlp.'
        gate = self.linear(h, prefix + 'gate_proj')
        if self.config.get('hidden_act', 'silu') == 'silu':
            gate = gate / (1 + np.exp(-gate))
        else:
            assert self.config['hidden_act'] == 'gelu_pytorch_tanh'
            gate = gate / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate ** 3)))
        return self.linear(gate * self.linear(h, prefix + 'up_proj'), prefix + 'down_proj')

    def __call__(self, ids, last_only=False):
        """Logits of `ids`, which follow the tokens given before: [len(ids) or 1, vocab_size]."""
        x = self.w['model.embed_tokens.weight'][np.asarray(ids)]
        for layer in range(self.config['num_hidden_layers']):
            prefix = f'model.layers.{layer}.'
            x = x + self.attention(layer, self.norm(x, prefix + 'input_layernorm.weight'))
            x = x + self.mlp(layer, self.norm(x, prefix + 'post_attention_layernorm.weight'))
        self.length += len(ids)
        x = self.norm(x[-1:] if last_only else x, 'model.norm.weight')
        tied = self.config.get('tie_word_embeddings', False)
        return x @ self.w['model.embed_tokens.weight' if tied else 'lm_head.weight'].T

    def greedy(self, ids, count):
        self.reset()
        logits, tokens = self(ids, last_only=True), []
        for _ in range(count):
            tokens.append(int(logits[-1].argmax()))
            if len(tokens) < count:
                logits = self(tokens[-1:], last_only=True)
        return tokens


if __name__ == '__main__':
    result = Model(sys.argv[1])([int(t) for t in sys.argv[2:]])[-1]
    for token in np.argsort(-result)[:5]:
        print(token, result[token])
