"""Forward and backward passes of attention on a GPU: ours (entmax-1.5) beside PyTorch's FlashAttention-2 and cuDNN (softmax)
and AdaSplash-2 (entmax-1.5; where PyPI's adasplash is installed), medians of one run on the same tensors.

    PYTHONPATH=build/release/python python3 tests/bench/gpu_training.py --out docs/benchmarks/h200-training.json
    python3 tests/bench/gpu_training.py --report docs/benchmarks/h200-training.json

Random normal queries, keys and output gradients; sigma is the standard deviation of the scores. --recorded FOLDER takes
tensors of a training step (layerN.{q,k,v,d_out}.bin: bfloat16 [tokens][heads][64]) as recorded by --record FOLDER, which runs
one of the embedded model's.
"""

import argparse
import json
import pathlib
import statistics
import sys

from adasplash_peer import AdaSplash

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADS = 16
LENGTHS = [4096, 8192, 16384, 32768, 65536, 131072]
RECALL_SLOPES = [1.0, 0.5, 0.25, 0.125, 0, 0, 0, 0]


def median_ms(function, tokens):
    import torch

    runs = 3 if tokens > 50000 else 7
    function()
    times = []
    for _ in range(runs):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def attentions(slopes=None):
    """By name: functions of q, k, v [batch, heads, tokens, head_dim]."""
    import tauserve_kernels
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def ours(q, k, v):
        return tauserve_kernels.entmax_attention(q, k, v, alibi_slopes=slopes)

    def sdpa(backend):
        def attend(q, k, v):
            with sdpa_kernel(backend):
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True,
                                                                        enable_gqa=k.shape[1] != q.shape[1])
        return attend

    return {"ours": ours, "flash": sdpa(SDPBackend.FLASH_ATTENTION), "cudnn": sdpa(SDPBackend.CUDNN_ATTENTION)}


def measure(function, q, k, v, dout):
    """Milliseconds of the forward pass and of both; the error's text where it can't run."""
    import torch

    inputs = [x.detach().requires_grad_() for x in (q, k, v)]
    try:
        forward = median_ms(lambda: function(*inputs), q.shape[2])

        def both():
            torch.autograd.grad(function(*inputs), inputs, dout)

        return {"forward_ms": round(forward, 4), "both_ms": round(median_ms(both, q.shape[2]), 4)}
    except Exception as error:  # noqa: BLE001: a peer's own
        torch.cuda.synchronize()
        return {"error": f"{type(error).__name__}: {error}"[:200]}


def random_case(head_dim, tokens, sigma, kind="normal", heads=HEADS):
    """q, k, v and the output's gradient as models have them: [batch, heads, tokens, head_dim], a token's heads together."""
    import torch

    torch.manual_seed(1)
    scale = sigma**0.5
    q, k = (torch.randn(1, tokens, heads, head_dim, device="cuda") * scale for _ in range(2))
    if kind == "equal":
        k = k[:, :1].expand_as(k)
    v, dout = (torch.randn(1, tokens, heads, head_dim, device="cuda") for _ in range(2))
    return [x.bfloat16().contiguous().transpose(1, 2) for x in (q, k, v, dout)]


def block_sparsity(q, k, heads=2, block=64):
    """The share of causal 64 x 64 blocks without weight, over the first heads, by dense scores."""
    import torch

    empty = total = 0
    tokens = q.shape[2]
    for h in range(heads):
        for row in range(0, tokens, 2048):
            rows = q[0, h, row:row + 2048].float() @ k[0, h, :row + 2048].float().T / q.shape[-1] ** 0.5 / 2
            positions = torch.arange(row, row + rows.shape[0], device="cuda")
            seen = torch.arange(rows.shape[1], device="cuda") <= positions[:, None]
            rows = rows.masked_fill(~seen, -torch.inf)
            low = rows.max(-1, keepdim=True).values - 1
            for _ in range(12):  # Newton's steps from the left
                g = (rows - low).clamp_min(0)
                low = low + ((g * g).sum(-1, keepdim=True) - 1) / (2 * g.sum(-1, keepdim=True))
            live = (rows > low).unflatten(0, (-1, block)).any(1).unflatten(1, (-1, block)).any(2)
            causal = seen.unflatten(0, (-1, block)).any(1).unflatten(1, (-1, block)).any(2)
            empty += (causal & ~live).sum().item()
            total += causal.sum().item()
    return round(empty / total, 4)


def find_adasplash(dims, lengths, heads=HEADS):
    """The peer, tuned, and the configurations chosen; None, and why, where it is not installed."""
    if not dims:
        return None, "not asked for"
    try:
        peer = AdaSplash(backward=True)
    except ImportError as missing:
        return None, str(missing)
    return peer, peer.tune(dims, lengths, heads)


def run_random(lengths, adasplash):
    """adasplash: tuned, or None."""
    results = []
    for head_dim in (64, 128):
        found = attentions()
        if adasplash and head_dim in adasplash.best:
            adasplash.use(head_dim)
            found["adasplash"] = adasplash.attend
        cases = [("normal", n, s) for n in lengths for s in (1, 2, 4)] + [("normal", 16384, 0.5), ("equal", 16384, 1)]
        softmax = {}  # what is in the tensors does not change its time
        for kind, tokens, sigma in cases:
            tensors = random_case(head_dim, tokens, sigma, kind)
            row = {"kind": kind, "head_dim": head_dim, "tokens": tokens, "sigma": sigma}
            if kind == "normal" and tokens <= 16384:
                row["block_sparsity"] = block_sparsity(*tensors[:2])
            for name, function in found.items():
                if name in ("flash", "cudnn"):
                    if (name, tokens) not in softmax:
                        softmax[name, tokens] = measure(function, *tensors)
                    row[name] = softmax[name, tokens]
                elif name == "adasplash":  # which takes a head's tokens together
                    row[name] = measure(function, *(x.contiguous() for x in tensors))
                else:
                    row[name] = measure(function, *tensors)
            results.append(row)
            print(json.dumps(row), flush=True)
    return results


