#!/usr/bin/env python3
"""Writes a Llama-shaped model of random weights, for timings of a size that no small model shows.

  python3 tests/bench/make_llama.py --shape 8b --alpha 1.5 /tmp/llama-8b

Shapes are those of Llama 3 (1b: head_dim 64; 8b: head_dim 128). Query and key weights are such that attention's scores
have the standard deviation --sigma. --alpha 1 is softmax. The tokenizer is the embedded model's, so any text can be sent;
its ids are the first of the vocabulary. Needs NumPy; uses PyTorch and a GPU for the random numbers where they are.
"""

import argparse
import json
import math
import pathlib
import shutil
import struct

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHAPES = {
    "tiny": {"hidden": 256, "intermediate": 512, "layers": 2, "heads": 4, "kv_heads": 2, "dim": 64, "vocab": 4096},
    "1b": {"hidden": 2048, "intermediate": 8192, "layers": 16, "heads": 32, "kv_heads": 8, "dim": 64, "vocab": 128256},
    "8b": {"hidden": 4096, "intermediate": 14336, "layers": 32, "heads": 32, "kv_heads": 8, "dim": 128, "vocab": 128256},
}


def tensors(shape, sigma):
    """(name, shape, standard deviation; None: ones) in the file's order."""
    hidden, queries, keys = shape["hidden"], shape["heads"] * shape["dim"], shape["kv_heads"] * shape["dim"]
    unit = 1 / math.sqrt(hidden)
    pointed = math.sqrt(sigma) * unit
    yield "model.embed_tokens.weight", (shape["vocab"], hidden), 1.0
    for layer in range(shape["layers"]):
        at = f"model.layers.{layer}."
        yield at + "input_layernorm.weight", (hidden,), None
        yield at + "self_attn.q_proj.weight", (queries, hidden), pointed
        yield at + "self_attn.k_proj.weight", (keys, hidden), pointed
        yield at + "self_attn.v_proj.weight", (keys, hidden), unit
        yield at + "self_attn.o_proj.weight", (hidden, queries), 1 / math.sqrt(queries)
        yield at + "post_attention_layernorm.weight", (hidden,), None
        yield at + "mlp.gate_proj.weight", (shape["intermediate"], hidden), unit
        yield at + "mlp.up_proj.weight", (shape["intermediate"], hidden), unit
        yield at + "mlp.down_proj.weight", (hidden, shape["intermediate"]), 1 / math.sqrt(shape["intermediate"])
    yield "model.norm.weight", (hidden,), None
    yield "lm_head.weight", (shape["vocab"], hidden), unit


def random_source(seed):
    """A function (count, deviation) -> bytes of bfloat16."""
    try:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        generator = torch.Generator(device=device).manual_seed(seed)

        def draw(count, deviation):
            numbers = torch.randn(count, generator=generator, device=device).mul_(deviation).to(torch.bfloat16)
            return numbers.view(torch.int16).cpu().numpy().data

    except ImportError:
        generator = np.random.default_rng(seed)

        def draw(count, deviation):
            numbers = generator.standard_normal(count, dtype=np.float32) * np.float32(deviation)
            return (numbers.view(np.uint32) >> 16).astype(np.uint16).data

    return draw


def write_weights(path, listed, seed):
    header, offset = {}, 0
    for name, size, _ in listed:
        end = offset + 2 * math.prod(size)
        header[name] = {"dtype": "BF16", "shape": list(size), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    draw = random_source(seed)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for _, size, deviation in listed:
            count = math.prod(size)
            file.write(np.full(count, 0x3F80, np.uint16).data if deviation is None else draw(count, deviation))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--alpha", type=float, default=1.5, help="of all heads, in [1, 2]")
    parser.add_argument("--sigma", type=float, default=2.0, help="standard deviation of attention's scores")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--weights", type=pathlib.Path, help="link this model's weights instead of making some")
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.safetensors"
    if arguments.weights:
        weights.unlink(missing_ok=True)
        weights.symlink_to((arguments.weights / "model.safetensors").resolve())
    else:
        write_weights(weights, list(tensors(shape, arguments.sigma)), arguments.seed)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": shape["vocab"],
        "hidden_size": shape["hidden"], "intermediate_size": shape["intermediate"],
        "num_hidden_layers": shape["layers"], "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv_heads"], "head_dim": shape["dim"], "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0, "max_position_embeddings": 1 << 20, "tie_word_embeddings": False,
        "attention_bias": False, "mlp_bias": False, "torch_dtype": "bfloat16", "bos_token_id": 0, "eos_token_id": 1,
    }
    if arguments.alpha != 1:
        config["entmax_alpha"] = arguments.alpha
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        source = ROOT / "models" / "recall-9m" / name
        if source.exists():
            shutil.copy(source, folder / name)


if __name__ == "__main__":
    main()
