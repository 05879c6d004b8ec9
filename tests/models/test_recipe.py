"""models/recipe on the CPU: every variant learns, is evaluated, exported, and served with its own probabilities."""

import json
import math
import os
import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECIPE = ROOT / "models" / "recipe"
sys.path[:0] = [str(RECIPE), str(ROOT / "tests" / "e2e")]

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # batches are drawn by forked processes

import attention  # noqa: E402
import batches  # noqa: E402
import export  # noqa: E402
import model  # noqa: E402
import rows  # noqa: E402
import sparsity  # noqa: E402
import story_bank  # noqa: E402
import tauserve_kernels  # noqa: E402
from requests_made import generate  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from server_process import Server  # noqa: E402

TOKENIZER = ROOT / "models" / "recall-9m" / "tokenizer.json"
STEPS = 25
BATCH_TOKENS = 512
TOLERANCE = 2e-3  # of a log-probability, float32 on both sides


def run(program, *arguments):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(RECIPE), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, str(RECIPE / program), *map(str, arguments)], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A data folder: the stories of the recall prompts, facts and all, in pieces of three paragraphs."""
    folder = tmp_path_factory.mktemp("data")
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    texts = [json.loads(line)["prompt"] for line in (ROOT / "models" / "prompts" / "recall-16k.jsonl").open()]
    stories = []
    for text in texts:
        paragraphs = text.split("\n\nQuestion:")[0].split("\n\n")
        pieces = ["\n\n".join(paragraphs[i:i + 3]) + "\n\n" for i in range(0, len(paragraphs) - 3, 3)]
        stories += [np.array(x.ids) for x in tokenizer.encode_batch(pieces, add_special_tokens=False)]
    story_bank.write_bank(stories, [i % 3 > 0 for i in range(len(stories))], str(folder))
    (folder / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    return folder


@pytest.fixture(scope="session", params=list(model.VARIANTS))
def trained(request, data, tmp_path_factory):
    """Of every variant: its name, the folder of its training, and what the training printed."""
    out = tmp_path_factory.mktemp(request.param)
    printed = run("train.py", "--variant", request.param, "--device", "cpu", "--tiny", "--data", data, "--out", out,
                  "--tokens", STEPS * BATCH_TOKENS, "--batch_tokens", BATCH_TOKENS, "--workers", 1,
                  "--adam_rate", 0.02)
    return request.param, out, printed


def test_a_variant_learns_and_is_evaluated(trained):
    name, out, _ = trained
    results = json.loads((out / "results.json").read_text())
    assert results["val_loss"] < 0.9 * math.log(4096)
    assert 0 < results["loss_512"] < 0.9 * math.log(4096)
    assert 0 <= results["recall_512"]["exact"] <= 1 and results["recall_512"]["questions"] >= 4
    assert ("sparsity_512" in results) == (name == "entmax")
    if name == "entmax":
        for layer in results["sparsity_512"]:
            assert all(1 <= x <= 512 for x in layer["support"] + layer["support_max"])
            for kind in ("random", "answer"):
                pages = layer["pages"][kind]
                assert all(0 <= p <= e + 1e-6 and e < 1 for p, e in zip(pages["proven"], pages["empty"]))


def test_evaluation_alone_says_the_same(trained, data, tmp_path):
    name, out, _ = trained
    run("evaluate.py", "--device", "cpu", "--tiny", "--data", data, "--state", out / "state.pt", "--out", tmp_path)
    first, second = (json.loads((folder / "results.json").read_text()) for folder in (out, tmp_path))
    for entry in (first, second):  # of random rows
        for layer in entry.get("sparsity_512", []):
            del layer["pages"]["random"]
    assert first == second


def test_a_second_stage_goes_on(trained, data, tmp_path):
    name, out, _ = trained
    printed = run("train.py", "--device", "cpu", "--tiny", "--data", data, "--out", tmp_path, "--init", out / "state.pt",
                  "--second_stage", "--begin", 0.5, "--tokens", 4 * BATCH_TOKENS, "--batch_tokens", BATCH_TOKENS,
                  "--workers", 2, "--muon_rate", 0.002, "--adam_rate", 0.0003)
    assert printed.count("step ") == 4
    config, parameters = model.load_state(tmp_path / "state.pt")
    before = json.loads((out / "results.json").read_text())["val_loss"]
    assert config == model.tiny(model.VARIANTS[name])
    assert json.loads((tmp_path / "results.json").read_text())["val_loss"] < before + 0.2
    assert any(not torch.equal(x, y) for x, y in zip(parameters.values(), model.load_state(out / "state.pt")[1].values()))


def test_what_is_trained_is_what_is_served(trained, data, tmp_path):
    name, out, _ = trained
    run("export.py", "--state", out / "state.pt", "--tokenizer", data / "tokenizer.json", "--out", tmp_path)
    seed = random.randrange(10**6)
    ids = rows.recall_row(random.Random(seed), story_bank.load_bank(str(data)), 512, early=False)[0].astype(np.int64)
    trained_model = model.rounded_model(*model.load_state(out / "state.pt"), "cpu")
    with torch.no_grad():
        logits = trained_model.logits(trained_model.trunk(torch.from_numpy(ids)[None], torch.float32), torch.float32)
    expected = logits.log_softmax(-1)[torch.arange(511), torch.from_numpy(ids[1:])].numpy()
    with Server(model=tmp_path) as server:
        response = generate(server, ids.tolist(), max_new_tokens=1, response={"top_prompt_logprobs": 1})
    served = np.array([x.logprob for x in response.prompt.logprobs[1:]])
    assert np.abs(served - expected).max() < TOLERANCE, f"seed {seed}"


def test_the_embedded_model_is_reproduced():
    """Its exported folder, read back, gives the logits of its reference, which an independent program checks."""
    folder = ROOT / "models" / "recall-9m"
    parameters = export.read_exported(folder, model.RECALL_9M)
    embedded = model.rounded_model(model.RECALL_9M, parameters, "cpu")
    exported = export.named_tensors(parameters, model.RECALL_9M)
    stored = load_file(folder / "model.safetensors")
    assert exported.keys() == stored.keys() and all(torch.equal(exported[name], stored[name]) for name in stored)
    assert export.model_config(model.RECALL_9M) == json.loads((folder / "config.json").read_text())
    for entry in json.loads((folder / "reference.json").read_text())["prompts"][:5]:
        with torch.no_grad():
            hidden = embedded.trunk(torch.tensor(entry["ids"])[None], torch.float32)[-1:]
            logits = embedded.logits(hidden, torch.float32)[0]
        tokens, expected = zip(*entry["top"])
        assert logits[list(tokens)].tolist() == pytest.approx(list(expected), abs=TOLERANCE), entry["name"]


def test_batches_are_the_same_in_every_run(data):
    bank = story_bank.load_bank(str(data))
    schedule = batches.Schedule(tokens=1024, count=7, begin=0.0, second_stage=False)
    alone = [schedule.draw(bank, n) for n in range(7)]
    drawn = batches.Batches(bank, schedule, workers=3)
    together = list(drawn)
    drawn.stop()
    assert len(together) == 7
    for a, b in zip(alone, together):
        assert all(np.array_equal(x, y) for x, y in zip(a, b))
    assert not np.array_equal(alone[0][0], alone[1][0])
    assert schedule.progress(0) == 0 and schedule._replace(begin=0.5).progress(7) == 1


@pytest.mark.parametrize("dtype, limit", [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_alibi_by_added_dimensions(dtype, limit):
    """What flash attention gets on a GPU, by the CPU's softmax with and without a bias."""
    slopes = [1.0, 0.5, 0.25, 0.125]
    q = torch.randn(2, 4, 700, 64).to(dtype)
    k, v = torch.randn(2, 2, 2, 700, 64).to(dtype)
    scale = 64**-0.5
    expected = tauserve_kernels.entmax_attention(q.float(), k.float(), v.float(), 1.0, alibi_slopes=slopes)
    out = tauserve_kernels.entmax_attention(*attention.with_alibi(q, k, v, slopes, scale), 1.0, scale=scale)
    assert not out[..., 64:].any()
    assert (out[..., :64].float() - expected).abs().max() < limit * expected.abs().max()


