"""Trains a model, then evaluates it.

Reads a data folder (story_bank.py) and, with --init, a saved state (model.py). Writes to OUT:
state.pt, the trained state, and results.json (README.md explains it). The learning rates warm up
over 100 steps, and fall to 2 % over the last part of the training; one step is one batch of rows of
equal length. With --seconds a slow machine ends in time, on fewer tokens.
"""

import argparse
import os
import sys
import time

import numpy as np
import torch

import evaluate
import rows
import story_bank
from batches import Batches, Schedule
from model import VARIANTS, Model, load_state, rounded_model, save_state, tiny
from optimizer import Optimizer

WARM_UP_STEPS = 100
LEAST_RATE = 0.02  # of the full one
SECONDS_TO_SAVE = 15  # kept back from the time limit
STEPS_BETWEEN_LINES = 200
STEPS_BETWEEN_MEASURES = 5
STEPS_BETWEEN_SAVES = 2000
MEASURED_ANSWER_TOKENS = 2048


def target_weights(weights, answer_weight):
    """rows.py's weights [count, length] -> the loss weight of each position's prediction.

    Text and answers are averaged apart, then added.
    """
    text = (weights == rows.PLAIN).float()
    answer = (weights == rows.ANSWER).float()
    text_count = text.sum().clamp(min=1)
    answer_count = answer.sum().clamp(min=1)
    result = torch.zeros_like(weights, dtype=torch.float32)
    result[:, :-1] = (text / text_count + answer_weight * answer / answer_count)[:, 1:]
    return result


@torch.no_grad()
def answer_accuracy(model, hidden, ids, weights, dtype):
    """Share of the answers' tokens that are the most probable ones."""
    is_answer = weights[:, 1:] == rows.ANSWER
    predicting = hidden.view(*ids.shape, -1)[:, :-1][is_answer][:MEASURED_ANSWER_TOKENS]
    targets = ids[:, 1:][is_answer][:MEASURED_ANSWER_TOKENS]
    if len(targets) == 0:
        return torch.zeros((), device=ids.device)
    return (model.logits(predicting, dtype).argmax(-1) == targets).float().mean()


def rate_factor(step, progress, decay):
    warm_up = min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm_up * (1.0 if progress < 1 - decay else max(LEAST_RATE, (1 - progress) / decay))


class Trainer:
    """The model, its optimizer, and the measures since the last line that was printed."""

    def __init__(self, model, args):
        self.model = model
        self.optimizer = Optimizer(model, args.muon_rate, args.adam_rate)
        self.answer_weight = args.answer_weight
        self.device = args.device
        self.dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
        self.measures = {}

    def step(self, batch, factor, measured):
        """One step with learning rates times `factor`. measured: adds loss and accuracy."""
        ids = torch.from_numpy(batch[0].astype(np.int64)).to(self.device, non_blocking=True)
        weights = torch.from_numpy(batch[1]).to(self.device)
        targets = torch.zeros_like(ids)
        targets[:, :-1] = ids[:, 1:]
        loss_weights = target_weights(weights, self.answer_weight)
        model = self.model
        hidden = model.trunk(ids, self.dtype)
        loss = model.loss(hidden, targets.view(-1), loss_weights.view(-1), self.dtype)
        for parameter in model.parameters():
            parameter.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_([model.embedding, model.final_norm], 1.0)
        self.optimizer.step(factor)
        if measured:
            accuracy = answer_accuracy(model, hidden.detach(), ids, weights, self.dtype)
            measure = torch.stack([loss.detach(), accuracy])
            self.measures.setdefault(ids.shape[1], []).append(measure)

    def take_means(self):
        """-> row length -> means of loss and answer accuracy, which are forgotten."""
        means = {
            length: [round(x, 3) for x in torch.stack(measures).mean(0).tolist()]
            for length, measures in sorted(self.measures.items())
        }
        self.measures = {}
        if any(loss != loss for loss, _ in means.values()):
            sys.exit(f"the loss is not a number: {means}")
        return means

    def compile(self, batch):
        """Two steps that change nothing but the optimizer's momenta."""
        for _ in range(2):
            self.step(batch, 0.0, measured=False)
        if self.device == "cuda":
            torch.cuda.synchronize()


