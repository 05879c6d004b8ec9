"""Evaluates a trained state: loss on stories, recall on fresh documents, sparsity of entmax.

Reads a data folder (story_bank.py) and a saved state (model.py). Writes OUT/results.json, which
README.md explains, after every measurement. What no longer fits into the time limit is left out.
train.py does the same at its end. Weights are rounded to bfloat16 first, as they are exported.
"""

import argparse
import json
import os
import random
import re
import time

import numpy as np
import torch

import rows
import sparsity
import story_bank
from model import load_state, rounded_model

# What is measured, the most important first: the loss on so many rows of stories of a length, whole
# or of their second half; recall at a length, on so many documents; sparsity at a length, on one
# document.
PLAN = (
    ("val_loss", 1024, 30),
    ("recall", 16384, 60),
    ("recall", 65536, 60),
    ("recall", 2048, 60),
    ("sparsity", 16384),
    ("sparsity", 65536),
    ("recall", 4096, 60),
    ("recall", 8192, 60),
    ("recall", 32768, 60),
    ("recall", 131072, 30),
    ("loss", 2048, 64),
    ("loss", 4096, 32),
    ("loss", 8192, 16),
    ("loss", 16384, 8),
    ("loss", 32768, 4),
    ("loss", 65536, 4),
    ("loss", 131072, 4),
    ("sparsity", 2048),
)
TINY_PLAN = (("val_loss", 512, 2), ("recall", 512, 2), ("loss", 512, 2), ("sparsity", 512))
LOGITS_AT_ONCE = 16384  # rows of the vocabulary's size
STORY_SEED = 991
RECALL_SEED = 4242  # plus the length
SECONDS = {"val_loss": 4, "recall": 4, "loss": 4, "sparsity": 8}  # kept for a measurement
TOKENS_A_SECOND = 100_000  # more than that much is counted on, documents' drawing included


def to_device(tokens, device):
    return torch.from_numpy(tokens.astype(np.int64)).to(device)[None]


@torch.no_grad()
def story_loss(model, bank, length, count, device, first=1):
    """Mean cross entropy (nats) of the tokens from position `first`, over `count` rows of stories."""
    rng = random.Random(STORY_SEED)
    total = 0
    for _ in range(count):
        tokens, _ = rows.story_row(rng, bank, length)
        ids = to_device(tokens, device)
        hidden = model.trunk(ids)[first - 1 : -1]
        for chunk, targets in zip(hidden.split(LOGITS_AT_ONCE), ids[0, first:].split(LOGITS_AT_ONCE)):
            logits = model.logits(chunk)
            total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
    return total / (count * (length - first))


def kind_of(question):
    """The words that tell kinds of questions apart: "name of", "How many apples are"."""
    words = question.split()
    return " ".join(words[3:5] if question.startswith("What is the") else words[:4])


@torch.no_grad()
def recall_answers(model, bank, length, documents, seed, device, **options):
    """Whether every token of an answer and <|eos|> are the most probable, given those before them.

    options: of rows.recall_row. -> a list of booleans for each document, and all of them by kind of
    question.
    """
    rng = random.Random(seed)
    by_document = []
    by_kind = {}
    for _ in range(documents):
        tokens, weights, facts = rows.recall_row(rng, bank, length, early=False, **options)
        hidden = model.trunk(to_device(tokens, device))
        answer = np.flatnonzero(weights == rows.ANSWER)
        predicting = hidden[torch.from_numpy(answer - 1).to(device)]
        right = model.logits(predicting).argmax(-1).cpu().numpy() == tokens[answer]
        # Between two answers there are other tokens.
        number = np.cumsum(np.concatenate([[0], (np.diff(answer) > 1).astype(int)]))
        answers = [bool(right[number == n].all()) for n in range(number[-1] + 1)]
        by_document.append(answers)
        for fact, answered in zip(facts, answers):
            by_kind.setdefault(kind_of(fact.question), []).append(answered)
    return by_document, by_kind


