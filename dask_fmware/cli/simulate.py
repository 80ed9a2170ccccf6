"""``dask fmware simulate``: a scenario in virtual time, under several policies."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["simulate"]


@click.command()
@click.argument("scenario", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--policy", "policies", multiple=True, help="Routing policy; may be given several times.")
@click.option("--load", "loads", multiple=True, type=float, help="Runs in the window, or share of saturation.")
@click.option("--seeds", default=5, show_default=True, help="How many seeds.")
@click.option("--first-seed", default=0, show_default=True, help="The first of them.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows to a file.")
def simulate(
    scenario: Path, policies: tuple[str, ...], loads: tuple[float, ...], seeds: int, first_seed: int,
    json_path: Path | None,
) -> None:  # fmt: skip
    """Play SCENARIO in virtual time and print what each policy makes of it."""
    import json

    from rich.console import Console
    from rich.table import Table

    from dask_fmware.simulate.run import cells
    from dask_fmware.simulate.scenario import load_scenario

    loaded = load_scenario(scenario)
    table = Table("policy", "load", "goodput", "95 %", "TTFT", "p99", "latest", title=loaded.name)
    rows = []
    wanted = policies or ("slack", "greedy", "least_outstanding", "power_of_two")
    for cell in cells(loaded, wanted, loads or (1.0,), range(first_seed, first_seed + seeds)):
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
