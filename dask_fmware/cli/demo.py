"""``dask fmware demo``: the options of the demo; what it does is in `dask_fmware.demo`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from dask_fmware.cli.numbers import ABOVE_0, FiniteRange
from dask_fmware.cli.output import OutputFile

__all__ = ["demo"]

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--runs", default=60, show_default=True, type=click.IntRange(1, 100_000), help="Runs to submit.")
@click.option(
    "--rate",
    default=1.5,
    show_default=True,
    type=FiniteRange(0, 10_000, min_open=True),
    help="Mean arrivals in runs per second; a trace is stretched to it.",
)
@click.option("--seed", default=0, show_default=True, help="Of arrivals, inputs and policies that draw.")
@click.option("--policy", help="Routing policy, instead of the deployment's.")
@click.option(
    "--slo",
    "slo_s",
    type=ABOVE_0,
    metavar="SECONDS",
    help="Time to the first token of the answer that every run is promised; 2.5 s if not given.",
)
@click.option(
    "--trace",
    type=FILE,
    metavar="FILE",
    help="Take arrivals and lengths from a CSV (or .csv.gz) with the columns arrival_s, prompt_tokens, output_tokens.",
)
@click.option("--deployment", type=FILE, metavar="FILE", help="Your own deployment with models named small and large.")
@click.option(
    "--json", "json_file", type=OutputFile(), metavar="FILE", help="Write every run and call, without any text."
)
@click.option("--keep", is_flag=True, help="Leave cluster and dashboard up until Ctrl-C.")
@click.option("--dashboard-port", type=click.IntRange(0, 65535), help="Port of the dashboard; 8787 if it is free.")
def demo(
    runs: int,
    rate: float,
    seed: int,
    policy: str | None,
    slo_s: float | None,
    trace: Path | None,
    deployment: Path | None,
    json_file: Path | None,
    keep: bool,
    dashboard_port: int | None,
) -> None:
    """Run two workflows on a small cluster of this machine and show how they did.

    Starts two models, each on a fast and a slow card, and submits runs of a RAG workflow and a shopping
    chatbot with Poisson arrivals. The engine (llama.cpp), its tokens and its queues are real. The weights
    are random, so the answers are word salad, and the "slow card" serves a deeper random model: one token
    takes about 2.2 to 3 times as long there.
    """
    from dask_fmware.demo.session import Settings, run

    command = shlex.join(["dask", "fmware", *sys.argv[sys.argv.index("demo") :]] if "demo" in sys.argv else ["demo"])
    finished = run(
        Settings(
            runs=runs,
            rate=rate,
            seed=seed,
            policy=policy,
            slo_s=slo_s,
            trace=trace,
            deployment=deployment,
            json_file=json_file,
            keep=keep,
            dashboard_port=dashboard_port,
            command=command,
        )
    )
    if not finished:
        click.get_current_context().exit(1)
