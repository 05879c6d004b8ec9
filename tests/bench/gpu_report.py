"""Markdown tables and a plot of the results that gpu_attention.py and gpu_server.py write."""

from ratio_plot import finish_plot, start_plot


def only(rows, **wanted):
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def value(rows, key, **wanted):
    found = [row[key] for row in only(rows, **wanted) if key in row]
    return min(found) if found else None


def ratio(a, b):
    return f"{a / b:.2f}" if a and b else "–"


def length(tokens):
    return f"{tokens >> 20}M" if tokens >= 1 << 20 else f"{tokens >> 10}k"


def report(results):
    print(f"{results['device']}\n")
    ours, peers = results.get("prefill", []), results.get("prefill_peers", [])
    if ours:
        print("Prefill, ms, and peers' time over ours\n")
        print("| head_dim | tokens | σ | ours | FA2 / ours | cuDNN / ours | AdaSplash-2 / ours | support |")
        print("|---|---|---|---|---|---|---|---|")
        for row in only(ours, name="causal"):
            shape = {"dim": row["dim"], "tokens": row["tokens"]}
            flash, cudnn = (value(peers, "ms", name=name, **shape) for name in ("flash", "cudnn"))
            splash = value(peers, "ms", name="adasplash-2", sigma=row["sigma"], **shape)
            print(f"| {row['dim']} | {length(row['tokens'])} | {row['sigma']:g} | {row['ms']:.3f} | {ratio(flash, row['ms'])} "
                  f"| {ratio(cudnn, row['ms'])} | {ratio(splash, row['ms'])} | {row['support']} |")
        print("\nOther prefill\n")
        print("| case | head_dim | new + context tokens | α | σ | ms | ours / FA2 of 16 heads | support |")
        print("|---|---|---|---|---|---|---|---|")
        for row in ours:
            if row["name"] == "causal":
                continue
            flash = value(peers, "ms", name="flash", dim=row["dim"], tokens=row["tokens"]) if not row["context"] else None
            print(f"| {row['name']} | {row['dim']} | {row['tokens']} + {row['context']} | {row['alpha']:g} | {row['sigma']:g} "
                  f"| {row['ms']:.3f} | {ratio(row['ms'], flash)} | {row['support']} |")
    if results.get("recorded"):
        print("\nThe embedded model's prompts, all attention of a prefill, ms\n")
        print("| tokens | ours, whole | in chunks of 8k | of 2k | FA2 | cuDNN | cuDNN / ours, whole | in chunks of 8k | of 2k |")
        print("|---|---|---|---|---|---|---|---|---|")
        for tokens in (16384, 65536):
            rows = only(results["recorded"], tokens=tokens)
            ours = [value(rows, "ms", name="ours", chunk=chunk) for chunk in (tokens, 8192, 2048)]
            flash, cudnn = (value(rows, "ms", name=name) for name in ("flash", "cudnn"))
            cells = [length(tokens), *ours, flash, cudnn, *(ratio(cudnn, ms) for ms in ours)]
            print("| " + " | ".join(map(str, cells)) + " |")
    if results.get("decode"):
        copy = results["limits"]["copy_tb_per_second"]
        print("\nDecoding, µs, and cuDNN's time over ours\n")
        print("| case | batch | tokens | α | σ | bf16 keys | int8 keys | reading all K and V | FA2 | cuDNN | cuDNN / ours |")
        print("|---|---|---|---|---|---|---|---|---|---|---|")
        seen = []
        for row in results["decode"]:
            case = {key: row[key] for key in ("name", "batch", "tokens", "alpha", "sigma")}
            if case in seen:
                continue
            seen.append(case)
            bf16, int8 = (value(results["decode"], "us", keys=keys, **case) for keys in ("bf16", "int8"))
            shape = {"batch": row["batch"], "tokens": row["tokens"]}
            flash, cudnn = (value(results["decode_peers"], "us", name=name, **shape) for name in ("flash", "cudnn"))
            limit = row["batch"] * row["tokens"] * 8 * 128 * 2 * 2 / copy / 1e6
            best = min(x for x in (bf16, int8) if x)
            print(f"| {row['name']} | {row['batch']} | {length(row['tokens'])} | {row['alpha']:g} | {row['sigma']:g} | {bf16} "
                  f"| {int8 or '–'} | {limit:.0f} | {flash or '–'} | {cudnn or '–'} | {ratio(cudnn, best)} |")
    if results.get("server"):
        report_server(results["server"])
    for row in results.get("entmaxkv", []):
        print(f"\n{row['name']}, {length(row['tokens'])} tokens, 8 query heads: {row.get('us', row.get('error'))} µs")


