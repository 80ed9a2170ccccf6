"""``dask fmware simulate``: a scenario in virtual time, under several policies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from dask_fmware import __version__
from dask_fmware.cli.numbers import ABOVE_0, Seconds
from dask_fmware.cli.output import UNANSWERED, OutputFile, console, json_text, write
from dask_fmware.cli.pairs import by_name

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


@click.command()
@click.argument("scenario", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--policy", "policies", multiple=True, help="Routing policy, several times; else slack and three more.")
@click.option(
    "--load",
    "loads",
    multiple=True,
    type=ABOVE_0,
    help="Runs in the window, or share of saturation; of a record: times as fast. Several times; else as it says.",
)
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(min=1), help="How many seeds.")
@click.option("--first-seed", default=0, show_default=True, help="The first of them.")
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    show_default="one for each core",
    help="How many play at once.",
)
@click.option(
    "--record",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Instead of SCENARIO: an event log, as fm.record writes it.",
)
@click.option(
    "--add", multiple=True, type=_Cards(), help="What if the recorded cluster had more cards (or fewer: L4=-1)."
)
@click.option("--slo", "slo_s", type=Seconds(), help="What if the recorded runs had this objective.")
@click.option(
    "--hindsight",
    is_flag=True,
    help="Say also what the best schedule found with all lengths known has in time, and what none exceeds.",
)
@click.option(
    "--html",
    "html_path",
    type=OutputFile(),
    metavar="FILE",
    help="Write a page with pictures (extra plot).",
)
@click.option("--json", "json_path", type=OutputFile(), metavar="FILE", help="Write the rows to a file.")
def simulate(
    scenario: Path | None, policies: tuple[str, ...], loads: tuple[float, ...], seeds: int, first_seed: int,
    processes: int | None, record: Path | None, add: tuple[tuple[str, int], ...], slo_s: float | None,
    hindsight: bool, html_path: Path | None, json_path: Path | None,
) -> None:  # fmt: skip
    """Play SCENARIO in virtual time and print what each policy makes of it, or ask a record what if.

    \b
    dask fmware simulate scenario.yaml --policy slack --policy greedy --load 0.5 --load 1
    dask fmware simulate --record run.jsonl.gz --add L4=2 --slo 3s --load 2
    """
    if (scenario is None) == (record is None):
        raise click.UsageError("give a SCENARIO or --record, one of them")
    if record is not None:
        context = click.get_current_context()
        for name in ("seeds", "first_seed", "processes", "hindsight", "html_path"):
            if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
                option = f"--{name.removesuffix('_path').replace('_', '-')}"
                raise click.UsageError(f"{option} is for a SCENARIO; a --record is played as it was")
        _what_if(record, policies, loads, by_name("--add", add), slo_s, json_path)
        return
    if add or slo_s is not None:
        raise click.UsageError("--add and --slo change a --record; a scenario says itself what there is")
    assert scenario is not None
    numbers = range(first_seed, first_seed + seeds)
    _play(scenario, policies, loads, numbers, processes, hindsight, html_path, json_path)


def _what_if(
    record: Path,
    policies: tuple[str, ...],
    loads: tuple[float, ...],
    add: Mapping[str, int],
    slo_s: float | None,
    json_path: Path | None,
) -> None:
    from dataclasses import asdict

    from dask_fmware.cli.replay import show_answers
    from dask_fmware.simulation.recorded import read_recorded
    from dask_fmware.simulation.whatif import what_if

    recorded = read_recorded(record)
    answers: list[Any] = []
    for load in dict.fromkeys(loads) or (1.0,):
        found = list(what_if(recorded, policies, add=add, slo_s=slo_s, load=load))
        answers += found if not answers else found[2:]
    show_answers(answers, recorded, as_json=False)
    if json_path is not None:
        rows = [{"case": one.case, "policy": one.policy, **asdict(one.measured)} for one in answers]
        write(json_path, json_text(rows) + "\n")


def _play(
    path: Path,
    policies: tuple[str, ...],
    loads: tuple[float, ...],
    seeds: range,
    processes: int | None,
    hindsight: bool,
    html_path: Path | None,
    json_path: Path | None,
) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from dask_fmware.cli.processes import cores, pool
    from dask_fmware.simulation.left import check_has_objectives
    from dask_fmware.simulation.run import cells, own_load, with_hindsight
    from dask_fmware.simulation.scenario import load_scenario
    from dask_fmware.simulation.study import Study

    scenario = load_scenario(path)
    wanted = tuple(dict.fromkeys(policies)) or ("slack", "greedy", "least_outstanding", "power_of_two")
    at = tuple(dict.fromkeys(loads or (own_load(scenario),)))
    if html_path is not None:
        from dask_fmware.simulation.pictures import check_installed

        check_installed()
    if hindsight:
        check_has_objectives(scenario)
    study = Study(scenario)
    interrupted = False
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    simulations = len(wanted) * len(at) * len(seeds)
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("simulations", total=simulations)
        try:
            with pool(min(processes or cores(), simulations)) as executor:
                for cell in cells(
                    scenario, wanted, at, seeds,
                    lambda word: progress.update(task, advance=1, description=word), executor,
                ):  # fmt: skip
                    study.cells.append(cell)
        except KeyboardInterrupt:
            interrupted = True
    if hindsight and not interrupted:
        with_hindsight(study, seeds)
    if study.cells:
        _show(study)
    if interrupted:
        click.echo(f"{len(study)} of {len(wanted) * len(at)} cells were played; nothing is written", err=True)
        raise click.Abort
    if json_path is not None:
        write(json_path, json_text(study.rows) + "\n")
    if html_path is not None:
        said = ["dask fmware simulate", str(path), *(f"--policy {policy}" for policy in wanted)]
        said += [
            *(f"--load {load:g}" for load in at),
            f"--seeds {len(seeds)} --first-seed {seeds[0]}",
            *(["--hindsight"] if hindsight else []),
        ]
        study.to_html(html_path, {"command": " ".join(said), "dask-fmware": __version__})
        click.echo(f"pictures in {html_path}")


def _show(study: Any) -> None:
    """Print a table; runs without an answer have a column for each reason that there was."""
    from rich.table import Table
    from rich.text import Text

    from dask_fmware.simulation.page import counted
    from dask_fmware.simulation.report import shown

    scenario, first, rows = study.scenario, study.policies[0], study.rows
    unanswered = [name for name in UNANSWERED if any(row[name] for row in rows)]
    title = f"{scenario.name}: {scenario.description}" if scenario.description else scenario.name
    table = Table(title=Text(title))  # else what it has in brackets is taken for markup
    for name in ("load", "policy"):
        table.add_column(name)
    for name in ("goodput", "95 %", f"below {first}", "TTFT p50", "p99", "latest", "95 % within", "99 % within",
                 "late", *[UNANSWERED[name] for name in unanswered], "parked", "late work",
                 *(["cost"] if study.has_prices else [])):  # fmt: skip
        table.add_column(name, justify="right")
    shares = [key for key in rows[0] if key.startswith("share_")]
    for key in shares:
        table.add_column(key.removeprefix("share_"), justify="right")
    for number, row in enumerate(rows):
        goodput, below = f"{row['goodput_low']:.3f} - {row['goodput_high']:.3f}", f"{row['below']:+.3f}"
        below += f" ({row['below_low']:+.3f} to {row['below_high']:+.3f})"
        if row["seeds"] == 1:  # of which there is no interval
            goodput, below = "", f"{row['below']:+.3f}"
        table.add_row(
            f"{row['load']:g}", row["policy"], f"{row['goodput']:.3f}",
            goodput, "" if row["policy"] == first else below,
            shown(row["ttft_p50_s"], "{:.2f} s"), shown(row["ttft_p99_s"], "{:.2f} s"),
            shown(row["latest_s"], "{:.1f} s"), shown(row["scale_95"], "{:.2f} SLO"),
            shown(row["scale_99"], "{:.2f} SLO"), counted(row["finished_late"]),
            *[counted(row[name]) for name in unanswered], counted(row["parked_calls"]),
            f"{row['late_work']:.0%}", *([f"{row['cost']:.3g}"] if study.has_prices else []),
            *(f"{row[key]:.0%}" for key in shares),
        )  # fmt: skip
        if number + 1 < len(rows) and rows[number + 1]["load"] == row["load"]:
            continue
        for name, key in (("best found with hindsight", "hindsight"), ("no schedule above", "no_schedule_above")):
            if (share := row.get(key)) is not None:
                table.add_row(f"{row['load']:g}", name, f"{share:.3f}")
        table.add_section()
    console().print(table)
