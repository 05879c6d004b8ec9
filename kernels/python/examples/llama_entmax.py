#!/usr/bin/env python3
"""Trains a tiny Llama of Hugging Face's transformers with entmax attention: a few steps on one text.

    python llama_entmax.py --out=build/tiny-llama       # a random model of two layers, on this project's README
    build/release/bin/tauserve --model=build/tiny-llama # serves it
    python llama_entmax.py --alpha=1.2 --text=FILE

Any model of transformers takes the attention by its name, once it is registered:
AutoModelForCausalLM.from_pretrained(..., attn_implementation="entmax").
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
from typing import Any

import tauserve_kernels
import torch
from tokenizers import Tokenizer
from transformers import AttentionInterface, AttentionMaskInterface, LlamaConfig, LlamaForCausalLM

ROOT = pathlib.Path(__file__).resolve().parents[3]


def entmax_attention_forward(module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                             attention_mask: torch.Tensor | None, scaling: float | None = None, dropout: float = 0.0,
                             sliding_window: int | None = None, **_: Any) -> tuple[torch.Tensor, None]:
    """transformers' attention function: q, k and v [batch, heads, tokens, head_dim]; the output token by token."""
    if attention_mask is not None:
        raise ValueError("entmax attention has no masks but the causal one: leave padding out")
    if dropout:
        raise ValueError(f"attention_dropout is {dropout}; entmax attention has none")
    out = tauserve_kernels.entmax_attention(query, key, value, alpha=module.config.entmax_alpha, scale=scaling,
                                            window=sliding_window)
    return out.transpose(1, 2).contiguous(), None


def no_mask(*_: Any, attention_mask: torch.Tensor | None = None, **__: Any) -> torch.Tensor | None:
    """transformers' mask function: the kernel is causal by itself; a mask with padding is handed on, to be refused."""
    return None if attention_mask is None or bool(attention_mask.all()) else attention_mask


AttentionInterface.register("entmax", entmax_attention_forward)
AttentionMaskInterface.register("entmax", no_mask)


def tiny_llama(alpha: float = 1.5) -> LlamaForCausalLM:
    """Two layers, four query heads on two KV heads; tokens and their ids are recall-9m's."""
    config = LlamaConfig(vocab_size=4096, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024, bos_token_id=0,
                         eos_token_id=1, pad_token_id=2, attn_implementation="entmax", entmax_alpha=alpha)
    return LlamaForCausalLM(config)


def train(model: LlamaForCausalLM, ids: torch.Tensor, steps: int, tokens: int = 128, batch: int = 4) -> list[float]:
    """The loss of each step, in nats a token, on rows of `tokens` of a text's ids."""
    if len(ids) <= tokens:
        raise ValueError(f"the text has {len(ids)} tokens, not more than {tokens}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        rows = torch.stack([ids[s : s + tokens] for s in torch.randint(len(ids) - tokens, (batch,))])
        loss = model(input_ids=rows, labels=rows).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def save(model: LlamaForCausalLM, tokenizer: pathlib.Path, folder: pathlib.Path) -> None:
    """What tauserve --model takes: config.json, which has entmax_alpha, the weights, and the tokenizer."""
    model.save_pretrained(folder)
    shutil.copyfile(tokenizer, folder / "tokenizer.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alpha", type=float, default=1.5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--text", type=pathlib.Path, default=ROOT / "README.md")
    parser.add_argument("--tokenizer", type=pathlib.Path, default=ROOT / "models" / "recall-9m" / "tokenizer.json",
                        help="of at most 4096 tokens")
    parser.add_argument("--out", type=pathlib.Path, help="folder to write the model to")
    args = parser.parse_args()
    torch.manual_seed(0)
    ids = torch.tensor(Tokenizer.from_file(str(args.tokenizer)).encode(args.text.read_text()).ids)
    model = tiny_llama(args.alpha)
    for step, loss in enumerate(train(model, ids, args.steps)):
        if step % 5 == 0 or step == args.steps - 1:
            print(f"step {step}: loss {loss:.3f}")
    if args.out:
        save(model, args.tokenizer, args.out)


if __name__ == "__main__":
    main()
