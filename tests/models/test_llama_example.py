"""kernels/python/examples/llama_entmax.py: what transformers trains with entmax attention is what the server serves.

TAUSERVE_TORCH_PYTHON: an interpreter with a current PyTorch and transformers (deploy/requirements-torch.txt).
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from requests_made import generate  # noqa: E402
from server_process import Server  # noqa: E402

EXAMPLES = ROOT / "kernels" / "python" / "examples"
# Log-probabilities of a text's ids by transformers, with the example's attention.
SCORE = """
import json, sys
import llama_entmax, torch
model = llama_entmax.LlamaForCausalLM.from_pretrained(sys.argv[1], attn_implementation="entmax")
ids = torch.tensor(json.loads(sys.argv[2]))
with torch.no_grad():
    logprobs = model(input_ids=ids[None]).logits[0].log_softmax(-1)
print(json.dumps(logprobs[torch.arange(len(ids) - 1), ids[1:]].tolist()))
"""


def python(*arguments):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(EXAMPLES), os.environ["PYTHONPATH"]])}
    done = subprocess.run([os.environ["TAUSERVE_TORCH_PYTHON"], *map(str, arguments)], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("alpha", [1.2, 1.5])
def test_trained_and_served(alpha, tmp_path):
    printed = python(EXAMPLES / "llama_entmax.py", "--alpha", alpha, "--out", tmp_path, "--steps", 20)
    losses = [float(line.split()[-1]) for line in printed.splitlines()]
    assert losses[-1] < 0.8 * losses[0]
    assert json.loads((tmp_path / "config.json").read_text())["entmax_alpha"] == alpha
    with Server(model=tmp_path) as server:
        response = generate(server, (ROOT / "README.md").read_text()[:1500], max_new_tokens=1,
                            response={"top_prompt_logprobs": 1})
    served = response.prompt.logprobs
    expected = json.loads(python("-c", SCORE, tmp_path, json.dumps([x.token_id for x in served])))
    assert len(expected) > 200
    assert np.abs(np.array([x.logprob for x in served[1:]]) - np.array(expected)).max() < 2e-3