def train(model, batches, schedule, args, deadline):
    """Trains until the batches or the time are over; saves the state now and then, and at the end.

    deadline: time.time() by which all must be done.
    """
    trainer = Trainer(model, args)
    path = f"{args.out}/state.pt"
    tokens = 0
    for step, batch in enumerate(batches):
        if step == 0:
            trainer.compile(batch)
            start = time.time()
        elapsed = time.time() - start
        progress = schedule.progress(step)
        if args.seconds:
            progress = max(progress, args.begin + (1 - args.begin) * elapsed / args.seconds)
        if progress > 1 or time.time() > deadline - SECONDS_TO_SAVE:
            print("the time is over", flush=True)
            break
        measured = step % STEPS_BETWEEN_MEASURES == 0 or args.tiny
        trainer.step(batch, rate_factor(step, progress, args.decay), measured)
        tokens += batch[0].size
        if (step + 1) % STEPS_BETWEEN_LINES == 0 or args.tiny:
            means = trainer.take_means()  # waits for the device
            elapsed = time.time() - start
            print(
                f"step {step + 1}, {elapsed:.0f} s, progress {progress:.2f},",
                f"{tokens / elapsed / 1e3:.0f}k tokens/s, {batches.waiting()} batches wait,",
                f"loss and accuracy by row length: {means}",
                flush=True,
            )
        if (step + 1) % STEPS_BETWEEN_SAVES == 0:
            save_state(model, path)
    print(f"{tokens / 1e6:.1f} M tokens, {time.time() - start:.0f} s", flush=True)
    save_state(model, path)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--data", default="data", help="data folder")
    add("--out", default="stage1", help="folder to write")
    add("--variant", default="entmax", choices=tuple(VARIANTS), help="without --init")
    add("--init", help="state to go on from, such as stage1/state.pt")
    add("--tokens", type=float, default=429e6, help="to train on")
    add("--seconds", type=float, help="of training at most: rates then fall earlier")
    add("--time_limit", type=float, default=588, help="seconds of the whole run")
    add("--begin", type=float, default=0.0, help="progress to begin with, in [0, 1)")
    add("--second_stage", action="store_true", help="row lengths of stage 2, see batches.py")
    add("--batch_tokens", type=int, default=65536, help="tokens of a batch")
    add("--workers", type=int, default=14, help="processes that draw batches")
    add("--muon_rate", type=float, default=0.02, help="learning rate of the blocks' matrices")
    add("--adam_rate", type=float, default=0.003, help="learning rate of the embedding")
    add("--decay", type=float, default=0.5, help="last part of the time, in which rates fall")
    add("--answer_weight", type=float, default=0.7, help="of the answers' loss; the text's is 1")
    add("--seed", type=int, default=0, help="of the first weights")
    add("--device", default="cuda", choices=("cuda", "cpu"))
    add("--tiny", action="store_true", help="a small model, to try the program on a CPU")
    return parser.parse_args()


def main():
    args = parse_arguments()
    deadline = time.time() + args.time_limit
    os.makedirs(args.out, exist_ok=True)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes of Batches tokenize
    bank = story_bank.load_bank(args.data)
    print(f"{bank.count} stories, {len(bank.ids)} tokens", flush=True)
    count = max(1, int(args.tokens) // args.batch_tokens)
    schedule = Schedule(args.batch_tokens, count, args.begin, args.second_stage)
    batches = Batches(bank, schedule, args.workers)
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    config, parameters = VARIANTS[args.variant], None
    if args.init:
        config, parameters = load_state(args.init)
    elif args.tiny:
        config = tiny(config)
    model = Model(config, compiled=args.device == "cuda").to(args.device)
    print(sum(p.numel() for p in model.parameters()), "parameters")
    if parameters:
        model.load_state_dict(parameters)
    train(model, batches, schedule, args, deadline)
    batches.stop()
    rounded = rounded_model(config, model.state_dict(), args.device)
    if args.device == "cuda":
        torch.cuda.empty_cache()
    evaluation = evaluate.Evaluation(rounded, bank, args.device, args.out, deadline)
    evaluation.run(evaluate.TINY_PLAN if args.tiny else evaluate.PLAN)


if __name__ == "__main__":
    main()
