"""``dask fmware simulate``: a scenario in virtual time, under several policies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

__all__ = ["simulate"]


class _Cards(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """``L4=2``: so many cards of a type."""

    name = "TYPE=N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        accelerator, _, count = str(value).partition("=")
        try:
            return accelerator, int(count)
        except ValueError:
            self.fail(f"'{value}' is not a card type and a number, as in L4=2 or L4=-1", param, ctx)


class _Seconds(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """``3s``, ``3`` or ``250ms``."""

    name = "SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value).strip()
        unit = 0.001 if text.endswith("ms") else 1.0
        try:
            seconds = float(text.removesuffix("ms").removesuffix("s")) * unit
        except ValueError:
            seconds = 0.0
        if not 0.0 < seconds < float("inf"):
            self.fail(f"'{value}' is not a positive time, as in 3s or 250ms", param, ctx)
        return seconds


@click.command()
@click.argument("scenario", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--policy", "policies", multiple=True, help="Routing policy; may be given several times.")
@click.option(
    "--load",
    "loads",
    multiple=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Runs in the window, or share of saturation; of a record: times as fast. Several times.",
)
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(min=1), help="How many seeds.")
@click.option("--first-seed", default=0, show_default=True, help="The first of them.")
@click.option(
    "--record",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Instead of SCENARIO: an event log, as fm.record writes it.",
)
@click.option(
    "--add", multiple=True, type=_Cards(), help="What if the recorded cluster had more cards (or fewer: L4=-1)."
)
@click.option("--slo", "slo_s", type=_Seconds(), help="What if the recorded runs had this objective.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows to a file.")
def simulate(
    scenario: Path | None, policies: tuple[str, ...], loads: tuple[float, ...], seeds: int, first_seed: int,
    record: Path | None, add: tuple[tuple[str, int], ...], slo_s: float | None, json_path: Path | None,
) -> None:  # fmt: skip
    """Play SCENARIO in virtual time and print what each policy makes of it, or ask a record what if."""
    if (scenario is None) == (record is None):
        raise click.UsageError("give a SCENARIO or --record, one of them")
    if record is not None:
        _what_if(record, policies, loads, dict(add), slo_s, json_path)
        return
    if add or slo_s is not None:
        raise click.UsageError("--add and --slo change a --record; a scenario says itself what there is")
    assert scenario is not None
    _play(scenario, policies, loads, range(first_seed, first_seed + seeds), json_path)


def _what_if(
    record: Path,
    policies: tuple[str, ...],
    loads: tuple[float, ...],
    add: dict[str, int],
    slo_s: float | None,
    json_path: Path | None,
) -> None:
    from dataclasses import asdict

    from dask_fmware.cli.replay import show_answers
    from dask_fmware.simulate.recorded import read_recorded
    from dask_fmware.simulate.whatif import what_if

    recorded = read_recorded(record)
    answers: list[Any] = []
    for load in loads or (1.0,):
        found = list(what_if(recorded, policies, add=add, slo_s=slo_s, load=load))
        answers += found if not answers else found[2:]
    show_answers(answers, recorded.left_out, as_json=False)
    if json_path is not None:
        rows = [{"case": one.case, "policy": one.policy, **asdict(one.measured)} for one in answers]
        json_path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _play(
    scenario: Path, policies: tuple[str, ...], loads: tuple[float, ...], seeds: range, json_path: Path | None
) -> None:
    from rich.console import Console
    from rich.table import Table

    from dask_fmware.simulate.run import cells
    from dask_fmware.simulate.scenario import load_scenario

    loaded = load_scenario(scenario)
    table = Table("policy", "load", "goodput", "95 %", "TTFT", "p99", "latest", title=loaded.name)
    rows = []
    wanted = policies or ("slack", "greedy", "least_outstanding", "power_of_two")
    for cell in cells(loaded, wanted, loads or (1.0,), seeds):
        row = cell.record()
        rows.append(row)
        table.add_row(
            row["policy"],
            f"{row['load']:g}",
            f"{row['goodput']:.3f}",
            f"{row['goodput_low']:.3f} - {row['goodput_high']:.3f}",
            f"{row['ttft_mean_s']:.2f} s",
            f"{row['ttft_p99_s']:.2f} s",
            f"{row['latest_s']:.1f} s",
        )
    Console().print(table)
    if json_path is not None:
        json_path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
