"""Provisioning in the simulator: attainment and card-hours of each way to count replicas, over a load that changes.

    python -m benchmarks.provisioning --windows servegen_client_windows_day1.csv.gz --workload m-large
    python -m benchmarks.provisioning --trace azure2023_conv.csv.gz --times 6
    python -m benchmarks.provisioning --trace azure2023_conv.csv.gz --windows servegen_client_windows_day1.csv.gz \
        --workload deepseek-r1 --hours 15 23 --peak 8 --serve Qwen3-32B A100 --kv-tokens 50000 --ttft 3
    python -m benchmarks.provisioning --loads 5 30 120 300

With `--windows` the load is the measured day of a workload, or some of its `--hours`, played in its own time unless
`--day` gives other seconds: squeezed, load times are as many times too long. A trace is played as recorded, each
arrival `--times` times; with both, the trace's arrivals come at the rates of the day. Without a file it is a sine from
a quarter of the peak to the peak. `--serve` is what serves it, as the catalog names it; a replica has 32 slots.

`static peak` is the least number of replicas, kept all the time, that attains the quantile in every sixtieth of the
load; `static, day` (`--static-day`) the least that attains it over the whole, which overloads the peak. They are looked
for on the first seed, unless `--static` gives the first, so they know the load beforehand. `known beforehand` has in
each `--window` seconds what the projection would have for the arrivals that come in it, asked for a load time before:
what is left to gain by seeing further. All that scale begin with the static peak. `queue length` keeps `--target` slots
of a replica in use.

Each simulation is a line of `results/NAME_cells.jsonl`: what is broken off goes on with the same command.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.support.day_loads import Load, MeasuredDay, Sine, Trace, TraceOverDay
from benchmarks.support.environment import RESULTS, environment, write
from benchmarks.support.scaling import (
    INTERVAL_S,
    QUANTILE,
    Case,
    Foreseen,
    Played,
    foreseen,
    scaled,
    static,
    static_day,
    static_peak,
)
from dask_fmware.simulation.report import interval
from dask_fmware.spec.provisioning import Provisioning


def queue_length(target: float, load_s: float) -> Provisioning:
    """As Ray Serve has it, with its default delays."""
    return Provisioning(
        mode="queue_length", target_ongoing=target, load_s=load_s, quantile=QUANTILE, interval_s=INTERVAL_S
    )


def ways(load_s: float, target: float) -> dict[str, Provisioning]:
    """What is compared with static cards."""
    return {
        "projection": Provisioning(load_s=load_s, quantile=QUANTILE, interval_s=INTERVAL_S),
        "projection, 99 % asked for": Provisioning(load_s=load_s, quantile=0.99, interval_s=INTERVAL_S),
        "simple (the paper's)": Provisioning(mode="simple", load_s=load_s, quantile=QUANTILE, interval_s=INTERVAL_S),
        f"queue length, {target:g} each": queue_length(target, load_s),
    }


def table(title: str, rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        title,
        "",
        "| load time | way | seeds | goodput | in its worst sixtieth | card-hours of static peak | changes |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        load = f"{r['load_s']:g} s" if r["load_s"] is not None else "any"
        goodput, share = (
            f"{r[name]:{form}}"
            + (f" ({r[f'{name}_low']:{form}} - {r[f'{name}_high']:{form}})" if r["seeds"] > 1 else "")
            for name, form in (("goodput", ".3f"), ("share", ".2f"))
        )
        cells = load, r["way"], r["seeds"], goodput, f"{r['goodput_worst']:.3f}", share, f"{r['changes']:.0f}"
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def row(load_s: float | None, way: str, found: Sequence[Played], base: float) -> dict[str, Any]:
    goodput, hours = interval([p.goodput for p in found], 0.0, 1.0), interval([p.card_hours for p in found])
    return {
        "load_s": load_s, "way": way, "seeds": len(found),
        "goodput": goodput.mean, "goodput_low": goodput.low, "goodput_high": goodput.high,
        "goodput_worst": sum(p.goodput_worst for p in found) / len(found),
        "card_hours": hours.mean, "share": hours.mean / base, "share_low": hours.low / base,
        "share_high": hours.high / base, "changes": sum(p.changes for p in found) / len(found),
    }  # fmt: skip


class Cells:
    """Simulations that were played, in a file that grows by a line for each, so that it can be broken off."""

    def __init__(self, name: str) -> None:
        self._path = RESULTS / f"{name}_cells.jsonl"
        lines = self._path.read_text().splitlines() if self._path.exists() else ()
        self._known = {json.dumps(key): Played(**played) for key, played in map(json.loads, lines)}

    def get(self, key: Sequence[object], play: Callable[[], Played] | None) -> Played | None:
        """Return one simulation; if it has not been, `play` it, or return None if it is not to be."""
        if (known := self._known.get(json.dumps(key))) is None and play is not None:
            known = self._known[json.dumps(key)] = play()
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, asdict(known)]) + "\n")
        return known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--loads", type=float, nargs="+", default=[5.0, 30.0, 120.0, 300.0], help="load times in seconds"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument(
        "--day", type=float, help="seconds in which a day, or its hours, is played; its own time if left out"
    )
    parser.add_argument("--peak", type=float, default=2.5, help="runs a second")
    parser.add_argument("--trace", type=Path, help="CSV with arrival_s, prompt_tokens, output_tokens; may be gzipped")
    parser.add_argument("--times", type=int, default=6, help="arrivals for each of the trace")
    parser.add_argument("--windows", type=Path, help="CSV with workload, window_start_s, rate_rps, gzipped")
    parser.add_argument("--workload", default="", help="of that file")
    parser.add_argument("--target", type=float, default=24.0, help="calls a replica, queue length")
    parser.add_argument("--window", type=float, default=300.0, help="seconds for which replicas are known beforehand")
    parser.add_argument("--begin", type=int, default=10, help="static cards that are tried first")
    parser.add_argument(
        "--static-day", action="store_true", help="look for the least that attains it over the whole, too"
    )
    parser.add_argument("--static", type=int, help="static peak, where it is known")
    parser.add_argument("--ways", help="only the static peak and those whose name has this in it")
    parser.add_argument("--table", action="store_true", help="play nothing, write what has been played")
    parser.add_argument("--name", default="provisioning_sine")
    parser.add_argument("--hours", type=float, nargs=2, default=[0.0, 24.0], help="part of a measured day")
    parser.add_argument("--serve", nargs=2, default=["Llama-3.1-8B", "L40S"], help="model and accelerator")
    parser.add_argument("--kv-tokens", type=int, default=200_000, help="of a replica")
    parser.add_argument("--ttft", type=float, default=1.0, help="objective, seconds to the first token")
    asked = parser.parse_args()
    load = asked_load(asked)
    case = Case(load, *asked.serve, asked.kv_tokens, asked.ttft)
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    title = (
        f"# Provisioning: {load.title}\n\n{load.length_s:g} s long, {asked.serve[0]} on {asked.serve[1]}, "
        f"{asked.ttft:g} s to the first token; seeds from {asked.first_seed}; means with 95 % intervals "
        f"over seeds where there are several. Mean over peak of the rate: {load.mean_share:.2f}."
    )
    cells, where = Cells(asked.name), environment(seed=asked.first_seed)
    of = (load.title, load.length_s, asked.peak, *asked.serve, asked.ttft)
    peak = asked.static or static_peak(case, seeds[0], asked.begin)
    title += f" Static peak: {peak} cards."
    players: dict[tuple[float | None, str], Callable[[int], Played]] = {
        (None, f"static peak, {peak}"): partial(static, case, count=peak),
    }
    known = f"known beforehand, {asked.window:g} s"
    for load_s in asked.loads if (asked.ways or "") in known else ():
        players[load_s, known] = partial(foreseen, case, load_s=load_s, window_s=asked.window)
    for way in [way for way in ways(0.0, asked.target) if (asked.ways or "") in way]:
        for load_s in asked.loads:
            options = ways(load_s, asked.target)[way]
            players[load_s, way] = partial(scaled, case, load_s=load_s, options=options, start=peak)
    if asked.static_day:
        least = static_day(case, seeds[0], peak)
        players[None, f"static, day, {least}"] = partial(static, case, count=least)
    title += "" if asked.table else bounds(case, asked.loads, seeds[0], peak)
    found: dict[tuple[float | None, str], list[Played]] = {}
    for seed in seeds:
        for (load_s_, way), play in players.items():
            played = cells.get([*of, load_s_, way, seed], None if asked.table else partial(play, seed=seed))
            if played is None:
                continue
            found.setdefault((load_s_, way), []).append(played)
            print(f"seed {seed}, load time {load_s_}, {way}: {played}", flush=True)
            base = interval([one.card_hours for one in found[None, f"static peak, {peak}"]]).mean
            rows = [row(*key, some, base) for key, some in found.items()]
            write(asked.name, {"environment": where, "static_peak": peak, "rows": rows}, table(title, rows))


def bounds(case: Case, loads: Sequence[float], seed: int, peak: int) -> str:
    """What would be enough if each minute were known beforehand, in words."""
    known, parts = Foreseen(case, 60.0, 0.0, seed), []
    for known.load_s in loads:
        parts.append(f"{known.card_hours() / (peak * case.load.length_s / 3600):.2f} at {known.load_s:g} s")
    return f"\nIf each minute were known beforehand, these parts of it would be enough: {', '.join(parts)}."


def asked_load(asked: argparse.Namespace) -> Load:
    """The load of a command line."""
    day = Sine(asked.peak, asked.day or 86_400.0)
    if asked.windows is None:
        return day if asked.trace is None else Trace(asked.trace, asked.times)
    hours = asked.hours[0], asked.hours[1]
    length_s = asked.day or 3600.0 * (hours[1] - hours[0])
    measured = MeasuredDay(asked.windows, asked.workload, asked.peak, length_s, hours)
    return measured if asked.trace is None else TraceOverDay(Trace(asked.trace), measured)


if __name__ == "__main__":
    main()
