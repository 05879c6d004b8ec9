"""Exports a trained state to a Hugging Face folder.

Reads a saved state (model.py) and a tokenizer.json (build_data.py). Writes to OUT:
model.safetensors (bfloat16), config.json, tokenizer.json, tokenizer_config.json and
generation_config.json.
"""

import argparse
import json
import os
import shutil

import torch
from safetensors.torch import load_file, save_file

import rows
from model import load_state

CONTEXT = 131072

# Parameters of a layer: their names in the state and in the folder.
LAYER_NAMES = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "w_q": "self_attn.q_proj",
    "w_k": "self_attn.k_proj",
    "w_v": "self_attn.v_proj",
    "w_o": "self_attn.o_proj",
    "w_gate": "mlp.gate_proj",
    "w_up": "mlp.up_proj",
    "w_down": "mlp.down_proj",
}
SCALE_NAMES = ("attn_scale_beta_proj", "attn_scale_gamma_proj")  # the halves of w_scale


def exported_names(config):
    """-> by each parameter's name in the state, its tensors' in the folder, parts of it in order."""
    names = {
        "embedding": ["model.embed_tokens.weight"],
        "final_norm": ["model.norm.weight"],
    }
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}"
        for name, exported in LAYER_NAMES.items():
            names[f"layers.{layer}.{name}"] = [f"{prefix}.{exported}.weight"]
        if config.scaled_heads:
            scales = [f"{prefix}.self_attn.{name}.weight" for name in SCALE_NAMES]
            names[f"layers.{layer}.w_scale"] = scales
    return names


def named_tensors(parameters, config):
    """-> bfloat16 tensors by Hugging Face's names."""
    tensors = {}
    for name, exported in exported_names(config).items():
        tensors.update(zip(exported, parameters[name].chunk(len(exported))))
    return {name: tensor.bfloat16().contiguous() for name, tensor in tensors.items()}


def read_exported(folder, config):
    """-> the parameters of an exported folder, float32 tensors by their names in model.Model."""
    tensors = load_file(f"{folder}/model.safetensors")
    return {
        name: torch.cat([tensors[part] for part in exported]).float()
        for name, exported in exported_names(config).items()
    }


def model_config(config):
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocabulary,
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "bos_token_id": rows.BOS,
        "eos_token_id": rows.EOS,
        "pad_token_id": rows.PAD,
        "initializer_range": 0.02,
    } | attention_config(config)


def attention_config(config):
    alpha = {} if config.alpha == 1 else {"entmax_alpha": config.alpha}
    if config.rotary:
        return alpha | {"rope_theta": config.rope_theta}
    return alpha | {
        "apply_rotary": False,
        "apply_nape": True,
        "alibi_num_heads": config.alibi_heads,
        "alibi_slope_type": "exp",
        "alibi_slopes": config.alibi_slopes[: config.alibi_heads],
        "attn_scale_type": "adapt-softplus-tanh",
        "attn_scale_delta": config.scale_delta,
        "attn_scale_gamma_range": config.scale_gamma_range,
        "attn_scale_proj_bias": False,
    }


TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|bos|>",
    "eos_token": "<|eos|>",
    "pad_token": "<|pad|>",
    "add_bos_token": True,
    "add_eos_token": False,
    "clean_up_tokenization_spaces": False,
    "model_max_length": CONTEXT,
}

GENERATION_CONFIG = {
    "bos_token_id": rows.BOS,
    "eos_token_id": rows.EOS,
    "pad_token_id": rows.PAD,
    "do_sample": True,
    "temperature": 0.7,
    "min_p": 0.08,
    "repetition_penalty": 1.1,
}


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--state", default="stage2/state.pt", help="trained state")
    add("--tokenizer", default="data/tokenizer.json", help="the tokenizer it was trained with")
    add("--out", default="models/recall-9m", help="folder to write")
    return parser.parse_args()


def main():
    args = parse_arguments()
    os.makedirs(args.out, exist_ok=True)
    config, parameters = load_state(args.state)
    tensors = named_tensors(parameters, config)
    save_file(tensors, f"{args.out}/model.safetensors", metadata={"format": "pt"})
    configurations = {
        "config": model_config(config),
        "tokenizer_config": TOKENIZER_CONFIG,
        "generation_config": GENERATION_CONFIG,
    }
    for name, value in configurations.items():
        with open(f"{args.out}/{name}.json", "w") as file:
            json.dump(value, file, indent=2)
    shutil.copyfile(args.tokenizer, f"{args.out}/tokenizer.json")
    print(sum(tensor.numel() for tensor in tensors.values()), "parameters")


if __name__ == "__main__":
    main()
