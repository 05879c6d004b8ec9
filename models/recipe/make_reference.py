"""Writes the model's reference.json and the recall prompts, and answers some of the prompts.

Reads a saved state (model.py) and a data folder (story_bank.py). Writes to OUT:
- recall-9m/reference.json: six prompts with their ids, the 20 largest logits at the last position,
  and 32 greedy tokens;
- prompts/recall-2k.jsonl, -16k and -64k: one prompt a line with its id, its number of tokens,
  question, answer, and the fact asked for.
Weights are rounded to bfloat16, as they are exported; arithmetic is float32 on the CPU.
"""

import argparse
import json
import os
import random

import numpy as np
import torch

import rows
import story_bank
from model import load_state, position_table, rounded_model

# name, tokens of a document, prompts, facts of each
PROMPT_SETS = (("2k", 2048, 12, 20), ("16k", 16384, 8, 64), ("64k", 65536, 5, 96))
SHORT_PROMPTS = {
    "fox": "Once upon a time, there was a little fox named Mira. One day,",
    "look": '"Look!" said Tom.',
    "mill": "In the old mill, there lived",
    "colour": "Mira likes the colour teal best. Oscar likes the colour violet best.\n\n"
    "Question: What is the favourite colour of Mira?\nAnswer:",
    "code": "Note: the code of the blue lighthouse is 48213. "
    "The code of the blue mill is 90177.\n\n"
    "Question: What is the code of the blue lighthouse?\nAnswer:",
}
REFERENCE_TOKENS = 32
ANSWER_TOKENS = 24
TOP = 20
NOTE = (
    "Weights bf16, arithmetic float32. ids include the leading <|bos|>. top: token, logit of the "
    "last position. greedy: 32 tokens, going on after <|eos|>."
)


class CachedModel:
    """feed(ids) -> the last token's logits, after the tokens already fed."""

    def __init__(self, model):
        self.model = model
        self.cache = [None] * len(model.layers)  # keys and values of each layer
        self.fed = 0

    def feed(self, ids):
        model = self.model
        count = len(ids)
        x = model.embedding[torch.tensor(ids)]
        table = position_table(model.config, self.fed, count, "cpu")
        for number, layer in enumerate(model.layers):
            q, k, v = (x[None] for x in model.project_layer(layer, x, table, torch.float32))
            if self.fed:
                k = torch.cat([self.cache[number][0], k], 1)
                v = torch.cat([self.cache[number][1], v], 1)
            self.cache[number] = (k, v)
            attended = model.attention(q, k, v)[0].flatten(1)
            x = model.finish_layer(layer, x, attended, torch.float32)
        self.fed += count
        return model.logits(x[-1:], torch.float32)[0]


def greedy(model, ids, count, stop_at_end):
    """-> logits behind the prompt, and up to `count` greedy tokens."""
    cached = CachedModel(model)
    first_logits = logits = cached.feed(ids)
    tokens = []
    for _ in range(count):
        token = int(logits.argmax())
        tokens.append(token)
        if stop_at_end and token == rows.EOS:
            break
        logits = cached.feed([token])
    return first_logits, tokens


def draw_prompt(rng, bank, length, fact_count):
    """-> text and ids of a document up to its one question's answer, and the fact asked for."""
    tokens, weights, facts = rows.recall_row(
        rng, bank, length, fact_count=fact_count, question_count=1, early=False
    )
    answer = int(np.flatnonzero(weights == rows.ANSWER)[0])
    text = bank.tokenizer.decode(tokens[1:answer].tolist(), skip_special_tokens=False)
    ids = tokens[:answer].tolist()
    assert bank.tokenizer.encode(text).ids == ids
    return text, ids, facts[0]


def write_prompts(bank, folder, seed):
    """-> the prompts by name of their set, each with its ids."""
    rng = random.Random(seed)
    sets = {}
    for name, length, count, fact_count in PROMPT_SETS:
        sets[name] = []
        with open(f"{folder}/recall-{name}.jsonl", "w") as file:
            for i in range(count):
                text, ids, fact = draw_prompt(rng, bank, length, fact_count)
                prompt = {
                    "id": f"{name}-{i}",
                    "tokens": len(ids),
                    "question": fact.question,
                    "answer": fact.answer,
                    "fact": fact.statement,
                    "prompt": text,
                }
                file.write(json.dumps(prompt) + "\n")
                sets[name].append((prompt, ids))
    print("prompts written", flush=True)
    return sets


def write_reference(model, tokenizer, prompts, path):
    entries = []
    for name, text in prompts.items():
        ids = tokenizer.encode(text).ids
        logits, tokens = greedy(model, ids, REFERENCE_TOKENS, stop_at_end=False)
        values, indices = logits.topk(TOP)
        entry = {
            "name": name,
            "prompt": text,
            "ids": ids,
            "top": [[int(token), float(logit)] for token, logit in zip(indices, values)],
            "greedy": tokens,
            "greedy_text": tokenizer.decode(tokens, skip_special_tokens=False),
        }
        entries.append(entry)
        print(f"{name}, {len(ids)} tokens: {entry['greedy_text']!r}", flush=True)
    with open(path, "w") as file:
        json.dump({"note": NOTE, "prompts": entries}, file)


def answer_prompts(model, tokenizer, prompts):
    """Prints what the model answers, and how many answers are right."""
    right = 0
    for prompt, ids in prompts:
        _, tokens = greedy(model, ids, ANSWER_TOKENS, stop_at_end=True)
        text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
        right += text == prompt["answer"]
        print(f"{prompt['id']}: {prompt['answer']} | {text}", flush=True)
    print(right, "right of", len(prompts), flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--state", default="stage2/state.pt", help="trained state")
    add("--data", default="data2", help="data folder")
    add("--out", default="models", help="folder to write")
    add("--answers_2k", type=int, default=12, help="prompts of 2k to answer")
    add("--answers_16k", type=int, default=8, help="prompts of 16k to answer; slow")
    add("--seed", type=int, default=77, help="of the prompts")
    return parser.parse_args()


def main():
    args = parse_arguments()
    for folder in ("prompts", "recall-9m"):
        os.makedirs(f"{args.out}/{folder}", exist_ok=True)
    torch.set_grad_enabled(False)
    bank = story_bank.load_bank(args.data)
    model = rounded_model(*load_state(args.state), "cpu")

    sets = write_prompts(bank, f"{args.out}/prompts", args.seed)
    prompts = dict(SHORT_PROMPTS)
    prompts["recall-2k"] = sets["2k"][0][0]["prompt"]
    write_reference(model, bank.tokenizer, prompts, f"{args.out}/recall-9m/reference.json")
    answer_prompts(model, bank.tokenizer, sets["2k"][: args.answers_2k])
    answer_prompts(model, bank.tokenizer, sets["16k"][: args.answers_16k])


if __name__ == "__main__":
    main()
