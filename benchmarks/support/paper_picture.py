"""The picture of the paper's experiment: four metrics over the load, measured and simulated."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.support.curves import Curves

__all__ = ["draw"]

COLOURS = {"ray": "#888888", "greedy": "#1f77b4", "target": "#9467bd", "slack": "#d62728"}
TITLES = {
    "goodput": "share in time",
    "ttft_mean_s": "mean TTFT, s",
    "latency_mean_s": "mean latency, s",
    "fast_share": "share on the fast card",
}
NAMES = {"ray": "Ray Serve"}


def draw(curves: Curves, simulated: Curves, path: Path) -> None:
    """Draw points with the range of seeds as measured, and lines as simulated."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = len(curves.workflows)
    figure, axes = plt.subplots(rows, len(TITLES), figsize=(3.4 * len(TITLES), 2.9 * rows), squeeze=False)
    for row, workflow in enumerate(curves.workflows):
        for column, (metric, title) in enumerate(TITLES.items()):
            ax = axes[row][column]
            for system in curves.systems:
                colour = COLOURS.get(system, "black")
                found = [curves.over_seeds(system, workflow, count, metric) for count in curves.counts]
                means = [fmean(values) for values in found]
                spread = [
                    [m - min(v) for m, v in zip(means, found, strict=True)],
                    [max(v) - m for m, v in zip(means, found, strict=True)],
                ]
                ax.errorbar(
                    curves.counts, means, yerr=spread, fmt="o", ms=4, lw=0.8, color=colour,
                    label=NAMES.get(system, system),
                )  # fmt: skip
                known = [fmean(simulated.over_seeds(system, workflow, count, metric)) for count in curves.counts]
                ax.plot(curves.counts, known, color=colour, lw=1.0, alpha=0.7)
            ax.set_title(f"{workflow}: {title}", fontsize=9)
            ax.set_xlabel("runs within 10 s", fontsize=8)
            ax.tick_params(labelsize=8)
            if metric == "goodput":
                ax.axhline(0.7, color="black", lw=0.5, ls=":")
                ax.set_ylim(0, 1.02)
    axes[0][0].legend(fontsize=8)
    figure.text(0.005, 0.005, "points: real systems, mean and range of seeds; lines: simulator", fontsize=7)
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)
