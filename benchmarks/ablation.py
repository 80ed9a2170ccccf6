"""Each part of `slack` switched off in turn, in the simulator.

    python -m benchmarks.ablation [--seeds 20]
    python -m benchmarks.ablation --table

A part is switched off from outside, by what is shown to the policy or made of its answer, so that all else is the
policy as it is shipped. Beside the paper's setting and overload stand what single parts are for: a batch job beside
interactive runs at half of the capacity of two cards (goodput of these, and how much of what they leave the job uses),
and runs of five turns on engines that keep prompts (`prefix_affinity`).
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.progress import track

from benchmarks import batch_beside, prefix_affinity
from benchmarks.support.environment import TABLE, environment, kept, write
from benchmarks.support.trial import Cell, scenario_of
from dask_fmware.policy.estimate import execution_s
from dask_fmware.policy.kinds import leaders
from dask_fmware.policy.leeway import Leeway
from dask_fmware.policy.outlook import Outlook, Plan
from dask_fmware.policy.price import Price, Prices
from dask_fmware.policy.protocol import Bind, CallView, Choice, Park, Rank, ReplicaView, Wait
from dask_fmware.policy.slack import Slack
from dask_fmware.profile.quantiles import RatioQuantile
from dask_fmware.simulation.report import interval
from dask_fmware.simulation.run import saturation
from dask_fmware.simulation.scenario import PoissonArrivals, Scenario, load_scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

__all__ = ["PARTS", "Without"]

COUNTS = (8, 12, 15, 20, 30)
LOADS = (0.9, 2.0)
FIRST_SEED = 1000
WINDOW_S = 40.0
SCENARIOS = Path(__file__).parent / "scenarios"


def _ends(call: CallView, replica: ReplicaView, now: float) -> float:
    """When a call would end on a replica, by the latency figure and what waits there."""
    tokens = 0.0 if call.answers else call.output_tokens
    free_at = max(now, replica.slot_free_at)
    waiting_s = replica.waiting_s / (replica.card_slots or replica.slots)
    return free_at + waiting_s + execution_s(replica.latency, call.prompt_tokens, tokens)


class Without:
    """`Slack` without one of its parts."""

    def __init__(self, part: str) -> None:
        self.name = f"slack without {part}" if part else "slack"
        self._part = part
        self._slack = Slack()
        if part == "leeway of background calls":
            self._slack._background._leeway = defaultdict(_Steady)
        if part == "price of dear runs":
            self._slack._prices = _Free()

    def order(self, call: CallView) -> tuple[float, ...]:
        """As `Slack`, or first come, first served inside its classes."""
        if self._part == "runs under way first":
            call = replace(call, begun=True)
        key = self._slack.order(call)
        return (*key[:2], call.runnable_at) if self._part == "order by latest start" else key

    def rank(self, replica: ReplicaView) -> Rank:
        """As `Slack`."""
        return self._slack.rank(replica)

    def plan(self, outlook: Outlook, now: float) -> Plan | None:
        """As `Slack`, or none."""
        return None if self._part in ("look-ahead", "late binding") else self._slack.plan(outlook, now)

    def choose(self, call: CallView, replicas: Sequence[ReplicaView], now: float) -> Choice:
        """As `Slack`, but for the part that is off."""
        if self._part == "prefix affinity":
            call = replace(call, home=None, cached_tokens=0)
        choice = self._slack.choose(call, replicas, now)
        best = min(leaders(replicas, self.rank), key=lambda r: (not r.has_room, _ends(call, r, now), r.name))
        match self._part, choice:
            case "late binding", Wait() | Park():
                soonest = min(replicas, key=lambda r: (_ends(call, r, now), r.name))
                return Bind(soonest.replica_id, "bound at once", call.due if call.due is not None else inf)
            case "parking", Park():
                if best.has_room:
                    return Bind(best.replica_id, "late, but not parked", call.due)
                return Wait("all replicas are busy")
            case "restraint of background calls", Wait() if call.due is None or call.parked:
                if best.has_room:
                    return Bind(best.replica_id, "background wherever there is room", inf)
                return choice
            case "engine priority", Bind():
                return Bind(choice.replica_id, choice.reason)
            case _:
                return choice


class _Steady(Leeway):
    """Leeway that learns nothing."""

    def bound(self, call: CallView, due: float, ends: float) -> None:
        """Learn nothing."""

    def lost(self, call: CallView, due: float) -> None:
        """Learn nothing."""


class _Free(Prices):
    """No price for anybody."""

    def of(self, call: CallView) -> Price:
        """Return one that has learnt nothing."""
        return Price()


class _Even(RatioQuantile):
    """A stretch that nothing is learnt of."""

    def add(self, ratio: float, missed: bool | None = None) -> None:
        pass


PARTS = (
    "",
    "look-ahead",
    "late binding",
    "order by latest start",
    "runs under way first",
    "parking",
    "restraint of background calls",
    "online correction",
    "engine priority",
    "price of dear runs",
    "leeway of background calls",
    "prefix affinity",
)


def goodput(scenario: Scenario, part: str, seed: int, rate: float | None) -> float:
    """Share of runs in time."""
    world = World(scenario, Without(part), Workload(scenario, seed).runs(rate=rate), seed)
    _prepare(world, part)
    outcomes = world.play()
    return sum(outcome.met for outcome in outcomes) / len(outcomes)


def _prepare(world: World, part: str) -> None:
    if part == "online correction":
        for state in world.machine.fleet:
            state.pace.stretch = _Even()


def paper(part: str, seed: int) -> dict[str, float]:
    """The paper's setting: mean over numbers of runs."""
    cells = {w: [scenario_of(Cell(w, count, 0)) for count in COUNTS] for w in ("rag", "shopping")}  # type: ignore[arg-type]
    return {f"paper, {w}": fmean(goodput(one, part, seed, None) for one in made) for w, made in cells.items()}


