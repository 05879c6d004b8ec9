#!/usr/bin/env python3
"""A training step of whole models on a GPU, attention by attention: forward, backward and optimizer, medians of one run.

  PYTHONPATH=build/release/python python3 tests/bench/training_step.py --out docs/benchmarks/h200-training-step.json
  python3 tests/bench/training_step.py --report docs/benchmarks/h200-training-step.json

Models of models/recipe, compiled, with steps of 65,536 tokens in rows of each length: recall-9m with its trained weights,
on one of its prompts, and the shape of a model of 125 million parameters (12 layers of 12 heads of 64, rotary) on random
tokens, whose random weights give scores of standard deviation 2. Learning rates are 0, so that every step is the same. Ours
beside PyTorch's FlashAttention-2 and cuDNN (softmax, without recall-9m's ALiBi bias) and, without a bias, AdaSplash-2.
"""

import argparse
import json
import pathlib
import sys

from gpu_training import RECALL_SLOPES, ROOT, attentions, find_adasplash, median_ms

STEP_TOKENS = 65536
LENGTHS = [8192, 16384, 32768, 65536]
SIGMA = 2.0


def recall_9m():
    """The model, and one row of tokens, as long as a step."""
    import torch
    from export import read_exported
    from model import RECALL_9M, Model
    from tokenizers import Tokenizer

    folder = ROOT / "models" / "recall-9m"
    model = Model(RECALL_9M, compiled=True)
    model.load_state_dict(read_exported(folder, RECALL_9M))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = []
    for line in (ROOT / "models" / "prompts" / "recall-64k.jsonl").read_text().splitlines():
        ids += tokenizer.encode(json.loads(line)["prompt"]).ids
        if len(ids) >= STEP_TOKENS:
            break
    return model.cuda(), torch.tensor(ids[:STEP_TOKENS])


def shape_125m():
    import torch
    from model import Config, Model

    torch.manual_seed(0)
    config = Config(vocabulary=50304, hidden=768, layers=12, heads=12, kv_heads=12, intermediate=2048, rotary=True)
    model = Model(config, compiled=True).cuda()
    with torch.no_grad():
        for layer in model.layers:
            for weight in (layer.w_q, layer.w_k):  # of inputs whose mean square is 1
                weight.mul_(SIGMA**0.5 / (weight.std() * config.hidden**0.5))
            for weight in (layer.w_o, layer.w_down):  # 0 at first, and so would be the attention's gradients
                weight.normal_(std=0.02)
    return model, torch.randint(config.vocabulary, (STEP_TOKENS,))


SHAPES = {"recall-9m": (recall_9m, RECALL_SLOPES), "125m": (shape_125m, None)}


def tokens_first(attend):
    """As the models call it: tensors [batch, tokens, heads, head_dim]."""
    return lambda q, k, v: attend(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


def measure(name, lengths, adasplash):
    import numpy
    import torch
    from train import Trainer

    make, slopes = SHAPES[name]
    model, ids = make()
    settings = argparse.Namespace(muon_rate=0.0, adam_rate=0.0, answer_weight=0.0, device="cuda")
    trainer = Trainer(model, settings)
    found = attentions(slopes)
    if slopes is None and adasplash:
        adasplash.use(64)
        found["adasplash"] = adasplash.attend
    results = []
    for length in lengths:
        row = {"shape": name, "tokens": length}
        batch = (ids.view(-1, length).numpy(), numpy.ones((STEP_TOKENS // length, length), numpy.uint8))
        for peer, attend in found.items():
            model.attention = tokens_first(attend)
            try:
                row[peer] = round(median_ms(lambda: trainer.step(batch, 0.0, measured=False), STEP_TOKENS), 2)
            except Exception as error:  # noqa: BLE001: a peer's own
                torch.cuda.synchronize()
                row[peer] = f"{type(error).__name__}: {error}"[:200]
        results.append(row)
        print(json.dumps(row), flush=True)
    return results


def report(results):
    print(f"{results['device']}, PyTorch {results['torch']}: milliseconds of a training step of {STEP_TOKENS:,} tokens "
          "(FA2's, cuDNN's, AdaSplash-2's time / ours)")
    lengths = sorted({r["tokens"] for r in results["rows"]})
    print("| | " + " | ".join(f"{n // 1024}k" for n in lengths) + " |")
    print("|---|" + "---|" * len(lengths))
    for name in SHAPES:
        rows = {r["tokens"]: r for r in results["rows"] if r["shape"] == name}
        cells = []
        for row in (rows.get(n, {}) for n in lengths):
            ours = row.get("ours")
            ratios = [f"{row[p] / ours:.2f}" if isinstance(row.get(p), float) and isinstance(ours, float) else "-"
                      for p in ("flash", "cudnn", "adasplash")]
            cells.append(f"{ours} ({', '.join(ratios)})")
        print(f"| {name} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--report", type=pathlib.Path, help="print a result's table, and no more")
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--lengths", type=int, nargs="*", default=LENGTHS)
    parser.add_argument("--no_adasplash", action="store_true", help="its tuning takes minutes")
    arguments = parser.parse_args()
    if arguments.report:
        return report(json.loads(arguments.report.read_text()))
    import torch

    sys.path.insert(0, str(ROOT / "models" / "recipe"))
    adasplash, notes = find_adasplash([] if arguments.no_adasplash else [64], arguments.lengths, heads=12)
    rows = [row for name in arguments.shapes for row in measure(name, arguments.lengths, adasplash)]
    results = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "adasplash": notes, "rows": rows}
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    report(results)


if __name__ == "__main__":
    main()
