"""Writes testdata/transformers_logits.json: what transformers gives for random_models.SOFTMAX.

Needs the packages torch and transformers, which the tests themselves do without: run it in an
environment of its own, when a softmax model is added there. The model weights are not stored: they
come from the seed.
"""
import json
import os
import tempfile

os.environ['HF_HUB_OFFLINE'] = '1'

import numpy as np
import torch
import transformers

import random_models

TOKENS = 150
HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    torch.set_grad_enabled(False)
    result = {}
    for number, (name, case) in enumerate(random_models.SOFTMAX.items()):
        seed = 7000 + number
        with tempfile.TemporaryDirectory() as folder:
            config = random_models.make_model(folder, case, seed)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float64, attn_implementation='eager')
        tokens = np.random.default_rng(seed).integers(0, config['vocab_size'], TOKENS).tolist()
        logits = model.eval()(torch.tensor([tokens])).logits[0].numpy()
        positions = [0, 1, 63, 64, TOKENS - 1]
        result[name] = dict(seed=seed, tokens=tokens, positions=positions,
                            logits=[[float(f'{x:.6g}') for x in logits[p]] for p in positions])
        print(name, logits.shape, np.abs(logits).max())
    path = os.path.join(HERE, 'testdata', 'transformers_logits.json')
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as f:
        f.write('{\n' + ',\n'.join(f'"{k}": {json.dumps(v)}' for k, v in result.items()) + '\n}\n')


if __name__ == '__main__':
    main()
