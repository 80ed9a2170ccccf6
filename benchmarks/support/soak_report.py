"""The table and the picture of a soak."""

from __future__ import annotations

from itertools import pairwise
from statistics import median
from typing import Any

from benchmarks.support.environment import RESULTS

__all__ = ["draw", "table"]

FIGURES = {
    "main_mb": "scheduler and client, MB",
    "main_files": "their open files",
    "workers_mb": "workers, MB",
    "workers_files": "their open files",
    "processes": "processes",
}


def table(found: dict[str, Any]) -> str:
    """What a soak found, as Markdown."""
    where, clients, counts = found["environment"], found["clients"], found["counts"]
    failed = {name: count for name, count in clients["ends"].items() if name not in ("finished", "no end")}
    twice = sum("twice" in breach for breach in found["breaches"])
    rows = [
        ("time under faults", f"{found['seconds'] / 60:.1f} min, and {found['settled_s']:.1f} s to the last run's end"),
        ("load held", f"{clients['ends'].get('finished', 0) / found['seconds']:.2f} finished runs a second"),
        ("faults injected", f"{sum(found['injected'].values())}: {_listed(found['injected'])}"),
        ("attempts", f"{counts.get('attempts', 0)}: {_listed(_of(counts, 'attempts '))}"),
        ("runs accepted", str(counts.get("runs", 0) - counts.get("runs refused", 0))),
        ("of a client that lives", f"{clients['submitted']}, {clients['streamed']} of them streamed"),
        ("finished", f"{clients['ends'].get('finished', 0)}"),
        ("failed with a reason", f"{sum(failed.values())}: {_listed(failed)}"),
        ("let go, since their client was killed", str(counts.get("runs cancelled", 0))),
        ("**lost**", f"**{len(clients['lost'])}**"),
        ("**duplicated**", f"**{twice}**"),
        ("**breaches of the contract**", f"**{len(found['breaches'])}** in {counts.get('events', 0)} events"),
        ("streams that differ from their answer, errors without a name", str(len(clients["wrong"]))),
        ("answers made again after their stream had ended", str(clients["made_again"])),
        ("left behind on the scheduler", str(len(found["left"]))),
        ("faults that could not be injected", str(len(found["problems"]))),
        ("processes that outlived the cluster", str(len(found["survivors"]))),
        ("longest time without progress", f"{clients['longest_pause_s']:.1f} s"),
    ]  # fmt: skip
    lines = [
        "# A soak under faults",
        "",
        f"`{where['command']}` on {where['processor']}, {where['cores']} cores, Python {where['python']}, "
        + ", ".join(f"{name} {version}" for name, version in where["versions"].items())
        + f", seed {where['seed']}.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
        "Medians of each sixth of the time:",
        "",
        "| | " + " | ".join(f"{n + 1}/6" for n in range(6)) + " |",
        "|---" * 7 + "|",
        *(
            f"| {title} | " + " | ".join(f"{value:.0f}" for value in _sixths(found["samples"], name)) + " |"
            for name, title in FIGURES.items()
        ),
    ]
    return "\n".join(lines)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"


def _of(counts: dict[str, int], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): count for name, count in counts.items() if name.startswith(prefix)}


def _sixths(samples: list[dict[str, Any]], name: str) -> list[float]:
    bounds = [round(len(samples) * n / 6) for n in range(7)]
    return [median([one[name] for one in samples[a:b]] or [float("nan")]) for a, b in pairwise(bounds)]


def draw(found: dict[str, Any]) -> None:
    """Draw what the processes took over time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    samples = found["samples"]
    minutes = [one["at_s"] / 60 for one in samples]
    shown = {**FIGURES, "in_flight": "runs under way"}
    figure, axes = plt.subplots(2, 3, figsize=(11, 5), sharex=True)
    for ax, (name, title) in zip(axes.flat, shown.items(), strict=True):
        ax.plot(minutes, [one[name] for one in samples], linewidth=0.8, color="#1f77b4")
        ax.set_title(title, fontsize=9)
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.3)
    for ax in axes[1]:
        ax.set_xlabel("minutes")
    figure.suptitle(
        f"A soak: {sum(found['injected'].values())} faults in {found['seconds'] / 60:.0f} minutes", fontsize=10
    )
    figure.tight_layout()
    figure.savefig(RESULTS / "soak.png", dpi=120)
    plt.close(figure)
