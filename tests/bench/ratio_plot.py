"""What the plots of ratios over lengths have in common. Needs matplotlib."""


def start_plot():
    """(figure, axes) of a drawing whose text stays text, and that is the same for the same numbers on any day."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "tauserve", "font.size": 11,
                                "font.family": ["sans-serif"]})
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(9, 4.8), layout="constrained")


def finish_plot(figure, axes, lengths, name_of, path):
    """Draws tokens from left to right, named by `name_of` at `lengths`, a grid and the legend, and writes the SVG file."""
    from matplotlib import ticker

    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(ticker.FixedLocator(lengths))
    axes.xaxis.set_major_formatter(lambda tokens, _: name_of(int(tokens)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("tokens")
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})
