"""Compares the C++ transformer with numpy_forward.py and with stored logits of PyPI's transformers.

Usage: logits_test.py MODEL_LOGITS WORK_FOLDER [SEED [BACKEND]]

Every model of random_models.py, and some of random keys with a fresh seed (printed, so that a
failure can be repeated), runs in float32: in one shot, in odd chunks, token by token, and with
other sequences in the same steps; for all rows, some rows and no rows. Largest difference over
largest logit must stay below TOLERANCE. BACKEND: another of model_logits' than cpu-float32; with
one in bfloat16, the root mean square of the differences must stay below that type's tolerance.
"""
import json
import os
import subprocess
import sys
import time

import numpy as np

import numpy_forward
import random_models

TOLERANCE = 1e-3
BFLOAT16_TOLERANCE = 0.15  # random weights amplify: 0.05 seen on a CPU, 0.07 on an H100
FRESH_MODELS = 20
HERE = os.path.dirname(os.path.abspath(__file__))
EXPECTATIONS = os.path.join(HERE, 'testdata', 'transformers_logits.json')
PLAIN = {'llama', 'llama-heads', 'asentmax-bias-all-heads', 'mistral-1.5', 'qwen3'}


class Plan:
    """Steps for one run of model_logits, and the (sequence, position) of each row it gives."""

    def __init__(self, seed, sequences):
        self.sequences = sequences  # {number: tokens}
        self.done = dict.fromkeys(sequences, 0)
        self.steps, self.rows = [], []
        self.seed = seed
        self.rng = np.random.default_rng(seed)

    def step(self, counts, wanted='all'):
        """counts: {sequence: tokens}; wanted: all rows, `some` in any order, or `none`."""
        pieces, places = [], []
        for s, n in counts.items():
            begin = self.done[s]
            end = min(begin + n, len(self.sequences[s]))
            if begin == end:
                continue
            pieces.append([s, self.sequences[s][begin:end]])
            places += [(s, i) for i in range(begin, end)]
            self.done[s] = end
        if not places:
            return
        rows = list(range(len(places)))
        if wanted == 'some':
            rows = self.rng.permutation(len(places))[:1 + len(places) // 3].tolist()
        elif wanted == 'none':
            rows = []
        self.steps.append(dict(pieces=pieces, logit_rows=rows))
        self.rows += [places[r] for r in rows]

    def left(self):
        return [s for s, n in self.done.items() if n < len(self.sequences[s])]

    def json(self, max_batched_tokens):
        pages = sum((len(t) + 63) // 64 for t in self.sequences.values())
        return dict(seed=self.seed, pages=pages + 2, max_batched_tokens=max_batched_tokens,
                    steps=self.steps, greedy=[])


def make_plan(seed, vocab):
    """Sequences 0 to 3: the same tokens in one shot, chunks, decode, some rows. 4 to 7: mixed."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocab, int(rng.integers(130, 200))).tolist()
    sequences = {s: tokens for s in range(4)}
    for s in range(4, 8):
        sequences[s] = rng.integers(0, vocab, int(rng.integers(1, 140))).tolist()
    plan = Plan(seed, sequences)
    plan.step({0: len(tokens)})
    for n in (1, 7, 64, 3, 65, len(tokens)):
        plan.step({1: n})
    plan.step({2: len(tokens) - 20})
    for _ in range(20):
        plan.step({2: 1})
    while 3 in plan.left():
        plan.step({3: int(rng.integers(1, 60))}, ['some', 'none'][int(rng.integers(2))])
    while plan.left():
        order = rng.permutation(plan.left())
        counts = {int(s): int(rng.choice([1, 1, 2, 17, 50, 64])) for s in order}
        plan.step(counts, ['all', 'some'][int(rng.integers(2))])
    return plan


def run(binary, backend, folder, plan):
    names = [os.path.join(folder, n) for n in ('plan.json', 'out.bin')]
    with open(names[0], 'w') as f:
        json.dump(plan, f)
    subprocess.run([binary, backend, folder] + names, check=True)
    return np.fromfile(names[1], '<f4')


def difference(found, expected, backend):
    assert np.isfinite(found).all()
    if backend.endswith('bfloat16'):
        return np.sqrt(np.square(found - expected).mean() / np.square(expected).mean())
    return np.abs(found - expected).max() / np.abs(expected).max()


def check_model(binary, folder, seed, backends):
    model = numpy_forward.Model(folder)
    plan = make_plan(seed, model.config['vocab_size'])
    expected = {}
    for s, tokens in plan.sequences.items():
        if s in (1, 2, 3):
            expected[s] = expected[0]
            continue
        model.reset()
        expected[s] = model(tokens)
    expected = np.array([expected[s][i] for s, i in plan.rows])
    worst = {}
    for backend in backends:
        found = run(binary, backend, folder, plan.json(256)).reshape(expected.shape)
        worst[backend] = difference(found, expected, backend)
    return worst


def check_transformers(binary, folder, name, stored, backend):
    """Logits of all positions, as the stored run of PyPI's transformers gave them."""
    random_models.make_model(folder, random_models.ALL[name], stored['seed'])
    plan = Plan(1, {0: stored['tokens']})
    plan.step({0: 100})
    plan.step({0: 1000})
    found = run(binary, backend, folder, plan.json(256))
    expected = np.array(stored['logits'])
    rows = found.reshape(len(stored['tokens']), -1)[stored['positions']]
    return difference(rows, expected, backend)


def main():
    binary, work = sys.argv[1:3]
    fresh = int(sys.argv[3]) if len(sys.argv) > 3 else time.time_ns() % 10 ** 9
    backend = sys.argv[4] if len(sys.argv) > 4 else 'cpu-float32'
    tolerance = BFLOAT16_TOLERANCE if backend.endswith('bfloat16') else TOLERANCE
    print('fresh seed', fresh, flush=True)
    rng = np.random.default_rng(fresh)
    cases = [(name, spec, 1000 + i) for i, (name, spec) in enumerate(random_models.ALL.items())]
    cases += [(f'random-{i}', random_models.random_case(rng), fresh + i)
              for i in range(FRESH_MODELS)]
    failures = 0

    def report(name, worst):
        nonlocal failures
        bad = not worst < tolerance
        failures += bad
        print(f'{name}: {worst:.1e}', 'TOO LARGE' if bad else '', flush=True)
    for name, spec, seed in cases:
        folder = os.path.join(work, name)
        random_models.make_model(folder, spec, seed)
        backends = [backend] + ['plain'] * (name in PLAIN and backend == 'cpu-float32')
        if name.startswith('random'):
            print(name, spec, flush=True)
        for ran, worst in check_model(binary, folder, fresh, backends).items():
            report(f'{name} ({ran})', worst)
    with open(EXPECTATIONS) as f:
        stored = json.load(f)
    assert set(stored) == set(random_models.SOFTMAX), 'expectations are not those of the models'
    for name, entry in stored.items():
        folder = os.path.join(work, 'transformers-' + name)
        report(f'{name} (transformers)', check_transformers(binary, folder, name, entry, backend))
    print(failures, 'failures')
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