def batching(part: str, seed: int) -> dict[str, float]:
    """Two cards that batch."""
    made = _two_cards()
    return {f"batching, {load:g} of saturation": goodput(made, part, seed, load * saturation(made)) for load in LOADS}


def beside(part: str, seed: int) -> dict[str, float]:
    """Interactive runs beside a batch job."""
    made = _two_cards()
    full = saturation(made)
    found = batch_beside.of_seed(made, Without(part), full / 2, seed, WINDOW_S, job=True)
    idle = full - found["interactive"]
    return {"beside a batch job": found["goodput"], "of the idle capacity, the job uses": found["rows"] / idle}


def turns(part: str, seed: int) -> dict[str, float]:
    """Runs whose prompts begin with what was said before."""
    made = prefix_affinity.scenario(1500, WINDOW_S)
    return {"five turns": prefix_affinity.of_seed(made, Without(part), 8.0, seed)[0]}


def _two_cards() -> Scenario:
    made = load_scenario(SCENARIOS / "batching2.yaml")
    return made.model_copy(update={"arrivals": PoissonArrivals(kind="poisson", duration_s=WINDOW_S)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="from 1000 up; a quarter (2 at least) on batching cards")
    parser.add_argument("--table", action="store_true", help=TABLE)
    asked = parser.parse_args()
    raw = kept("ablation") if asked.table else measured(asked.seeds)
    text = table(raw)
    print(text)
    write("ablation", raw, text)


def measured(seeds: int) -> dict[str, Any]:
    """What is kept: a goodput for each part, column and seed."""
    found: dict[str, dict[str, list[float]]] = {part or "nothing": defaultdict(list) for part in PARTS}
    for part in track(PARTS, description="parts"):
        for played in (paper, batching, beside, turns):
            for seed in range(FIRST_SEED, FIRST_SEED + (seeds if played is paper else max(seeds // 4, 2))):
                for column, value in played(part, seed).items():
                    found[part or "nothing"][column].append(value)
    return {"environment": environment(seed=FIRST_SEED), "goodput": found}


def table(raw: dict[str, Any]) -> str:
    """Markdown of what is kept."""
    found: dict[str, dict[str, list[float]]] = raw["goodput"]
    columns = list(found["nothing"])
    lines = [
        "# What each part of `slack` is worth, simulated",
        "",
        f"`{raw['environment']['command']}`; goodput, and in parentheses what is lost without the part, 95 % interval "
        f"of the paired difference. Paper: mean over N = {', '.join(map(str, COUNTS))} runs within 10 s; seeds from "
        f"{FIRST_SEED}.",
        "",
        "| without | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for part, values in found.items():
        row = [part]
        for column in columns:
            text = f"{fmean(values[column]):.3f}"
            if part != "nothing":
                whole = found["nothing"][column]
                lost = interval([all_ - one for all_, one in zip(whole, values[column], strict=True)])
                around = f", {lost.low:+.3f} to {lost.high:+.3f}" if len(whole) > 1 else ""
                text += f" ({lost.mean:+.3f}{around})"
            row.append(text)
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