def test_rotary_is_relative():
    config = model.VARIANTS["softmax-rotary"]
    q, k = torch.randn(2, 1, 8, 64)
    products = [(model.rotate(q, model.position_table(config, a + 7, 1, "cpu"))
                 * model.rotate(k, model.position_table(config, a, 1, "cpu"))).sum(-1) for a in (0, 1000)]
    assert torch.allclose(*products, atol=1e-3)
    assert not torch.allclose(products[0], (q * k).sum(-1), atol=1e-1)


def test_sparsity_counts_what_has_weight():
    """Against the weights themselves, by the entmax package."""
    import entmax

    config = model.tiny(model.RECALL_9M)
    length = 128
    q = torch.randn(1, length, config.heads, 64) * 2
    k, v = torch.randn(2, 1, length, config.kv_heads, 64)
    answer = torch.tensor([100, 120])
    measured = sparsity.Sparsity(config, length, answer)
    measured(q, k, v)
    keys = k[0].repeat_interleave(2, 1).transpose(0, 1)
    position = torch.arange(length)
    scores = q[0].transpose(0, 1) @ keys.transpose(1, 2) / 8
    scores = scores + torch.tensor(config.alibi_slopes)[:, None, None] * (position - position[:, None])
    live = entmax.entmax15(scores.masked_fill(position > position[:, None], -1e9), -1) > 0
    layer, = measured.layers
    # A score may be a rounding off its row's threshold.
    assert layer["support"] == pytest.approx(live.sum(-1).float().mean(-1).tolist(), abs=1.5 / length)
    empty = 3 - live.view(config.heads, 2, 64, 2, 64).any(-1).any(2).sum((1, 2))
    assert layer["empty"] == pytest.approx((empty / 3).tolist(), abs=1e-6)
    assert layer["pages"]["answer"]["support"] == pytest.approx(live[:, answer].sum(-1).float().mean(-1).tolist(), abs=0.5)


def test_variants_are_compared(trained, tmp_path):
    name, out, _ = trained
    results = json.loads((out / "results.json").read_text())
    for length, share in ((2048, 0.75), (131072, 1.0)):
        results[f"recall_{length}"], results[f"loss_{length}"] = {"exact": share}, 1.0 + share
    (tmp_path / "results.json").write_text(json.dumps(results))
    printed = run("compare.py", f"{name}={tmp_path}", "--plot", tmp_path / "plot.svg")
    assert printed.splitlines()[0] == "| | 2k | 128k |"
    assert f"| {name}, recall | 75.0 % | 100.0 % |" in printed and f"| {name}, story loss | 1.750 | 2.000 |" in printed
    assert name in (tmp_path / "plot.svg").read_text()
