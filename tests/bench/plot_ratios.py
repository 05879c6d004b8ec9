#!/usr/bin/env python3
"""What entmax costs next to softmax: a Markdown table and a plot from attention_bench's JSON.

  build/release/bin/attention_bench --benchmark_format=json >attention.json
  .venv-bench/bin/python tests/bench/plot_ratios.py attention.json [more.json ...] [--plot docs/attention_ratios.svg]

Runs of several files are taken together. A ratio is the median of entmax's times over the median of softmax's on the
same queries, keys and pages; what has been run for only one of them is left out. The table has every case, the plot
those of `LINES`. Needs tests/bench/requirements.txt for the plot, nothing for the table.
"""

import argparse
import collections
import json
import statistics

from ratio_plot import finish_plot, start_plot

# What a case's name leaves out when it has this value: see attention_bench.cc.
USUAL = {"head_dim": "64", "group": "1", "alpha": "1.5", "chunk": "2048"}

# label, (work, scores, parameters besides tokens), colour; decoding is dashed.
LINES = [
    ("prefill, random, σ 1", ("prefill", "random", (("sigma", "1"),)), "#e69f00"),
    ("prefill, random, σ 2", ("prefill", "random", (("sigma", "2"),)), "#c44e00"),
    ("prefill, model, wide heads", ("prefill", "wide", ()), "#cc79a7"),
    ("prefill, model, narrow heads", ("prefill", "narrow", ()), "#56b4e9"),
    ("prefill, model, all heads", ("prefill", "all", ()), "#0b4f8a"),
    ("prefill, model, ALiBi heads", ("prefill", "alibi", ()), "#009e73"),
    ("decode, random, σ 2, group 4", ("decode", "random", (("sigma", "2"), ("group", "4"))), "#c44e00"),
    ("decode, model, all heads", ("decode", "all", ()), "#0b4f8a"),
]

HEADS = {
    "all": "the model's, all heads",
    "alibi": "the model's, ALiBi heads",
    "narrow": "the model's, heads with a mean support under 150 keys",
    "wide": "the model's, the other heads",
}
UNITS_IN_MS = {"ns": 1e-6, "us": 1e-3, "ms": 1, "s": 1e3}


def parse(name):
    """(kind, case, tokens) of a benchmark's name, or nothing if it has no peer.

    prefill/entmax/random/tokens:4096/sigma:2/head_dim:64/group:1/alpha:1.5/iterations:1/repeats:3/manual_time is
    ("entmax", ("prefill", "random", (("sigma", "2"),)), 4096).
    """
    words = name.split("/")
    if len(words) < 4 or words[1] not in ("entmax", "softmax"):
        return None
    scores = words[3] if words[2] == "recorded" else words[2]
    parameters = dict(word.split(":", 1) for word in words if ":" in word)
    tokens = int(parameters.pop("tokens"))
    kept = tuple((key, value) for key, value in parameters.items()
                 if key not in ("iterations", "repeats") and USUAL.get(key) != value)
    return words[1], (words[0], scores, kept), tokens


def read_medians(paths):
    """{case: {tokens: {"entmax": ms, "softmax": ms}}} where both are known."""
    times = collections.defaultdict(list)
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for run in json.load(file)["benchmarks"]:
                parsed = parse(run["name"])
                if parsed and run.get("run_type") == "iteration" and not run.get("error_occurred"):
                    times[parsed].append(run["real_time"] * UNITS_IN_MS[run["time_unit"]])
    medians = collections.defaultdict(lambda: collections.defaultdict(dict))
    for (kind, case, tokens), values in times.items():
        medians[case][tokens][kind] = statistics.median(values)
    both = {case: {tokens: ms for tokens, ms in sorted(lengths.items()) if len(ms) == 2}
            for case, lengths in medians.items()}
    return {case: lengths for case, lengths in both.items() if lengths}


def describe(case):
    _, scores, parameters = case
    if scores in HEADS:
        words = [HEADS[scores]]
    else:
        words = ["all equal" if ("sigma", "0") in parameters else "random"]
    for key, value in parameters:
        if key == "sigma":
            if value != "0":
                words.append(f"standard deviation {value}")
        elif key == "slope":
            words.append(f"ALiBi slope 1/{1 / float(value):.0f}")
        else:
            words.append(f"{key} {value}")
    return ", ".join(words)


def short(tokens):
    """4096 is 4k, 1048576 is 1M, 65502 is 65,502."""
    for unit, size in (("M", 1 << 20), ("k", 1 << 10)):
        if tokens % size == 0:
            return f"{tokens // size}{unit}"
    return f"{tokens:,}"


def two_digits(ratio):
    return f"{ratio:.3f}" if ratio < 0.095 else f"{ratio:.2f}" if ratio < 9.5 else f"{ratio:.0f}"


def milliseconds(ms):
    return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.2g} ms"


def markdown(medians):
    """A table for each kind of work: cases down, tokens across, in the order of the files."""
    lines = []
    for work, unit in (("prefill", "a head's whole sequence"), ("decode", "one token")):
        cases = [case for case in medians if case[0] == work]
        if not cases:
            continue
        columns = sorted({tokens for case in cases for tokens in medians[case]})
        lines += [f"| {work}, entmax / softmax (entmax, {unit}) | "
                  + " | ".join(short(tokens) for tokens in columns) + " |",
                  "|---" * (len(columns) + 1) + "|"]
        for case in cases:
            cells = []
            for tokens in columns:
                ms = medians[case].get(tokens)
                cells.append(f"{two_digits(ms['entmax'] / ms['softmax'])} ({milliseconds(ms['entmax'])})" if ms else "")
            lines.append(f"| {describe(case)} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def plot(medians, path):
    from matplotlib import ticker

    figure, axes = start_plot()
    seen = set()
    for label, case, colour in LINES:
        lengths = medians.get(case)
        if not lengths:
            continue
        seen.update(lengths)
        axes.plot(list(lengths), [ms["entmax"] / ms["softmax"] for ms in lengths.values()], color=colour, label=label,
                  linewidth=2, marker="o", markersize=4.5, linestyle="--" if case[0] == "decode" else "-")
    if not seen:
        raise SystemExit("none of the plot's cases is in these files")
    axes.axhline(1, color="black", linewidth=1.2)
    axes.annotate("softmax (our flash kernel)", (1, 1), xycoords=("axes fraction", "data"), xytext=(-4, 4),
                  textcoords="offset points", ha="right")
    axes.set_yscale("log")
    axes.set_ylim(top=max(1.6, axes.get_ylim()[1]))
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.set_ylabel("entmax time / softmax time")
    lengths = [2**i for i in range(40) if min(seen) <= 2**i <= max(seen)]
    finish_plot(figure, axes, lengths, short, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="JSON")
    parser.add_argument("--plot", metavar="SVG", help="also draw the plot into this file")
    args = parser.parse_args()
    medians = read_medians(args.files)
    print(markdown(medians))
    if args.plot:
        plot(medians, args.plot)


if __name__ == "__main__":
    main()
