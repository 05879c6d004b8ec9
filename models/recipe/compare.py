"""A table and a plot of what trained variants reach: recall and story loss by length.

Reads the results.json (README.md explains it) of each folder given as NAME=FOLDER. Prints a Markdown
table; with --plot writes an SVG file, which needs matplotlib.
"""

import argparse
import json
import re


def by_length(results, kind):
    """-> length -> value of recall_N's exact share, or of loss_N."""
    values = {}
    for name, value in results.items():
        found = re.fullmatch(rf"{kind}_(\d+)", name)
        if found:
            values[int(found[1])] = value["exact"] if kind == "recall" else value
    return dict(sorted(values.items()))


def short(length):
    return f"{length // 1024}k" if length >= 1024 else str(length)


def table(variants):
    lengths = sorted({n for r in variants.values() for n in by_length(r, "recall") if n >= 1024})
    lines = [
        "| | " + " | ".join(short(n) for n in lengths) + " |",
        "|---|" + "---|" * len(lengths),
    ]
    for name, results in variants.items():
        recall, loss = by_length(results, "recall"), by_length(results, "loss")
        cells = [f"{100 * recall[n]:.1f} %" if n in recall else "" for n in lengths]
        lines.append(f"| {name}, recall | " + " | ".join(cells) + " |")
        cells = [f"{loss[n]:.3f}" if n in loss else "" for n in lengths]
        lines.append(f"| {name}, story loss | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(variants, path):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "tauserve"})
    from matplotlib import pyplot, ticker

    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    titles = {"recall": "questions answered right", "loss": "story loss, nats a token"}
    for axes, (kind, title) in zip(panels, titles.items()):
        lengths = set()
        for name, results in variants.items():
            values = by_length(results, kind)
            lengths |= set(values)
            axes.plot(values.keys(), values.values(), marker="o", label=name)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(ticker.FixedLocator(sorted(lengths)))
        axes.xaxis.set_major_formatter(lambda tokens, _: short(int(tokens)))
        axes.minorticks_off()
        axes.set_title(title)
        axes.set_xlabel("tokens")
        axes.grid(color="#dddddd", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylim(0, 1.05)
    panels[0].yaxis.set_major_formatter(ticker.PercentFormatter(1))
    panels[0].legend(frameon=False)
    figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--plot", help="SVG file to write")
    args = parser.parse_args()
    variants = {}
    for argument in args.variants:
        name, _, folder = argument.partition("=")
        with open(f"{folder}/results.json") as file:
            variants[name] = json.load(file)
    print(table(variants))
    if args.plot:
        plot(variants, args.plot)


if __name__ == "__main__":
    main()