def write_json(value, path):
    """Indented, with the lists of numbers on one line each."""
    text = json.dumps(value, indent=1)
    text = re.sub(r"\[[^][{}]*\]", lambda numbers: " ".join(numbers[0].split()), text)
    with open(path, "w") as file:
        file.write(text.replace("[ ", "[").replace(" ]", "]") + "\n")


class Evaluation:
    """deadline: time.time() by which all must be done. folder: of results.json."""

    def __init__(self, model, bank, device, folder, deadline):
        self.model = model
        self.bank = bank
        self.device = device
        self.path = f"{folder}/results.json"
        self.deadline = deadline
        self.results = {}

    def run(self, plan):
        measures = {
            "val_loss": self.val_loss,
            "loss": self.loss,
            "recall": self.recall,
            "sparsity": self.sparsity,
        }
        for kind, length, *count in plan:
            if kind == "sparsity" and self.model.config.alpha == 1:
                continue
            start = time.time()
            tokens = length * count[0] if count else length
            if start + SECONDS[kind] + tokens / TOKENS_A_SECOND > self.deadline:
                print("no time for", kind, "at", length)
                continue
            name = kind if kind == "val_loss" else f"{kind}_{length}"
            self.results[name] = measures[kind](length, *count)
            print(f"{kind} at {length} took {time.time() - start:.1f} s", flush=True)
            write_json(self.results, self.path)

    def val_loss(self, length, count):
        loss = story_loss(self.model, self.bank, length, count, self.device)
        print("story loss", loss)
        return loss

    def loss(self, length, count):
        """Of the second half of the rows."""
        loss = story_loss(self.model, self.bank, length, count, self.device, first=length // 2)
        print(f"story loss at {length}: {loss:.4f}")
        return loss

    def recall(self, length, documents):
        answers, kinds = recall_answers(
            self.model,
            self.bank,
            length,
            documents,
            RECALL_SEED + length,
            self.device,
            fact_count=max(4, min(96, length // 100)),
            question_count=4 if length < 1024 else 8,
        )
        every = [answer for document in answers for answer in document]
        exact = sum(every) / len(every)
        first = sum(document[0] for document in answers) / documents
        wrong = {k: f"{sum(right)}/{len(right)}" for k, right in kinds.items() if not all(right)}
        print(f"exact {sum(every)}/{len(every)} = {exact:.4f}, first {first:.3f}, not all", wrong)
        return {
            "docs": documents,
            "questions": len(every),
            "exact": exact,
            "first": first,
            "kinds": {kind: [sum(right), len(right)] for kind, right in kinds.items()},
        }

    def sparsity(self, length):
        layers = sparsity.measure(self.model, self.bank, length, self.device)
        for number, layer in enumerate(layers):
            proven = [round(x, 2) for x in layer["pages"]["random"]["proven"]]
            print(
                f"layer {number}: support {[round(x, 1) for x in layer['support']]},",
                f"empty {[round(x, 3) for x in layer['empty']]}, proven {proven}",
            )
        return layers


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--data", default="data2", help="data folder")
    add("--state", default="stage2/state.pt", help="trained state")
    add("--out", default="evaluation", help="folder to write")
    add("--time_limit", type=float, default=590, help="seconds of the whole run")
    add("--device", default="cuda", choices=("cuda", "cpu"))
    add("--tiny", action="store_true", help="few and short documents, to try the program on a CPU")
    add("--seed", type=int, default=0, help="of the random rows whose sparsity is measured")
    return parser.parse_args()


def main():
    args = parse_arguments()
    deadline = time.time() + args.time_limit
    os.makedirs(args.out, exist_ok=True)
    bank = story_bank.load_bank(args.data)
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    model = rounded_model(*load_state(args.state), args.device)
    Evaluation(model, bank, args.device, args.out, deadline).run(TINY_PLAN if args.tiny else PLAN)


if __name__ == "__main__":
    main()
