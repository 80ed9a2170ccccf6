"""``dask fmware plan``: which cards a load needs, and what they cost."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dask_fmware.cli.numbers import ABOVE_0, FiniteRange, Seconds
from dask_fmware.cli.pairs import by_name
from dask_fmware.cli.stores import STORE

__all__ = ["plan"]


@click.command()
@click.option(
    "--deployment",
    type=click.Path(path_type=Path),
    metavar="FILE",
    required=True,
    help="Models, where they may run, prices.",
)
@click.option("--workflow", "workflows", multiple=True, required=True, help="Document, or module:name of a function.")
@click.option("--rate", "rates", type=ABOVE_0, multiple=True, required=True, help="Runs a second, for each --workflow.")
@click.option(
    "--slo",
    "ttft_s",
    type=Seconds(),
    help="To the first token of the answer, of each --workflow instead of its own SLO.",
)
@click.option("--e2e", "e2e_s", type=Seconds(), help="To the whole answer, likewise.")
@click.option(
    "--quantile",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    help="Share of runs in time; else the deployment's, or 0.95.",
)
@click.option("--cards", type=click.IntRange(1), help="Most cards of each type; else those of the deployment.")
@click.option("--prompt-tokens", type=click.IntRange(1), default=256, show_default=True, help="Of each call.")
@click.option("--output-tokens", multiple=True, metavar="NODE=N", help="Of a node's calls; else its max_tokens.")
@click.option("--items", multiple=True, metavar="MAP=N", help="That a map has in a run, as a rule; else 1.")
@STORE
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
def plan(
    deployment: Path, workflows: tuple[str, ...], rates: tuple[float, ...], ttft_s: float | None, e2e_s: float | None,
    quantile: float | None, cards: int | None, prompt_tokens: int, output_tokens: tuple[str, ...],
    items: tuple[str, ...], store: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Plan the cards for a load: the cheapest mix that meets the SLO, and the runners-up.

    \b
    dask fmware plan --deployment deployment.yaml --workflow rag.yaml --rate 20 --slo 2
    """
    from dask_fmware.cli.named import workflow_named
    from dask_fmware.client.planning import plan as planned
    from dask_fmware.compile.profiles import profiles_of
    from dask_fmware.spec.slo import SLO

    if len(workflows) != len(rates):
        raise click.UsageError(f"{len(workflows)} workflows, {len(rates)} rates; give one --rate for each --workflow")
    named = [workflow_named(name) for name in workflows]
    if ttft_s is not None or e2e_s is not None:
        slo = SLO(ttft_s=ttft_s, e2e_s=e2e_s)
        named = [workflow.model_copy(update={"slo": slo}) for workflow in named]
    first, *others = zip(named, rates, strict=True)
    made = planned(
        deployment, *first, others=others, quantile=quantile, cards=cards, prompt_tokens=prompt_tokens,
        output_tokens=_counts("--output-tokens", "answer", output_tokens), items=_counts("--items", "each", items),
        profiles=profiles_of(store),
    )  # fmt: skip
    if as_json:
        wire = {
            "quantile": made.quantile,
            "rates": dict(made.rates),
            "offers": [offer.to_wire() for offer in made.offers],
            "enough": made.enough.to_wire() if made.enough is not None else None,
            "impossible": list(made.impossible),
            "assumed": list(made.assumed),
        }
        click.echo(json.dumps(wire, indent=2))
    else:
        click.echo(str(made))


def _counts(option: str, example: str, given: tuple[str, ...]) -> dict[str, int]:
    """Read NAME=N of an option; `example` is a name that a user may have."""
    counts = []
    for text in given:
        node, _, number = text.partition("=")
        if not number.isdecimal():
            raise click.BadParameter(f"'{text}'; write NODE=N, e.g. {example}=200", param_hint=option)
        counts.append((node, int(number)))
    return by_name(option, counts)
