"""Training state (pieces state.pt.N) -> Hugging Face folder. Usage: export.py STATE_PREFIX TOKENIZER_JSON OUT_DIR"""

import glob, io, json, shutil, sys
import torch
from safetensors.torch import save_file

src, tok, out = sys.argv[1:4]
d = torch.load(
    io.BytesIO(b''.join(open(f, 'rb').read() for f in sorted(glob.glob(src + '.*')))),
    map_location='cpu',
)
t = {'model.embed_tokens.weight': d['emb'], 'model.norm.weight': d['nf']}
N = dict(
    n1='input_layernorm',
    n2='post_attention_layernorm',
    wq='self_attn.q_proj',
    wk='self_attn.k_proj',
    wv='self_attn.v_proj',
    wo='self_attn.o_proj',
    wg='mlp.gate_proj',
    wu='mlp.up_proj',
    wd='mlp.down_proj',
)
for l in range(6):
    for a, b in N.items():
        t[f'model.layers.{l}.{b}.weight'] = d[f'L.{l}.{a}']
    w = d[f'L.{l}.wbg']
    t[f'model.layers.{l}.self_attn.attn_scale_beta_proj.weight'] = w[:4]
    t[f'model.layers.{l}.self_attn.attn_scale_gamma_proj.weight'] = w[4:]
t = {k: v.bfloat16().contiguous() for k, v in t.items()}
save_file(t, out + '/model.safetensors', metadata={'format': 'pt'})
cfg = dict(
    architectures=['LlamaForCausalLM'],
    model_type='llama',
    vocab_size=4096,
    hidden_size=320,
    intermediate_size=896,
    num_hidden_layers=6,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=64,
    hidden_act='silu',
    rms_norm_eps=1e-5,
    max_position_embeddings=131072,
    tie_word_embeddings=True,
    attention_bias=False,
    mlp_bias=False,
    attention_dropout=0.0,
    torch_dtype='bfloat16',
    use_cache=True,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=2,
    initializer_range=0.02,
    entmax_alpha=1.5,
    apply_rotary=False,
    apply_nape=True,
    alibi_num_heads=4,
    alibi_slope_type='exp',
    alibi_slopes=[1.0, 0.5, 0.25, 0.125],
    attn_scale_type='adapt-softplus-tanh',
    attn_scale_delta=1.0,
    attn_scale_gamma_range=1.0,
    attn_scale_proj_bias=False,
)
json.dump(cfg, open(out + '/config.json', 'w'), indent=2)
shutil.copy(tok, out + '/tokenizer.json')
json.dump(
    dict(
        tokenizer_class='PreTrainedTokenizerFast',
        bos_token='<|bos|>',
        eos_token='<|eos|>',
        pad_token='<|pad|>',
        add_bos_token=True,
        add_eos_token=False,
        clean_up_tokenization_spaces=False,
        model_max_length=131072,
    ),
    open(out + '/tokenizer_config.json', 'w'),
    indent=2,
)
json.dump(
    dict(
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        do_sample=True,
        temperature=0.7,
        min_p=0.08,
        repetition_penalty=1.1,
    ),
    open(out + '/generation_config.json', 'w'),
    indent=2,
)
print(sum(v.numel() for v in t.values()), 'parameters')
