"""``dask fmware profile``: measure models on accelerators, show what was measured, list the catalog."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dask_fmware.cli.clusters import served
from dask_fmware.cli.numbers import ABOVE_0
from dask_fmware.cli.output import OutputFile, console
from dask_fmware.cli.stores import STORE
from dask_fmware.errors import DeploymentError, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dask_fmware.client.profiling import ProfiledModel, ProfileProgress
    from dask_fmware.profile.record import Profile
    from dask_fmware.spec.deployment import Deployment

__all__ = ["profile"]


@click.group(invoke_without_command=True)
@click.option(
    "--deployment", type=click.Path(path_type=Path), metavar="FILE", help="Measure this deployment's models, here."
)
@click.option("--address", metavar="ADDRESS", help="Measure on the running cluster at this scheduler instead.")
@click.option("--model", "models", multiple=True, help="Only this one; may be given several times.")
@click.option("--accelerator", "accelerators", multiple=True, help="Only this one; may be given several times.")
@STORE
@click.option("--force", is_flag=True, help="Measure again what the store has.")
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1, 100), help="Rounds of experiments.")
@click.option(
    "--timeout",
    "timeout_s",
    default=600.0,
    show_default=True,
    type=ABOVE_0,
    help="Seconds to wait for engines to load.",
)
@click.pass_context
def profile(
    ctx: click.Context,
    deployment: Path | None,
    address: str | None,
    models: tuple[str, ...],
    accelerators: tuple[str, ...],
    store: str | None,
    force: bool,
    repeats: int,
    timeout_s: float,
) -> None:
    """Measure how fast models are on accelerators, and keep it.

    Each (model, accelerator, engine, engine version, arguments) is measured once, in minutes; what the store has
    is skipped. Interrupt with Ctrl-C: what was measured is kept and taken up by the next run.

    \b
    dask fmware profile --deployment deployment.yaml
    dask fmware profile show --plot profiles.png
    dask fmware profile catalog llama
    """
    if ctx.invoked_subcommand is not None:
        return
    if (deployment is None) == (address is None):
        raise click.UsageError("give --deployment FILE, or --address of a running cluster (or: show, catalog)")
    from dask_fmware.cluster.foreground import run_in_foreground
    from dask_fmware.compile.profiles import open_store
    from dask_fmware.profile.solve import require_solver

    require_solver()
    kept = open_store(store)
    if force or kept.is_empty():
        kept.require_writable()  # else only if something is missing, which is known when engines have loaded
    with _bar() as progress:
        only = (models or None, accelerators or None)
        options = {"store": kept, "force": force, "repeats": repeats, "progress": progress}
        made = run_in_foreground(lambda: _measured(deployment, address, timeout_s, only, options))
    _show([item.profile for item in made if item.profile is not None])
    counts = {state: sum(item.state == state for item in made) for state in ("measured", "kept", "failed")}
    click.echo(
        f"\n{counts['measured']} measured, {counts['kept']} were in the store, {counts['failed']} failed · "
        f"{kept.location}"
    )
    for item in made:
        if item.reason:
            click.secho(f"{item.key}: {item.reason}", fg="red" if item.state == "failed" else "yellow", err=True)
    if counts["failed"]:
        ctx.exit(1)


@profile.command()
@STORE
@click.option("--model", "models", multiple=True, help="Only this one; may be given several times.")
@click.option("--plot", type=OutputFile(), metavar="FILE", help="Draw: .png or .html.")
@click.option("--json", "as_json", is_flag=True, help="Print the documents, points included.")
def show(store: str | None, models: tuple[str, ...], plot: Path | None, as_json: bool) -> None:
    """Show what was measured, and draw measured points against the law."""
    from dask_fmware.compile.profiles import open_store
    from dask_fmware.spec.record import did_you_mean

    kept = open_store(store)
    found, problems = kept.scan()
    there = sorted({item.key.model for item in found})
    found = [item for item in found if not models or item.key.model in models]
    for problem in problems:
        click.secho(str(problem), fg="yellow", err=True)
    for name in models:
        if there and name not in there:
            hint = did_you_mean(name, there)
            raise SpecError(f"{kept.location} has no profile of model '{name}'{hint} (models: {', '.join(there)})")
    for item in found:
        if not item.key.arguments:
            click.secho(
                f"{item.key}: an earlier version measured it and kept no arguments of the engine, so it counts as "
                "measured with other arguments and is not used; measure again: dask fmware profile --deployment FILE",
                fg="yellow",
                err=True,
            )
    if as_json:
        click.echo(json.dumps([item.model_dump(mode="json") for item in found], indent=1))
    elif found:
        _show(found)
    else:
        click.echo(f"nothing was measured in {kept.location}; run: dask fmware profile --deployment FILE")
    if plot is not None:
        from dask_fmware.client.profile_picture import draw_profiles

        draw_profiles(found, plot)
        click.echo(f"drawn into {plot}", err=True)  # what is printed may be JSON


@profile.command()
@click.argument("model", required=False)
def catalog(model: str | None) -> None:
    """List the bundled figures, of models whose name holds MODEL."""
    from dask_fmware.profile.catalog import catalog as bundled

    found = [item for item in bundled() if model is None or model.casefold() in item.key.model.casefold()]
    if not found:
        from dask_fmware.profile.catalog import find

        find(model or "", "")  # raises, naming what is near
    _show(sorted(found, key=lambda item: (item.key.model, item.key.accelerator, item.key.engine)))
    click.echo(f"\n{len(found)} bundled figures, of other engine builds than yours: good for planning")


async def _measured(
    deployment: Path | None,
    address: str | None,
    timeout_s: float,
    only: tuple[Sequence[str] | None, Sequence[str] | None],
    options: dict[str, Any],
) -> list[ProfiledModel]:
    from dask_fmware.client.profiling import profile_models

    wanted = None if deployment is None else _narrowed(deployment, *only)
    async with served(address, wanted, ready_s=timeout_s) as client:
        return list(await profile_models(client, *only, **options))


def _narrowed(file: Path, models: Sequence[str] | None, accelerators: Sequence[str] | None) -> Deployment:
    """What is measured of a deployment: nothing else is loaded, and a wrong name is told before anything is."""
    from dask_fmware.spec.documents import load_deployment
    from dask_fmware.spec.record import did_you_mean

    deployment = load_deployment(file)
    for kind, names, known in (
        ("model", models, deployment.models),
        ("accelerator", accelerators, deployment.accelerators),
    ):
        for name in names or ():
            if name not in known:
                hint = did_you_mean(name, known)
                raise DeploymentError(f"{file}: no {kind} is called '{name}'{hint} (known: {', '.join(known)})")
    kept = {}
    for name, model in deployment.models.items():
        on = {card: place for card, place in model.on.items() if accelerators is None or card in accelerators}
        if on and (not model.embeds if models is None else name in models):
            kept[name] = model.model_copy(update={"on": on})
    if not kept:
        raise DeploymentError(f"{file}: no model that is asked for is deployed on an accelerator that is asked for")
    return deployment.model_copy(update={"models": kept})


@contextmanager
def _bar() -> Iterator[Callable[[ProfileProgress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[experiment]}"), console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}

        def tell(progress: ProfileProgress) -> None:
            name = f"{progress.key.model} on {progress.key.accelerator}"
            if name not in tasks:
                tasks[name] = bar.add_task(name, experiment="")
            bar.update(tasks[name], completed=progress.done, total=progress.total, experiment=progress.experiment)

        yield tell


def _show(profiles: Sequence[Profile]) -> None:
    from rich.table import Table
    from rich.text import Text

    from dask_fmware.profile.table import COLUMNS, ProfileTable

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in COLUMNS:
        words = name in ("model", "accelerator", "engine", "from")
        table.add_column(name, justify="left" if words else "right", no_wrap=name in ("model", "accelerator"))
    for row in ProfileTable(profiles).rows:
        table.add_row(*(Text(cell) for cell in row))
    console().print(table)
