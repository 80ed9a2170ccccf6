"""Draws what `benchmarks.prediction` has measured.

python -m benchmarks.support.prediction_picture
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.prediction import WARM
from benchmarks.support.environment import RESULTS

BLUE, AMBER, GREY = "#3b82f6", "#d98a06", "#888888"
NOTICED = 20  # calls in the rolling median


def scatter(axes: Any, calls: list[dict[str, Any]], what: str, title: str, result: dict[str, Any]) -> None:
    measured = np.array([call[f"{what}_s"] for call in calls])
    predicted = np.array([call[what]["corrected"] for call in calls])
    bound = np.array([call[f"{what}_p90"] for call in calls])
    ends = [min(measured.min(), predicted.min()), max(measured.max(), predicted.max())]
    axes.plot(ends, ends, color=GREY, linewidth=1, zorder=3)
    below = measured <= bound
    for mask, colour, label in ((below, BLUE, "below its predicted p90"), (~below, AMBER, "above")):
        axes.scatter(measured[mask], predicted[mask], s=7, alpha=0.35, color=colour, linewidths=0, label=label)
    error = result["usual"][f"{what}_s"]["corrected"]["median"]
    share = result["usual"]["coverage"][f"{what}_s"]["share"]
    axes.set_title(f"{title}: median error {error:.1%}, p90 holds for {share:.1%}", fontsize=11)
    axes.set(xscale="log", yscale="log", xlabel="measured, s", ylabel="predicted on submission, s")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False, fontsize=9, markerscale=3)


def slowed(axes: Any, calls: list[dict[str, Any]], begins: int, title: str) -> None:
    numbers = np.arange(len(calls)) - begins
    for key, colour, label in (("static", AMBER, "profile as measured"), ("corrected", BLUE, "corrected online")):
        ratio = np.array([call["ttft"][key] / call["ttft_s"] for call in calls])
        rolling = [np.median(ratio[max(0, i - NOTICED + 1) : i + 1]) for i in range(len(ratio))]
        axes.plot(numbers, rolling, color=colour, label=label, linewidth=1.8)
    axes.axhline(1, color=GREY, linewidth=1)
    axes.axvspan(0, numbers[-1], color=GREY, alpha=0.12, linewidth=0)
    axes.set_title(title, fontsize=11)
    axes.set(xlabel="calls", ylabel=f"predicted / measured TTFT, median of {NOTICED}", ylim=(0, 1.6))
    axes.legend(frameon=False, fontsize=9)


def main() -> None:
    found = [
        json.loads(path.read_text())
        for name in ("llama.cpp", "emulated")
        if (path := RESULTS / f"prediction_{name}.json").exists()
    ]
    figure = Figure(figsize=(15, 4.6 * len(found)), layout="constrained")
    for result, row in zip(found, figure.subfigures(len(found), 1, squeeze=False)[:, 0], strict=True):
        usual = [call for call in result["calls"] if call["phase"] == "usual"]
        late = {phase: [call for call in result["calls"] if call["phase"] == phase] for phase in ("slowed", "paced")}
        row.suptitle(f"{result['engine']}: {len(usual) - WARM:,} calls", x=0.01, ha="left", fontweight="bold")
        charts = row.subplots(1, 3)
        scatter(charts[0], usual[WARM:], "ttft", "TTFT", result)
        scatter(charts[1], usual[WARM:], "latency", "latency", result)
        if late["slowed"]:
            slowed(charts[2], usual[-150:] + late["slowed"], 150, "another process on its core from call 0 on")
        elif late["paced"]:
            title = f"from call 0 on an engine {result['pace']:g} times as slow as profiled"
            slowed(charts[2], usual[-150:] + late["paced"][:150], 150, title)
        else:
            charts[2].set_axis_off()
        for axes in charts:
            axes.grid(True, alpha=0.25, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / "prediction.png", dpi=110)


if __name__ == "__main__":
    main()
