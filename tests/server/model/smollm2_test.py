"""SmolLM2-135M-Instruct, a model of another maker: greedy tokens equal to numpy_forward.py's.

Usage: smollm2_test.py MODEL_LOGITS CACHE_FOLDER WORK_FOLDER
"""
import json
import os
import subprocess
import sys
import time

import numpy as np
import tokenizers

import convert_smollm2
import numpy_forward

TOKENS = 64
PROMPTS = [
    '<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n',
    'Once upon a time, in a village by the sea, there lived',
    'def fibonacci(n):\n    """Returns the n-th Fibonacci number."""\n',
]


def main():
    binary, cache, work = sys.argv[1:4]
    folder = os.path.join(cache, 'SmolLM2-135M-Instruct')
    convert_smollm2.ensure(folder)
    os.makedirs(work, exist_ok=True)
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(folder, 'tokenizer.json'))
    prompts = [tokenizer.encode(p).ids for p in PROMPTS]

    plan = dict(seed=1, pages=8, max_batched_tokens=64, steps=[],
                greedy=[dict(prompt=p, count=TOKENS, chunk=11) for p in prompts])
    names = [os.path.join(work, n) for n in ('plan.json', 'out.bin')]
    with open(names[0], 'w') as f:
        json.dump(plan, f)
    start = time.time()
    output = subprocess.run([binary, 'cpu-float32', folder] + names, check=True,
                            stdout=subprocess.PIPE, text=True).stdout
    found = [json.loads(line) for line in output.splitlines()]
    print(f'C++: {time.time() - start:.1f} s', flush=True)

    start = time.time()
    model = numpy_forward.Model(folder, np.float32)
    failures = 0
    for prompt, tokens in zip(prompts, found, strict=True):
        expected = model.greedy(prompt, TOKENS)
        failures += tokens != expected
        print(repr(tokenizer.decode(tokens, skip_special_tokens=False)))
        if tokens != expected:
            print('EXPECTED', repr(tokenizer.decode(expected, skip_special_tokens=False)))
    print(f'NumPy: {time.time() - start:.1f} s; {failures} of {len(prompts)} prompts differ')
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
