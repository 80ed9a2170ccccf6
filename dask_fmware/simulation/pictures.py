"""Pictures of a study: goodput, times, attainment, cards, and how a run fared by when it came (matplotlib)."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from math import inf
from typing import TYPE_CHECKING, Any

from dask_fmware.errors import FMwareError
from dask_fmware.simulation.scenario import GammaArrivals, PoissonArrivals, TraceArrivals, WindowArrivals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dask_fmware.simulation.report import Cell
    from dask_fmware.simulation.scenario import Scenario
    from dask_fmware.simulation.study import Study

__all__ = ["PICTURES", "check_installed", "load_is", "overview", "picture"]

COLOURS = ("#2563eb", "#d98a06", "#0d9f75", "#9a5cf0", "#e0559a", "#64748b", "#06a3b7", "#b4530a")
GREY = "#94a3b8"
LEAST_RUNS = 40  # behind one point of the timeline, unless fewer points than these would be left
LEAST_POINTS = 5


def _goodput(axes: Any, study: Study) -> None:
    loads = sorted(study.loads)
    if len(loads) == 1:
        _bars(axes, study)
        axes.set(xlim=(0, 1), xlabel="share of runs in time", title=f"Goodput at load {loads[0]:g}")
        return
    has_intervals = len(_busiest(study)[0].measured) > 1
    for colour, policy in zip(_cycle(study), study.policies, strict=True):
        found = [study.cell(policy, load).goodput for load in loads]
        axes.fill_between(loads, [i.low for i in found], [i.high for i in found], color=colour, alpha=0.15, lw=0)
        axes.plot(loads, [i.mean for i in found], color=colour, marker="o", ms=4, lw=2, label=policy)
    axes.set(ylim=(0, 1.03), xlabel=f"load: {load_is(study.scenario)}", ylabel="share of runs in time")
    axes.set_title("Goodput, with 95 % intervals" if has_intervals else "Goodput, of one seed")
    axes.legend(frameon=False)


def _bars(axes: Any, study: Study) -> None:
    cells = _busiest(study)
    for y, (colour, cell) in enumerate(zip(_cycle(study), cells, strict=True)):
        found = cell.goodput
        axes.barh(y, found.mean, color=colour, height=0.62)
        axes.plot([found.low, found.high], [y, y], color="black", lw=1.4)
        told = f"{found.mean:.3f}"
        if found.high < 0.88:
            axes.text(found.high + 0.02, y, told, va="center", fontsize=9)
        else:  # within the bar, before its interval
            axes.text(max(found.low - 0.02, 0.12), y, told, ha="right", va="center", fontsize=9, color="white")
    _names(axes, study)


def _attainment(axes: Any, study: Study) -> None:
    """How many runs would be in time if the SLO were so many times as long."""
    for colour, cell in zip(_cycle(study), _busiest(study), strict=True):
        curve = cell.scale_curve
        share = [(i + 1) / len(curve) for i in range(len(curve))]
        axes.plot([max(x, 0.02) for x in curve], share, color=colour, lw=2, label=cell.policy)
    axes.axvline(1, color=GREY, lw=1, label="the SLO")
    axes.set(xscale="log", ylim=(0, 1.01), xlabel="times the SLO", ylabel="share of runs within")
    _plain_log(axes.xaxis)
    axes.set_title(f"Attainment if the SLO were relaxed, load {study.busiest:g}")
    axes.legend(frameon=False, loc="lower right")


def _times(axes: Any, study: Study) -> None:
    """Quantiles of the time to first token; those that never come are named at the edge."""
    looks = (("p50", "median", 0.45, "o"), ("p95", "95 %", 0.75, "D"), ("p99", "99 %", 1.0, "s"))
    cells, drawn = _busiest(study), 0
    for y, (colour, cell) in enumerate(zip(_cycle(study), cells, strict=True)):
        times = [cell.mean(f"ttft_{q}_s") for q, *_ in looks]
        known = [time for time in times if time < inf]
        for time, (_, _, alpha, marker) in zip(known, looks, strict=False):
            axes.scatter(time, y, color=colour, alpha=alpha, marker=marker, s=46, zorder=3)
        axes.plot(known, [y] * len(known), color=colour, lw=1.5, alpha=0.5)
        if len(known) < len(looks):
            never, edge = f"{looks[len(known)][1]}: never", axes.get_yaxis_transform()
            axes.text(0.99, y - 0.1, never, transform=edge, ha="right", va="bottom", fontsize=9, color="#475569")
        drawn += len(known)
    for _, label, _, marker in looks:
        axes.scatter([], [], color=GREY, marker=marker, label=label)
    _names(axes, study)
    axes.set(xlabel="seconds", title=f"Time to first token, load {study.busiest:g}")
    if drawn:  # an axis of logarithms needs something on it
        axes.set_xscale("log")
        _plain_log(axes.xaxis)
    axes.legend(frameon=False, ncols=3, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.18))


def _cards(axes: Any, study: Study) -> None:
    cells, left = _busiest(study), [0.0] * len(study.policies)
    accelerators = list(cells[0].measured[0].share)
    for colour, accelerator in zip(COLOURS[::-1] * 4, accelerators, strict=False):
        share = [sum(one.share[accelerator] for one in cell.measured) / len(cell.measured) for cell in cells]
        axes.barh(range(len(cells)), share, left=left, color=colour, height=0.62, label=accelerator)
        left = [a + b for a, b in zip(left, share, strict=True)]
    _names(axes, study)
    axes.set(xlim=(0, 1), xlabel="share of calls", title=f"Which cards did the work, load {study.busiest:g}")
    axes.legend(frameon=False, ncols=4, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.18))


def _timeline(axes: Any, study: Study) -> None:
    """Goodput by time of arrival, all seeds together."""
    for colour, cell in zip(_cycle(study), _busiest(study), strict=True):
        drawn = _merged(cell)
        at, shares = [at for at, _ in drawn], [share for _, share in drawn]
        axes.plot(at, shares, color=colour, marker="o", ms=3, lw=1.8, label=cell.policy)
    for number, failure in enumerate(study.scenario.failures):
        named = {"label": "a failure"} if number == 0 else {}
        axes.axvline(failure.at_s, color="#dc2626", lw=1, ls=":", **named)
    last_s = max(one.timeline[-1][0] + one.timeline[0][0] for one in _busiest(study)[0].measured)
    axes.set(xlim=(0, last_s), ylim=(0, 1.03), xlabel="arrival, seconds", ylabel="share of runs in time")
    axes.legend(frameon=False, ncols=3, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    axes.set_title(f"Who arrived when and was in time, load {study.busiest:g}")


def _merged(cell: Cell) -> list[tuple[float, float]]:
    """Time of arrival and share in time, of all seeds, over spans long enough for the share to say something."""
    spans = [
        tuple(sum(values) for values in zip(*span, strict=True))
        for span in zip(*[one.timeline for one in cell.measured], strict=True)
    ]
    total = sum(runs for _, runs, _ in spans)
    enough = max(total / len(spans), min(LEAST_RUNS, total / LEAST_POINTS))
    merged: list[list[tuple[float, ...]]] = [[]]
    for span in spans:
        if sum(runs for _, runs, _ in merged[-1]) >= enough:
            merged.append([])
        merged[-1].append(span)
    if len(merged) > 1 and sum(runs for _, runs, _ in merged[-1]) <= enough / 2:  # too few to stand by themselves
        merged[-2:] = [merged[-2] + merged[-1]]
    drawn = []
    for part in merged:
        runs, in_time = sum(runs for _, runs, _ in part), sum(in_time for _, _, in_time in part)
        if runs:
            drawn.append(((part[0][0] + part[-1][0]) / 2 / len(cell.measured), in_time / runs))
    return drawn


def _work(axes: Any, study: Study) -> None:
    cells = _busiest(study)
    late = [cell.mean("late_work") for cell in cells]
    axes.barh(range(len(cells)), [1 - share for share in late], color=list(_cycle(study)), height=0.62)
    axes.barh(range(len(cells)), late, left=[1 - share for share in late], color="#e2e8f0", height=0.62)
    for y, share in enumerate(late):
        at, colour = (0.99, "#475569") if share > 0.4 else (0.99 - share, "white")  # where there is room for it
        axes.text(at, y, f"{share:.0%} for runs that were late", ha="right", va="center", fontsize=9, color=colour)
    _names(axes, study)
    axes.set(xlim=(0, 1), xlabel="share of the time on engines")
    axes.set_title(f"What the work was for, load {study.busiest:g}")


def _names(axes: Any, study: Study) -> None:
    axes.set_yticks(range(len(study.policies)), study.policies)
    axes.set_ylim(len(study.policies) - 0.4, -0.6)


def _plain_log(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


PICTURES: dict[str, Callable[[Any, Study], None]] = {
    "goodput": _goodput,
    "attainment": _attainment,
    "times": _times,
    "timeline": _timeline,
    "cards": _cards,
    "work": _work,
}


def picture(study: Study, name: str) -> Figure:
    """Draw one of `PICTURES`."""
    figure = _figure((6.4, 3.9))
    axes = figure.subplots()
    PICTURES[name](axes, study)
    _tidy(axes)
    return figure


def overview(study: Study) -> Figure:
    """Draw all of them."""
    figure = _figure((12.8, 11.5))
    for axes, draw in zip(figure.subplots(3, 2).flat, PICTURES.values(), strict=True):
        draw(axes, study)
        _tidy(axes)
    return figure


def load_is(scenario: Scenario) -> str:
    """Say what a load of a scenario is a number of."""
    match scenario.arrivals:
        case WindowArrivals(window_s=window_s):
            return f"runs in {window_s:g} s"
        case PoissonArrivals(rate=float()) | GammaArrivals(rate=float()) | TraceArrivals(time_scale=float()):
            return "times the rate of the scenario"
    return "times saturation"


def check_installed() -> None:
    """Raise FMwareError if there is nothing to draw with."""
    if find_spec("matplotlib") is None:
        raise FMwareError("pictures need matplotlib; install the extra: pip install 'dask-fmware[plot]'")


def _figure(size: tuple[float, float]) -> Figure:
    check_installed()
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _tidy(axes: Any) -> None:
    axes.title.set(fontsize=11, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="both", color="#e2e8f0", lw=0.8)
    axes.set_axisbelow(True)


def _busiest(study: Study) -> list[Cell]:
    """Each policy at the highest load."""
    return [study.cell(policy, study.busiest) for policy in study.policies]


def _cycle(study: Study) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(study.policies))]