def report_server(rows):
    print("\nWhole server (gpu_server.py), time to the first token\n")
    print("| model | attention | tokens | s | tokens/s | of the GEMM peak |")
    print("|---|---|---|---|---|---|")
    for row in only(rows, kind="first token"):
        print(f"| {row['model']} | {row['attention']} | {length(row['tokens'])} | {row['ttft_seconds']:.3f} "
              f"| {row['tokens_per_second']:,} | {100 * row['of_gemm_peak']:.0f} % |")
    print("\nWhole server, decoding\n")
    print("| model | attention | context | batch | step, ms | tokens/s | of the copy rate |")
    print("|---|---|---|---|---|---|---|")
    for row in only(rows, kind="decode"):
        if "step_ms" in row:
            print(f"| {row['model']} | {row['attention']} | {length(row['context'])} | {row['batch']} | {row['step_ms']} "
                  f"| {row['tokens_per_second']:,} | {100 * row['of_copy_rate']:.0f} % |")
    print("\nSteps without engine and sampler\n")
    print("| model | context | batch | prefill tokens/s | linear layers, of the GEMM peak | linear : attention : rest, ms "
          "| decode step, ms | of the copy rate |")
    print("|---|---|---|---|---|---|---|---|")
    for row in only(rows, kind="steps"):
        parts = " : ".join(f"{row['profile'][name]:.0f}" for name in ("linear_ms", "attention_ms", "other_ms"))
        print(f"| {row['model']} | {length(row['context'])} | {row['batch']} | {row['prefill_tokens_per_second']:,.0f} "
              f"| {100 * row['linear_of_gemm_peak']:.0f} % | {parts} | {row['decode_step_us'] / 1e3:.2f} "
              f"| {100 * row['decode_of_copy_rate']:.0f} % |")


# label, part, wanted rows, peer, colour; decoding is dashed.
LINES = [
    ("prefill, σ 2, head_dim 128, FA2", "prefill", {"dim": 128, "sigma": 2.0}, "flash", "#0b4f8a"),
    ("prefill, σ 2, head_dim 64, FA2", "prefill", {"dim": 64, "sigma": 2.0}, "flash", "#56b4e9"),
    ("prefill, σ 2, head_dim 128, cuDNN", "prefill", {"dim": 128, "sigma": 2.0}, "cudnn", "#c44e00"),
    ("prefill, σ 2, head_dim 64, cuDNN", "prefill", {"dim": 64, "sigma": 2.0}, "cudnn", "#e69f00"),
    ("prefill, σ 2, head_dim 128, AdaSplash-2", "prefill", {"dim": 128, "sigma": 2.0}, "adasplash-2", "#009e73"),
    ("decode, σ 2, one sequence, cuDNN", "decode", {"batch": 1, "sigma": 2.0}, "cudnn", "#c44e00"),
    ("decode, σ 2, 16 sequences, cuDNN", "decode", {"batch": 16, "sigma": 2.0}, "cudnn", "#cc79a7"),
]


def ratios(results, part, wanted, peer):
    """{tokens: peer's time / ours}."""
    key, name = ("ms", "causal") if part == "prefill" else ("us", "normal")
    points = {}
    for row in only(results.get(part, []), name=name, **wanted):
        shape = {k: row[k] for k in ("dim", "batch", "tokens") if k in row}
        if peer == "adasplash-2":
            shape["sigma"] = row["sigma"]
        theirs = value(results.get(part + "_peers", []), key, name=peer, **shape)
        if theirs:
            points[row["tokens"]] = max(theirs / row[key], points.get(row["tokens"], 0))
    return dict(sorted(points.items()))


def plot(results, path):
    from matplotlib import ticker

    figure, axes = start_plot()
    seen = set()
    for label, part, wanted, peer, colour in LINES:
        points = ratios(results, part, wanted, peer)
        seen.update(points)
        axes.plot(list(points), list(points.values()), color=colour, label=label, linewidth=2, marker="o", markersize=4.5,
                  linestyle="--" if part == "decode" else "-")
    axes.axhline(1, color="black", linewidth=1.2)
    axes.annotate("the peer's speed", (1, 1), xycoords=("axes fraction", "data"), xytext=(-4, 4),
                  textcoords="offset points", ha="right")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_locator(ticker.LogLocator(base=2))
    axes.set_ylabel("peer's time / ours (entmax)")
    axes.set_title(results["device"], fontsize=11)
    finish_plot(figure, axes, sorted(seen), length, path)
