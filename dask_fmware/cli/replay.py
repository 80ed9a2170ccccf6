"""``dask fmware replay``: a recorded run again, to the same decisions or under another policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dask_fmware.cli.output import UNANSWERED, console, json_text

if TYPE_CHECKING:
    from dask_fmware.simulation.recorded import Recorded

__all__ = ["replay", "show_answers"]


@click.command()
@click.argument("log", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--policy", "policies", multiple=True, help="Play the runs under this policy instead; several times.")
@click.option("--seed", type=int, help="Of policies that draw; the recorded one if left out.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def replay(log: Path, policies: tuple[str, ...], seed: int | None, as_json: bool) -> None:
    """Feed the events of LOG to a fresh router and compare its decisions with those recorded.

    Exits with 1 and names the first difference, if there is one. With --policy, the recorded runs are played in
    virtual time under other policies.

    \b
    dask fmware replay run.jsonl.gz
    dask fmware replay run.jsonl.gz --policy greedy
    """
    from dask_fmware.simulation.replay import replay as again

    if policies:
        from dask_fmware.simulation.recorded import read_recorded
        from dask_fmware.simulation.whatif import what_if

        recorded = read_recorded(log)
        show_answers(list(what_if(recorded, policies, seed=seed)), recorded, as_json)
        return
    found = again(log)
    if as_json:
        told = {"events": found.events, "decisions": found.decisions, "policy": found.head.policy,
                "difference": None if found.difference is None else str(found.difference)}  # fmt: skip
        click.echo(json.dumps(told, indent=1))
    elif found.difference is None:
        click.echo(f"{found.events} events, {found.decisions} decisions of {found.head.policy}: all the same")
    else:
        click.echo(f"{found.events} events in, the first difference\n{found.difference}")
    if found.difference is not None:
        raise SystemExit(1)


def show_answers(answers: list[Any], recorded: Recorded, as_json: bool) -> None:
    """Print what was recorded beside what would have been."""
    from dataclasses import asdict

    if as_json:
        rows = [{"case": one.case, "policy": one.policy, **asdict(one.measured)} for one in answers]
        click.echo(json_text({"left_out": recorded.left_out, "changed_replicas": recorded.changed, "rows": rows}))
        return
    from rich.table import Table

    from dask_fmware.simulation.report import shown

    unanswered = [name for name in UNANSWERED if any(getattr(one.measured, name) for one in answers)]
    table = Table("", "policy", "runs", *[UNANSWERED[name] for name in unanswered], "goodput", "TTFT p50", "p99",
                  "latency p99", "fits 95 % at", "share")  # fmt: skip
    for one in answers:
        told = one.measured
        share = " ".join(f"{name} {part:.0%}" for name, part in told.share.items())
        table.add_row(
            one.case, one.policy, str(told.runs), *[str(getattr(told, name)) for name in unanswered],
            f"{told.goodput:.3f}", shown(told.ttft_p50_s, "{:.3f} s"), shown(told.ttft_p99_s, "{:.3f} s"),
            shown(told.latency_p99_s, "{:.3f} s"), shown(told.scale_95, "{:.2f} x SLO"), share,
        )  # fmt: skip
    console().print(table)
    if recorded.left_out:
        click.echo(f"{recorded.left_out} runs did not finish while it was recorded and are left out")
    if recorded.changed:
        click.echo(
            f"{recorded.changed} replicas came, went or drained while it was recorded; simulated are as many as there "
            "were at once, all the time"
        )
