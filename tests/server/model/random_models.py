"""Model folders with random weights, tiny, one for each architecture and key that the server reads.

The weights come from the raw bits of PCG64, whose stream NumPy guarantees: the same seed gives the
same model everywhere, so that stored expectations need no stored weights.

Usage: random_models.py FOLDER [SEED]      writes all of them under FOLDER
"""
import json
import os
import shutil
import struct
import sys

import numpy as np

BASE = dict(vocab_size=131, hidden_size=64, intermediate_size=112, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, head_dim=32, hidden_act='silu',
            rms_norm_eps=1e-5, max_position_embeddings=4096, tie_word_embeddings=False,
            rope_theta=10000.0)
NAPE = dict(apply_rotary=False, apply_nape=True, alibi_num_heads=2)
LLAMA3 = dict(rope_type='llama3', factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
YARN = dict(rope_type='yarn', factor=4.0, original_max_position_embeddings=128)

# name: (architecture, keys over BASE, storage). SOFTMAX has keys that Hugging Face knows too.
SOFTMAX = {
    'llama': ('Llama', {}, 'F32'),
    'llama-gqa4-dim64-tied': ('Llama', dict(head_dim=64, num_key_value_heads=1,
                                            tie_word_embeddings=True), 'F32'),
    'llama-mha-bias': ('Llama', dict(num_key_value_heads=4, attention_bias=True, mlp_bias=True,
                                     rms_norm_eps=0.1), 'F32'),
    'llama-gelu-no-head-dim': ('Llama', dict(head_dim=None, hidden_size=128,
                                             hidden_act='gelu_pytorch_tanh'), 'F32'),
    'llama-linear': ('Llama', dict(rope_scaling=dict(type='linear', factor=4.0)), 'F32'),
    'llama-llama3': ('Llama', dict(rope_scaling=LLAMA3, rope_theta=500000.0), 'F32'),
    'llama-yarn': ('Llama', dict(rope_scaling=YARN), 'F32'),
    'llama-yarn-mscale': ('Llama', dict(rope_scaling=dict(
        YARN, mscale=1.0, mscale_all_dim=0.8, beta_fast=16, beta_slow=2, truncate=False)), 'F32'),
    'llama-yarn-factor': ('Llama', dict(rope_scaling=dict(YARN, attention_factor=1.3)), 'F32'),
    'llama-rope-parameters': ('Llama', dict(rope_theta=None, rope_parameters=dict(
        LLAMA3, rope_theta=20000.0)), 'F32'),
    'mistral': ('Mistral', dict(sliding_window=37), 'F32'),
    'mistral-no-window': ('Mistral', dict(sliding_window=None), 'F32'),
    'qwen2': ('Qwen2', dict(use_sliding_window=False, sliding_window=16), 'F32'),
    'qwen2-window': ('Qwen2', dict(use_sliding_window=True, sliding_window=65,
                                   max_window_layers=1), 'F32'),
    'qwen3': ('Qwen3', dict(hidden_size=80), 'F32'),
    'qwen3-layer-types-bias': ('Qwen3', dict(attention_bias=True, use_sliding_window=True,
                                             sliding_window=20, layer_types=[
        'sliding_attention', 'full_attention', 'sliding_attention']), 'F32'),
}
ENTMAX = {
    'llama-1.5': ('Llama', dict(entmax_alpha=1.5), 'F32'),
    'llama-2-f16': ('Llama', dict(entmax_alpha=2), 'F16'),
    'llama-1.33-bf16': ('Llama', dict(entmax_alpha=1.33), 'BF16'),
    'llama-partial-shards': ('Llama', dict(entmax_alpha=1.5, partial_rotary_factor=0.5), 'shards'),
    'llama-layers': ('Llama', dict(entmax_alpha=[1, 1.5, 2.0]), 'F32'),
    'llama-heads': ('Llama', dict(entmax_alpha=[[1, 1.25, 1.5, 2], [1.5, 1.5, 1.9, 1.9],
                                                [2, 1, 2, 1]]), 'F32'),
    'llama-mixed-alpha': ('Llama', dict(entmax_alpha=[1.5, [1, 1.25, 1.5, 2], 1.1]), 'F32'),
    'llama-nope': ('Llama', dict(entmax_alpha=1.5, apply_rotary=False), 'F32'),
    'nape-linear': ('Llama', dict(NAPE, entmax_alpha=1.5), 'F32'),
    'nape-exp': ('Llama', dict(NAPE, entmax_alpha=1.75, alibi_slope_type='exp',
                               alibi_num_heads=3), 'F32'),
    'nape-slopes': ('Llama', dict(NAPE, entmax_alpha=1.5, alibi_slopes=[0.3, 0.01]), 'F32'),
    'nape-softmax': ('Llama', dict(NAPE), 'F32'),
    'nape-rotary': ('Llama', dict(NAPE, entmax_alpha=1.5, apply_rotary=True), 'F32'),
    'nape-default-heads': ('Llama', dict(entmax_alpha=1.5, apply_rotary=False, apply_nape=True),
                           'F32'),
    'asentmax': ('Llama', dict(NAPE, entmax_alpha=1.5, attn_scale_type='adapt-softplus-tanh',
                               attn_scale_delta=0.5, attn_scale_gamma_range=1.5), 'F32'),
    'asentmax-bias-all-heads': ('Llama', dict(entmax_alpha=1.5, attn_scale_proj_bias=True,
                                              attn_scale_type='adapt-softplus-tanh'), 'F32'),
    'learn': ('Llama', dict(NAPE, entmax_alpha=1.5, attn_scale_type='learn'), 'F32'),
    'nakanishi': ('Llama', dict(NAPE, entmax_alpha=1, attn_scale_type='nakanishi'), 'bf16-shards'),
    'mistral-1.5': ('Mistral', dict(entmax_alpha=1.5, sliding_window=37), 'F32'),
    'qwen2-asentmax': ('Qwen2', dict(NAPE, entmax_alpha=1.5,
                                     attn_scale_type='adapt-softplus-tanh'), 'F32'),
    'qwen3-1.6': ('Qwen3', dict(entmax_alpha=1.6, rope_scaling=YARN), 'F32'),
}
ALL = {**SOFTMAX, **ENTMAX}


class Bits:
    """Uniform numbers of mean 0 and standard deviation 1."""

    def __init__(self, seed):
        self.bits = np.random.PCG64(seed)

    def __call__(self, *shape):
        raw = self.bits.random_raw(int(np.prod(shape)))
        unit = (raw >> np.uint64(11)).astype(np.float64) * 2.0 ** -52 - 1
        return (unit * np.sqrt(3)).reshape(shape)


def make_config(architecture, keys):
    config = dict(BASE, architectures=[architecture + 'ForCausalLM'],
                  model_type=architecture.lower(), **{k: v for k, v in keys.items()
                                                      if k not in BASE})
    config.update({k: v for k, v in keys.items() if k in BASE})
    # None means a key that is not there, but for the window, where null says that there is none.
    return {k: v for k, v in config.items() if v is not None or k == 'sliding_window'}


def make_tensors(config, bits):
    """{name: float64 array}; scores get a standard deviation of about 2."""
    hidden, inner = config['hidden_size'], config['intermediate_size']
    heads, kv_heads = config['num_attention_heads'], config['num_key_value_heads']
    dim = config.get('head_dim') or hidden // heads
    kind = config['architectures'][0]
    tensors = {}

    def linear(name, rows, cols, gain=1.0, bias=False):
        tensors[name + '.weight'] = bits(rows, cols) * gain / np.sqrt(cols)
        if bias:
            tensors[name + '.bias'] = bits(rows) * 0.3

    def norm(name, size):
        tensors[name] = 1 + 0.2 * bits(size)
    tensors['model.embed_tokens.weight'] = bits(config['vocab_size'], hidden)
    for layer in range(config['num_hidden_layers']):
        p = f'model.layers.{layer}.'
        norm(p + 'input_layernorm.weight', hidden)
        norm(p + 'post_attention_layernorm.weight', hidden)
        p += 'self_attn.'
        bias = config.get('attention_bias', False)
        qkv_bias = bias or kind.startswith('Qwen2')
        linear(p + 'q_proj', heads * dim, hidden, 1.4, qkv_bias)
        linear(p + 'k_proj', kv_heads * dim, hidden, 1.4, qkv_bias)
        linear(p + 'v_proj', kv_heads * dim, hidden, 1.0, qkv_bias)
        linear(p + 'o_proj', hidden, heads * dim, 1.0, bias)
        if kind.startswith('Qwen3'):
            norm(p + 'q_norm.weight', dim)
            norm(p + 'k_norm.weight', dim)
        alibi = config.get('alibi_num_heads', heads // 2) if config.get('apply_nape') else 0
        scale = config.get('attn_scale_type')
        if scale == 'adapt-softplus-tanh':
            for part in ('beta', 'gamma'):
                linear(p + f'attn_scale_{part}_proj', heads - alibi, hidden, 0.5,
                       config.get('attn_scale_proj_bias', False))
        elif scale:
            # As trained, and as plain vectors: the server takes both.
            shape = (1, heads - alibi, 1, 1) if layer % 2 == 0 else (heads - alibi,)
            tensors[p + 'attn_scale_beta'] = 0.5 + 0.2 * bits(*shape)
            if scale == 'learn':
                tensors[p + 'attn_scale_gamma'] = 0.3 * bits(*shape)
        p = f'model.layers.{layer}.mlp.'
        bias = config.get('mlp_bias', False)
        linear(p + 'gate_proj', inner, hidden, 1.0, bias)
        linear(p + 'up_proj', inner, hidden, 1.0, bias)
        linear(p + 'down_proj', hidden, inner, 1.0, bias)
    norm('model.norm.weight', hidden)
    if not config.get('tie_word_embeddings'):
        linear('lm_head', config['vocab_size'], hidden)
    return tensors


def encode(array, dtype):
    if dtype == 'BF16':
        u = array.astype('<f4').view('<u4')
        return ((u + 0x7fff + ((u >> 16) & 1)) >> 16).astype('<u2').tobytes()
    return array.astype({'F32': '<f4', 'F16': '<f2'}[dtype]).tobytes()


def write_safetensors(path, tensors, dtype):
    header, data = {}, []
    offset = 0
    for name, array in tensors.items():
        data.append(encode(array, dtype))
        header[name] = dict(dtype=dtype, shape=list(array.shape),
                            data_offsets=[offset, offset + len(data[-1])])
        offset += len(data[-1])
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with open(path, 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text + b''.join(data))


def write_model(folder, config, tensors, storage):
    """`storage`: F32, F16, BF16, shards (float32) or bf16-shards."""
    shutil.rmtree(folder, ignore_errors=True)  # files of another storage would be found first
    os.makedirs(folder)
    with open(os.path.join(folder, 'config.json'), 'w') as f:
        json.dump(config, f, indent=1)
    if 'shards' not in storage:
        write_safetensors(os.path.join(folder, 'model.safetensors'), tensors, storage)
        return
    dtype = 'BF16' if storage.startswith('bf16') else 'F32'
    names, weight_map = list(tensors), {}
    for i in range(3):
        shard = f'model-{i + 1:05}-of-00003.safetensors'
        part = {n: tensors[n] for n in names[i::3]}
        write_safetensors(os.path.join(folder, shard), part, dtype)
        weight_map.update({n: shard for n in part})
    with open(os.path.join(folder, 'model.safetensors.index.json'), 'w') as f:
        json.dump(dict(metadata={}, weight_map=weight_map), f)


def make_model(folder, case, seed):
    architecture, keys, storage = case
    config = make_config(architecture, keys)
    write_model(folder, config, make_tensors(config, Bits(seed)), storage)
    return config


def random_case(rng):
    """Any combination of keys that go together."""
    def pick(*choices):
        return choices[rng.integers(len(choices))]
    architecture = pick('Llama', 'Mistral', 'Qwen2', 'Qwen3')
    heads = int(pick(2, 4, 6, 8))
    layers = int(rng.integers(1, 4))
    keys = dict(num_attention_heads=heads, num_hidden_layers=layers,
                num_key_value_heads=int(pick(*[g for g in (1, 2, 3, 4, 6, 8) if heads % g == 0])),
                head_dim=int(pick(32, 48, 64)), hidden_size=int(rng.integers(17, 100)),
                intermediate_size=int(rng.integers(17, 150)), vocab_size=int(rng.integers(20, 300)),
                tie_word_embeddings=bool(pick(True, False)),
                rope_scaling=pick(None, dict(rope_type='linear', factor=2.5), LLAMA3, YARN),
                sliding_window=pick(None, int(rng.integers(1, 150))),
                use_sliding_window=bool(pick(True, False)),
                max_window_layers=int(rng.integers(0, 4)))

    def alpha():
        return pick(1, 1.5, 2, round(float(rng.uniform(1.1, 2)), 3))
    keys['entmax_alpha'] = pick(alpha(), [alpha() for _ in range(layers)],
                                [[alpha() for _ in range(heads)] for _ in range(layers)])
    if pick(True, False):
        keys.update(apply_nape=True, alibi_num_heads=int(rng.integers(0, heads)),
                    alibi_slope_type=pick('linear', 'exp'), apply_rotary=bool(pick(True, False)))
    keys['attn_scale_type'] = pick(None, 'adapt-softplus-tanh', 'learn', 'nakanishi')
    keys['attn_scale_proj_bias'] = bool(pick(True, False))
    if architecture in ('Llama', 'Qwen3'):
        keys['attention_bias'] = bool(pick(True, False))
    return architecture, keys, pick('F32', 'F16', 'BF16', 'shards')


if __name__ == '__main__':
    base_seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    for number, (model, spec) in enumerate(ALL.items()):
        make_model(os.path.join(sys.argv[1], model), spec, base_seed + number)
