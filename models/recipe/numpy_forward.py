"""An independent forward pass in plain NumPy, float64, entmax-1.5 by sorting. Checks reference.json.

Usage: numpy_forward.py MODEL_DIR [REFERENCE_JSON]
"""

import json, struct, sys
import numpy as np


def load(path):
    b = open(path, 'rb').read()
    n = struct.unpack('<Q', b[:8])[0]
    out = {}
    for k, e in json.loads(b[8 : 8 + n]).items():
        if k == '__metadata__':
            continue
        assert e['dtype'] == 'BF16'
        s, t = e['data_offsets']
        out[k] = (
            (np.frombuffer(b, np.uint16, (t - s) // 2, 8 + n + s).astype(np.uint32) << 16)
            .view(np.float32)
            .reshape(e['shape'])
            .astype(np.float64)
        )
    return out


def entmax15(a):
    """p = max(a/2 - tau, 0)^2 with sum 1, over the last axis; -inf entries are masked."""
    s = a / 2
    s = s - s.max(-1, keepdims=True)
    z = -np.sort(-s, -1)
    z = np.where(np.isfinite(z), z, -1e6)
    k = np.arange(1, z.shape[-1] + 1)
    m = np.cumsum(z, -1) / k
    q = np.cumsum(z * z, -1) / k
    tau = m - np.sqrt(np.maximum((1 - k * (q - m * m)) / k, 0))
    n = (tau <= z).sum(-1, keepdims=True)
    return np.maximum(s - np.take_along_axis(tau, n - 1, -1), 0) ** 2


class Model:
    def __init__(s, folder):
        s.c = json.load(open(folder + '/config.json'))
        s.w = load(folder + '/model.safetensors')
        s.reset()

    def reset(s):
        s.k = [[] for _ in range(s.c['num_hidden_layers'])]
        s.v = [[] for _ in s.k]
        s.n = 0

    def norm(s, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + s.c['rms_norm_eps']) * s.w[name]

    def __call__(s, ids):
        """Feeds tokens after those already fed; -> logits of the last one."""
        c, w = s.c, s.w
        H, HK, D, A = (
            c['num_attention_heads'],
            c['num_key_value_heads'],
            c['head_dim'],
            c['alibi_num_heads'],
        )
        T = len(ids)
        i = s.n + np.arange(T)
        x = w['model.embed_tokens.weight'][ids]
        slope = np.array([2.0**-h for h in range(A)] + [0.0] * (H - A))
        for l in range(c['num_hidden_layers']):
            p = f'model.layers.{l}.'
            h = s.norm(x, p + 'input_layernorm.weight')
            q = (h @ w[p + 'self_attn.q_proj.weight'].T).reshape(T, H, D)
            k = (h @ w[p + 'self_attn.k_proj.weight'].T).reshape(T, HK, D)
            v = (h @ w[p + 'self_attn.v_proj.weight'].T).reshape(T, HK, D)
            beta = np.logaddexp(0, h @ w[p + 'self_attn.attn_scale_beta_proj.weight'].T)
            gamma = c['attn_scale_gamma_range'] * np.tanh(
                h @ w[p + 'self_attn.attn_scale_gamma_proj.weight'].T
            )
            q[:, A:] *= (c['attn_scale_delta'] + beta * np.log(i + 2.0)[:, None] ** gamma)[
                ..., None
            ]
            s.k[l].append(k)
            s.v[l].append(v)
            K = np.concatenate(s.k[l])
            V = np.concatenate(s.v[l])
            j = np.arange(len(K))
            o = np.empty((T, H, D))
            for e in range(H):
                g = e // (H // HK)
                for r in range(0, T, 256):
                    ii = i[r : r + 256, None]
                    a = q[r : r + 256, e] @ K[:, g].T / np.sqrt(D) + slope[e] * (j[None] - ii)
                    o[r : r + 256, e] = entmax15(np.where(j[None] <= ii, a, -np.inf)) @ V[:, g]
            x = x + o.reshape(T, H * D) @ w[p + 'self_attn.o_proj.weight'].T
            h = s.norm(x, p + 'post_attention_layernorm.weight')
            gt = h @ w[p + 'mlp.gate_proj.weight'].T
            x = (
                x
                + (gt / (1 + np.exp(-gt)) * (h @ w[p + 'mlp.up_proj.weight'].T))
                @ w[p + 'mlp.down_proj.weight'].T
            )
        s.n += T
        return s.norm(x[-1], 'model.norm.weight') @ w['model.embed_tokens.weight'].T


def main():
    m = Model(sys.argv[1])
    R = json.load(open(sys.argv[2] if len(sys.argv) > 2 else sys.argv[1] + '/reference.json'))
    worst = 0
    ok = True
    for e in R['prompts']:
        m.reset()
        z = m(np.array(e['ids']))
        d = max(abs(z[t] - v) for t, v in e['top'])
        worst = max(worst, d)
        out = []
        top = [int(t) for t in np.argsort(-z)[:20]]
        for _ in range(len(e['greedy'])):
            t = int(z.argmax())
            out.append(t)
            z = m(np.array([t]))
        same = out == e['greedy']
        ok &= same
        print(
            f"{e['name']}: {len(e['ids'])} tokens, max logit difference {d:.2e}, same top 20 order: {top == [t for t, _ in e['top']]}, same greedy tokens: {same}",
            flush=True,
        )
    print(f'max difference {worst:.3e}', 'all greedy tokens equal' if ok else 'GREEDY DIFFERS')


if __name__ == '__main__':
    main()
