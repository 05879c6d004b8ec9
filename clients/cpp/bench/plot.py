#!/usr/bin/env python3
"""Draws runs of tauserve-bench from what --json wrote.

  tauserve-bench --rate=4 --duration=60s --goodput=ttft:1s,itl:100ms --json=rate4.json    (and others)
  .venv/bin/python clients/cpp/bench/plot.py rate*.json --out=rates.svg                   (or .png)

On top the distributions of the time to the first token and of the time between tokens, a line for each run. Below
them, for several runs, or for the parts of a ramp: these latencies, throughput and goodput over the load. Needs
matplotlib.
"""

import argparse
import json
import pathlib
from typing import Any

Json = dict[str, Any]

# (in the JSON, in the figure)
LATENCIES = [("ttft", "time to first token"), ("itl", "time between tokens")]
GREY = "#dddddd"


def label_of(run: Json) -> str:
    settings = run["settings"]
    if "ramp" in settings:
        return f"{settings['ramp']['first']:g} to {settings['ramp']['last']:g} requests/s"
    if "rate" in settings:
        limit = f", at most {settings['max_concurrency']}" if "max_concurrency" in settings else ""
        return f"{settings['rate']:g} requests/s{limit}"
    return f"{settings['max_concurrency']} users"


def load_points(runs: list[Json]) -> tuple[str, list[tuple[float, Json]]]:
    """What the load is measured in, and each load with its summary: of runs, and of the parts of ramps."""
    points: list[tuple[float, Json]] = []
    loops = {run["settings"]["loop"] for run in runs}
    for run in runs:
        settings, summary = run["settings"], run["summary"]
        if "ramp" in settings:
            points += [(window["rate"], window["summary"]) for window in run.get("windows", [])]
        elif len(loops) > 1:
            points.append((summary["requests_per_second"], summary))
        else:
            points.append((settings["rate"] if "rate" in settings else settings["max_concurrency"], summary))
    names = {("open",): "requests asked for a second", ("closed",): "users of the closed loop"}
    return names.get(tuple(loops), "requests a second"), sorted(points, key=lambda point: point[0])


def draw_distribution(axes: Any, runs: list[Json], name: str, title: str) -> None:
    for run in runs:
        distribution = run["summary"]["latency_seconds"][name]
        if distribution["count"]:
            milliseconds = [1000 * value for value in distribution["quantiles"]]
            axes.plot(milliseconds, range(len(milliseconds)), label=label_of(run), linewidth=1.8)
    axes.set_xscale("log")
    axes.set_xlabel(f"{title}, ms")
    axes.set_ylabel("% of requests" if name == "ttft" else "% of tokens")
    axes.set_ylim(0, 100)


def draw_latencies(axes: Any, loads: str, points: list[tuple[float, Json]]) -> None:
    for (name, title), colour in zip(LATENCIES, ("#0b4f8a", "#c44e00")):
        measured = [(load, summary["latency_seconds"][name]) for load, summary in points
                    if summary["latency_seconds"][name]["count"]]
        if not measured:
            continue
        # Runs may have been asked for different ones.
        common = [p for p in measured[0][1]["percentiles"] if all(p in d["percentiles"] for _, d in measured)]
        for percentile, style in zip(dict.fromkeys(common[:1] + common[-1:]), ("-", "--")):
            axes.plot([load for load, _ in measured], [1000 * d["percentiles"][percentile] for _, d in measured],
                      label=f"{title}, p{percentile}", color=colour, linestyle=style, marker="o", markersize=4)
    axes.set_yscale("log")
    axes.set_ylabel("ms")
    axes.set_xlabel(loads)


def draw_throughput(axes: Any, loads: str, points: list[tuple[float, Json]]) -> None:
    x = [load for load, _ in points]
    axes.plot(x, [summary["requests_per_second"] for _, summary in points], label="ended well", color="#bbbbbb",
              linewidth=4)
    if all("goodput_per_second" in summary for _, summary in points):
        axes.plot(x, [summary["goodput_per_second"] for _, summary in points], label="within all limits (goodput)",
                  color="#009e73", marker="o", markersize=4)
    if "asked" in loads:
        axes.plot(x, x, label="asked for", color="#999999", linestyle=":")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("requests/s")
    axes.set_xlabel(loads)


def draw(runs: list[Json], path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    # Text stays text, and the same numbers make the same file on any day.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "tauserve", "font.size": 10})
    from matplotlib import pyplot, ticker

    loads, points = load_points(runs)
    over_load = len({load for load, _ in points}) > 1
    figure, grid = pyplot.subplots(2 if over_load else 1, 2, figsize=(11, 7.5 if over_load else 4), squeeze=False,
                                   layout="constrained")
    for axes, (name, title) in zip(grid[0], LATENCIES):
        draw_distribution(axes, runs, name, title)
    if over_load:
        draw_latencies(grid[1][0], loads, points)
        draw_throughput(grid[1][1], loads, points)
    for axes in grid.flat:
        axes.grid(color=GREY, linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9)
        for axis, scale in ((axes.xaxis, axes.get_xscale()), (axes.yaxis, axes.get_yscale())):
            if scale == "log":
                axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter(ticker.NullFormatter())
    models = sorted({run["server"]["model"] for run in runs})
    figure.suptitle(f"{', '.join(models)}: {sum(run['summary']['ok'] for run in runs)} requests", fontsize=11)
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, facecolor="white", metadata=metadata, dpi=120)


def read_run(path: str) -> Json:
    try:
        run = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"plot.py: {path}: {error}")
    if not isinstance(run, dict) or "tauserve_bench" not in run:
        raise SystemExit(f"plot.py: {path}: not written by tauserve-bench --json")
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="JSON")
    parser.add_argument("--out", required=True, type=pathlib.Path, metavar="FILE.svg|FILE.png")
    args = parser.parse_args()
    if args.out.suffix not in (".svg", ".png"):
        parser.error(f"--out is {args.out}, must end in .svg or .png")
    runs = [read_run(path) for path in args.files]
    if not any(run["summary"]["ok"] for run in runs):
        raise SystemExit("plot.py: no request of these runs ended well")
    draw(runs, args.out)


if __name__ == "__main__":
    main()
