"""``python -m tests.fuzz``: feed all that takes inputs of strangers with damaged ones, and say what came of them."""

from __future__ import annotations

import time
import traceback
from dataclasses import asdict
from typing import Any

import click
from rich.progress import Progress

from benchmarks.support.environment import environment, write
from tests.fuzz.live import LIVE_TARGETS
from tests.fuzz.playing import play
from tests.fuzz.targets import TARGETS

ALL = {**TARGETS, **LIVE_TARGETS}


@click.command()
@click.option("--inputs", default=100_000, show_default=True, help="Of all targets together.")
@click.option("--seed", default=0, show_default=True)
@click.option("--target", "names", multiple=True, type=click.Choice(list(ALL)), help="Left out: all of them.")
@click.option("--keep", is_flag=True, help="Write the counts to benchmarks/results/fuzzing.md.")
def main(inputs: int, seed: int, names: tuple[str, ...], keep: bool) -> None:
    """Fuzz documents, data files, event logs, messages and HTTP routes: no crash, no hang, no error without a name."""
    chosen = {name: ALL[name] for name in names or ALL}
    whole = sum(target.share for target in chosen.values())
    rows: list[dict[str, Any]] = []
    broken = 0
    with Progress() as progress:
        task = progress.add_task("targets", total=len(chosen))
        for name, target in chosen.items():
            progress.update(task, description=name)
            began = time.process_time()
            try:
                played = play(target, round(inputs * target.share / whole) + 1, seed)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                broken += 1
                click.echo(traceback.format_exc())
                click.echo(f"again: python -m tests.fuzz --target '{name}' --inputs {inputs} --seed {seed}")
            else:
                rows.append({"target": name, **asdict(played), "cpu_s": time.process_time() - began})
            progress.advance(task)
    text = table(rows, seed)
    click.echo(text)
    click.echo(f"{broken} of {len(chosen)} targets were harmed")
    if keep and not broken:
        write("fuzzing", {"environment": environment(seed=seed, packages=("hypothesis",)), "rows": rows}, text)
    raise SystemExit(broken > 0)


def table(rows: list[dict[str, Any]], seed: int) -> str:
    """Return what came of each target, as Markdown."""
    lines = [
        "# Fuzzing",
        "",
        f"`python -m tests.fuzz`, seed {seed}: {sum(row['inputs'] for row in rows):,} inputs, no crash, no hang, "
        "no error without a name of ours.",
        "",
        "| target | inputs | what came of them | slowest, CPU |",
        "|---|---|---|---|",
    ]
    for row in rows:
        came = ", ".join(f"{count:,} {name}" for name, count in sorted(row["outcomes"].items(), key=lambda i: -i[1]))
        lines.append(f"| {row['target']} | {row['inputs']:,} | {came} | {1000 * row['slowest_s']:.0f} ms |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
