"""``python -m tests.faults --seed 17``: play the faults of one seed, or of many, and say what broke."""

from __future__ import annotations

import traceback
from collections import Counter

import click
from rich.progress import track

from tests.faults.world import FaultyWorld
from tests.runtime.builders import POLICY_NAMES


@click.command()
@click.option("--seed", "seeds", multiple=True, type=int, help="Play this seed; may be given several times.")
@click.option("--count", default=1000, show_default=True, help="Without --seed: so many, from --first on.")
@click.option("--first", default=0, show_default=True, help="The first of them.")
@click.option("--policy", "policies", multiple=True, type=click.Choice(POLICY_NAMES), help="Left out: all of them.")
@click.option("--verbose", is_flag=True, help="Print every event with what the machine made of it.")
def main(seeds: tuple[int, ...], count: int, first: int, policies: tuple[str, ...], verbose: bool) -> None:
    """Simulate faults in virtual time, hold the runtime to its contract, and print the seeds that break it."""
    injected: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    broken = 0
    for seed in track(seeds or range(first, first + count), "seeds", disable=verbose or len(seeds) == 1):
        for policy in policies or POLICY_NAMES:
            world = FaultyWorld(seed, policy)
            try:
                found = world.run()
            except Exception:
                found = [traceback.format_exc(limit=-6)]
            if verbose:
                for event, now, actions in world.told:
                    click.echo(f"{now:10.3f} {event}" + "".join(f"\n           -> {action}" for action in actions))
            injected += world.injected
            counts += world.contract.counts
            if found:
                broken += 1
                click.echo("\n".join(found[:20]))
                click.echo(f"again: python -m tests.faults --seed {seed} --policy {policy} --verbose")
    click.echo(f"injected: {dict(sorted(injected.items()))}")
    click.echo(f"counted: {dict(sorted(counts.items()))}")
    click.echo(f"{broken} simulations broke the contract")
    raise SystemExit(broken > 0)


if __name__ == "__main__":
    main()