def record(folder, tokens, ids):
    """One training step of the embedded model on `ids`; its attention's tensors."""
    import torch

    sys.path.insert(0, str(ROOT / "models" / "recipe"))
    from export import read_exported
    from model import RECALL_9M, Model

    model = Model(RECALL_9M)
    model.load_state_dict(read_exported(ROOT / "models" / "recall-9m", RECALL_9M))
    seen = []

    def attention(q, k, v):
        out = entmax(q, k, v)
        seen.append({"q": q.detach(), "k": k.detach(), "v": v.detach()})
        out.register_hook(lambda gradient, one=seen[-1]: one.update(d_out=gradient.detach()))
        return out

    entmax, model.attention = model.attention, attention
    model.cuda()
    ids = ids[:tokens].cuda()[None]
    targets = torch.roll(ids, -1, 1)
    weights = torch.full((tokens,), 1 / tokens, device="cuda")
    loss = model.loss(model.trunk(ids), targets.view(-1), weights, torch.bfloat16)
    loss.backward()
    print(f"loss {loss.item():.3f}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    for layer, tensors in enumerate(seen):
        for name, x in tensors.items():
            x = x.float() / x.float().abs().mean() if name == "d_out" else x
            x[0].bfloat16().contiguous().view(torch.int16).cpu().numpy().tofile(folder / f"layer{layer}.{name}.bin")


def run_recorded(folder):
    import numpy
    import torch

    results = []
    for layer in range(len(list(folder.glob("layer*.q.bin")))):
        def load(name):
            x = torch.from_numpy(numpy.fromfile(folder / f"layer{layer}.{name}.bin", numpy.int16)).view(torch.bfloat16)
            return x.cuda()

        q = load("q").view(1, -1, 8, 64).transpose(1, 2)
        k, v = (load(name).view(1, -1, 4, 64).transpose(1, 2) for name in ("k", "v"))
        dout = load("d_out").view(1, -1, 8, 64).transpose(1, 2)
        row = {"kind": "recorded", "layer": layer, "head_dim": 64, "tokens": q.shape[2]}
        for name, function in attentions(RECALL_SLOPES).items():
            row[name] = measure(function, q, k, v, dout)
        results.append(row)
        print(json.dumps(row), flush=True)
    return results


def ratio(row, peer, key="both_ms"):
    if key not in row.get(peer, {}) or key not in row["ours"]:
        return "-"
    return f"{row[peer][key] / row['ours'][key]:.2f}"


def report(results):
    print(f"{results['device']}, PyTorch {results['torch']}")
    normal = [r for r in results["rows"] if r["kind"] == "normal"]
    lengths = sorted({r["tokens"] for r in normal})
    print("| forward + backward: FA2, cuDNN, AdaSplash-2 / ours (ms) | " + " | ".join(f"{n // 1024}k" for n in lengths) + " |")
    print("|---|" + "---|" * len(lengths))
    for head_dim in (64, 128):
        for sigma in sorted({r["sigma"] for r in normal}, reverse=False):
            rows = {r["tokens"]: r for r in normal if r["head_dim"] == head_dim and r["sigma"] == sigma}
            cells = [", ".join(ratio(rows[n], peer) for peer in ("flash", "cudnn", "adasplash"))
                     + f" ({rows[n]['ours'].get('both_ms', 0):.2f})" if n in rows else "" for n in lengths]
            print(f"| head_dim {head_dim}, σ {sigma:g} | " + " | ".join(cells) + " |")
    for row in results["rows"]:
        if row["kind"] == "equal":
            print(f"all equal, head_dim {row['head_dim']}, 16k: FA2 / ours {ratio(row, 'flash')}, {row['ours']}")
    for tokens in sorted({r["tokens"] for r in results["rows"] if r["kind"] == "recorded"}):
        rows = [r for r in results["rows"] if r["kind"] == "recorded" and r["tokens"] == tokens]
        sums = {name: [sum(r[name][key] for r in rows) for key in ("forward_ms", "both_ms")]
                for name in ("ours", "flash", "cudnn")}
        print(f"recorded, {tokens} tokens, all layers: " + ", ".join(
            f"{name} {forward:.2f} + {both - forward:.2f} ms" for name, (forward, both) in sums.items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--report", type=pathlib.Path, help="print a result's tables, and no more")
    parser.add_argument("--record", type=pathlib.Path, help="folder to write tensors of a training step to")
    parser.add_argument("--ids", type=pathlib.Path, help="with --record: .npy of the prompt's token ids")
    parser.add_argument("--tokens", type=int, default=16384, help="with --record")
    parser.add_argument("--recorded", type=pathlib.Path, nargs="*", default=[], help="folders of recorded tensors")
    parser.add_argument("--lengths", type=int, nargs="*", default=LENGTHS)
    parser.add_argument("--adasplash_dims", type=int, nargs="*", default=[64, 128])
    arguments = parser.parse_args()
    if arguments.report:
        return report(json.loads(arguments.report.read_text()))
    import numpy
    import torch

    if arguments.record:
        ids = torch.from_numpy(numpy.load(arguments.ids).astype("int64").ravel())
        return record(arguments.record, arguments.tokens, ids)
    rows = [row for folder in arguments.recorded for row in run_recorded(folder)]
    results = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows}
    if arguments.lengths:
        adasplash, results["adasplash"] = find_adasplash(arguments.adasplash_dims, arguments.lengths)
        rows += run_random(arguments.lengths, adasplash)
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    report(results)


if __name__ == "__main__":
    main()
