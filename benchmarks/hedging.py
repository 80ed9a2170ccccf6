"""What it is worth to try a call elsewhere that gives no token in time, in virtual time.

    python -m benchmarks.hedging [--seeds 10] [--first 1000] [--scenario loss] [--policy slack]
    python -m benchmarks.hedging --table

All three ways play the same runs and the same faults, beside what stands in without any: an attempt without a token for
60 s is tried elsewhere, an engine that was silent for two in a row is started again (30 s), estimates are corrected.
*moved*: the first attempt ends, and the call is given to another replica (what dask-fmware does). *concurrent*: by the
very same decisions a second attempt begins beside the first, the first token wins and the loser is aborted; nothing
but this file does that.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from rich.progress import Progress

from benchmarks.support.environment import TABLE, asked_then, environment, kept, write
from benchmarks.support.within import within
from dask_fmware.policy.estimate import expected_s
from dask_fmware.profile.emulation import FIRST, LAST
from dask_fmware.runtime import Assign, AttemptEnded, Move
from dask_fmware.runtime.learning.corrections import Prediction
from dask_fmware.runtime.replicas.slots import Stay
from dask_fmware.runtime.runs import attempts
from dask_fmware.simulation.course import Live
from dask_fmware.simulation.replicas import Attempt, VirtualCard
from dask_fmware.simulation.report import interval
from dask_fmware.simulation.run import saturation
from dask_fmware.simulation.scenario import Scenario, load_scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

SCENARIOS = Path(__file__).parent / "scenarios"
LOADS = (0.3, 0.5, 0.7, 0.9)
DURATION_S = 120.0
BUDGET = 0.05
STALL_S, TICKS, STALLS, LOAD_S = 60.0, 8, 2, 30.0  # router.stall_s, and what workers make of it
STOPPED = 1e9  # times as long steps
LAST_S = 1000.0  # no fault later

Way = Literal["off", "moved", "concurrent"]
WAYS: tuple[Way, ...] = ("off", "moved", "concurrent")


@dataclass(frozen=True)
class Setting:
    """What goes wrong."""

    what: str
    every_s: float = inf  # between two faults of a card, on average
    for_s: tuple[float, float] = (inf, inf)  # uniform; infinity: until its engine is started again
    slow: float = STOPPED
    at_once: bool = False  # on all cards
    stuck: float = 0.0  # share of attempts that get no token
    late_s: tuple[float, float] = (inf, inf)  # after which they go on


SETTINGS = {
    "undisturbed": Setting("nothing"),
    "stuck": Setting("1 of 200 attempts gets no token, ever", stuck=0.005),
    "stall": Setting("each card stands still for 1 to 5 s once a minute", 60.0, (1.0, 5.0)),
    "slow": Setting(
        "each card runs at a third of its speed for 10 to 30 s every two minutes", 120.0, (10.0, 30.0), 3.0
    ),
    "hang": Setting("each engine hangs for good every five minutes", 300.0),
    "tail": Setting("1 of 50 attempts begins 1 to 10 s late", stuck=0.02, late_s=(1.0, 10.0)),
    "freeze": Setting(
        "all cards stand still at once for 0.5 to 2 s, three times a minute", 20.0, (0.5, 2.0), at_once=True
    ),
}


class FaultyWorld(World):
    """A simulation with faults of a setting, and workers that watch their engines."""

    def __init__(self, scenario: Scenario, policy: str, seed: int, rate: float, setting: Setting, way: Way) -> None:
        budget = 0.0 if way == "off" else BUDGET
        super().__init__(scenario, policy, Workload(scenario, seed).runs(rate=rate), seed, hedge_budget=budget)
        self.setting, self.way, self.seed = setting, way, seed
        self.counts: Counter[str] = Counter()
        self._second: dict[str, Attempt] = {}  # call id -> attempt beside the first
        self._stalls: Counter[str] = Counter()
        if setting.every_s == inf:
            return
        for place in range(len(self.fleet.cards)):
            draws, at = random.Random(f"faults {seed} {0 if setting.at_once else place}"), 0.0
            while (at := at + draws.expovariate(1.0 / setting.every_s)) < LAST_S:
                low, high = setting.for_s
                for_s = draws.uniform(low, high) if high < inf else inf
                self._agenda.at(at, self._befall, place, for_s)
                at += for_s if for_s < inf else STALL_S + LOAD_S

    # -- faults ----------------------------------------------------------------------------------

    def _befall(self, place: int, for_s: float) -> None:
        cards = self.fleet.cards
        if place >= len(cards) or cards[place].slow != 1.0 or any(r.state != "ready" for r in cards[place].replicas):
            return
        card = cards[place]
        self.counts["faults"] += 1
        if self.setting.slow == STOPPED:
            card.is_timed = True  # a worker whose engine makes no steps has none to tell of
        self.fleet.slow_down(card.name, self.setting.slow)
        if for_s < inf:
            self._agenda.at(self.now + for_s, self._heal, card)

    def _heal(self, card: VirtualCard) -> None:
        if card in self.fleet.cards:
            self.fleet.slow_down(card.name, 1.0)
            if self.setting.slow == STOPPED:
                card.is_timed = False

    def _begin(self, attempt: Attempt) -> None:
        """An attempt is on its engine: watch it, and let it be stuck if that is drawn."""
        self._agenda.at(self.now + STALL_S / TICKS, self._look, attempt, 0, 1)
        draws = random.Random(f"stuck {self.seed} {attempt.call_id} {attempt.number}")
        if draws.random() >= self.setting.stuck:
            return
        self.counts["faults"] += 1
        self.engines.stall(attempt)
        low, high = self.setting.late_s
        if high < inf:
            self._agenda.at(self.now + draws.uniform(low, high), self._go_on, attempt)

    def _go_on(self, attempt: Attempt) -> None:
        if attempt in attempt.replica.attempts:
            prompt, output = self._course.calls[attempt.call_id][1].call or (1, 1)
            self.engines.arrive(attempt, prompt, output, 0.0)

    def _look(self, attempt: Attempt, seen: int, ticks: int) -> None:
        """What `router.stall_s` does."""
        replica = attempt.replica
        if attempt not in replica.attempts or self._second.get(attempt.call_id) is attempt:
            return
        tokens = replica.batch.tokens(attempt, self.now)
        ticks = ticks + 1 if tokens == seen else 1
        if ticks <= TICKS:
            self._agenda.at(self.now + STALL_S / TICKS, self._look, attempt, tokens, ticks)
            return
        self.counts["given up"] += 1
        self.engines.abort(attempt)
        self._tell(AttemptEnded(attempt.call_id, attempt.number, "retry", error="no token"))
        self._lost(attempt)
        self._stalls[replica.replica_id] += 1
        if self._stalls[replica.replica_id] >= STALLS and self.fleet.get(replica.replica_id) is replica:
            self.counts["started again"] += 1
            self.fleet.stop(replica.replica_id)
            self.fleet.start(replica.model, replica.accelerator)

    # -- attempts --------------------------------------------------------------------------------

    def _assign(self, action: Assign) -> None:
        super()._assign(action)
        if (entry := self._course.calls.get(action.call_id)) is not None:
            self._begin(entry[0].attempts[action.call_id])
            self.counts["tokens"] += sum(entry[1].call or ())

    def _move(self, action: Move) -> None:
        self.counts["second"] += 1
        self.counts["second tokens"] += sum(self._course.calls[action.call_id][1].call or ())
        if self.way == "moved":
            super()._move(action)
        else:
            self._start_second(action.call_id)

    def _start_second(self, call_id: str) -> None:
        """Begin an attempt beside the first, where it should be soonest."""
        machine, now = self.machine, self.now
        call = machine.runs.calls[call_id]
        view, prompt_output = machine.views.view(call), self._course.calls[call_id][1].call or (1, 1)
        tokens = 0.0 if view.answers else view.output_tokens
        tried = {attempt.replica_id for attempt in call.report.attempts}
        there = [r for r in machine.fleet.views(view.model) if r.has_room and r.replica_id not in tried]
        best = min(there, key=lambda r: (expected_s(view.prompt_tokens, tokens, r, now) * r.stretch, r.name))
        state, number = machine.fleet.get(best.replica_id), call.report.attempts[-1].attempt + 1
        replica = self.fleet.get(best.replica_id)
        assert state is not None
        assert replica is not None
        stay = Stay(expected_s(view.prompt_tokens, view.output_tokens, best, now), view.prompt_tokens)
        if (law := machine.fleet.law(state.replica)) is not None:
            state.given(stay, law.prompt_s(view.prompt_tokens), now)
        machine.fleet.take(state, call_id, number, stay, now)
        second = self._second[call_id] = Attempt(call_id, number, replica, now)
        self.engines.run(second, *prompt_output, 0.0)
        self._begin(second)

    def _end_second(self, call_id: str) -> None:
        second = self._second.pop(call_id, None)
        if second is not None and second in second.replica.attempts:
            self.engines.abort(second)
            self._tell(AttemptEnded(call_id, second.number, "aborted"))

    def _gave(self, attempt: Attempt, kind: int) -> None:
        call_id = attempt.call_id
        self._stalls[attempt.replica.replica_id] = 0
        if kind == FIRST and self._second.get(call_id) is attempt:
            self._second_wins(attempt)
        elif kind in (FIRST, LAST):
            self._end_second(call_id)
        super()._gave(attempt, kind)

    def _second_wins(self, second: Attempt) -> None:
        call_id = second.call_id
        self.counts["second won"] += 1
        del self._second[call_id]
        live, call = self._course.calls[call_id][0], self.machine.runs.calls[call_id]
        first, live.attempts[call_id] = live.attempts[call_id], second
        self.engines.abort(first)
        self._tell(AttemptEnded(call_id, first.number, "aborted"))
        unknown = Prediction(0, 0.0, 0.0, 0.0, 0.0, 0.0)
        attempts.begin(call, second.replica.replica, second.number, "it won", unknown, (0.0, 0.0), second.started)

    def _lost(self, attempt: Attempt) -> None:
        if self._second.get(attempt.call_id) is attempt:
            del self._second[attempt.call_id]
            return
        self._end_second(attempt.call_id)
        super()._lost(attempt)

    def _run_ended(self, live: Live) -> None:
        for call_id in [call_id for call_id in self._second if call_id not in self._course.calls]:
            self._end_second(call_id)
        super()._run_ended(live)


def scenario_of(name: str) -> Scenario:
    """A scenario with engines that take a while to start again."""
    data = load_scenario(SCENARIOS / f"{name}.yaml").model_dump(mode="json", exclude_defaults=True)
    for model in data["models"].values():
        for hosting in model["on"].values():
            hosting["load_s"] = {"fixed": LOAD_S}
    data |= {"warm_start": True, "arrivals": {"kind": "poisson", "duration_s": DURATION_S}}
    return Scenario.model_validate(data)


def played(scenario: Scenario, policy: str, seed: int, rate: float, setting: Setting) -> dict[Way, dict[str, Any]]:
    """Play the same runs and faults in each way; where nothing is moved, all are the same."""
    moved = cell(scenario, policy, seed, rate, setting, "moved")
    if not moved.get("second"):
        return dict.fromkeys(WAYS, moved)
    others: tuple[Way, ...] = ("off", "concurrent")
    return {"moved": moved, **{way: cell(scenario, policy, seed, rate, setting, way) for way in others}}


def cell(scenario: Scenario, policy: str, seed: int, rate: float, setting: Setting, way: Way) -> dict[str, Any]:
    """Play one simulation."""
    world = FaultyWorld(scenario, policy, seed, rate, setting, way)
    outcomes = world.play()
    share = world.counts["second tokens"] / max(world.counts["tokens"], 1)
    return {"goodput": fmean(outcome.met for outcome in outcomes), "share": share, **world.counts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default="loss")
    parser.add_argument("--policy", default="slack")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=1000, help="below 100: seeds that constants are tuned on")
    parser.add_argument("--loads", type=float, nargs="+", default=LOADS)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--table", action="store_true", help=TABLE)
    asked = parser.parse_args()
    suffix = "" if (asked.scenario, asked.policy) == ("loss", "slack") else f"_{asked.scenario}_{asked.policy}"
    if asked.table:
        raw = kept(f"hedging{suffix}")
        write(f"hedging{suffix}", raw, table(raw, asked_then(parser, raw["environment"]["command"])))
        return
    scenario = scenario_of(asked.scenario)
    full = saturation(load_scenario(SCENARIOS / f"{asked.scenario}.yaml"))
    seeds = range(asked.first, asked.first + asked.seeds)
    raw = {"environment": environment(seed=asked.first), "rows": []}
    with Progress() as progress:
        task = progress.add_task("cells", total=len(asked.settings) * len(asked.loads) * len(seeds))
        for name in asked.settings:
            for load in asked.loads:
                found: dict[Way, list[dict[str, Any]]] = {way: [] for way in WAYS}
                for seed in seeds:
                    for way, one in played(scenario, asked.policy, seed, load * full, SETTINGS[name]).items():
                        found[way].append(one)
                    progress.advance(task)
                raw["rows"].append({"setting": name, "load": load, "cells": found})
                text = table(raw, asked)
                print(text.splitlines()[-1], flush=True)
                if asked.first >= 1000:  # after each row: it may be broken off
                    write(f"hedging{suffix}", raw, text)


def table(raw: dict[str, Any], asked: argparse.Namespace) -> str:
    """Markdown of what is kept; the differences are added to it."""
    lines = [
        "# Calls that give no token in time are tried elsewhere",
        "",
        f"`{raw['environment']['command']}`: `{asked.scenario}`, `{asked.policy}`, {asked.seeds} seeds, "
        f"{DURATION_S:g} s of arrivals, budget {BUDGET:.0%} of tokens.",
        "Goodput, and its paired difference in points with a 95 % interval; tokens of second attempts, of all.",
        "",
        "| what goes wrong | load | off | moved | tokens | concurrent | tokens | second wins |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in raw["rows"]:
        found = row["cells"]
        what = SETTINGS[row["setting"]].what
        shown = [what, f"{row['load']:g}", f"{fmean(c['goodput'] for c in found['off']):.4f}"]
        for way in WAYS[1:]:
            pairs = zip(found[way], found["off"], strict=True)
            apart = interval([100 * (one["goodput"] - other["goodput"]) for one, other in pairs])
            row[way] = asdict(apart)
            shown.append(f"{apart.mean:+.2f}{within(apart.low, apart.high, '+.2f', found[way])}")
            shown.append(f"{fmean(c['share'] for c in found[way]):.2%}")
        won = [sum(c.get(key, 0) for c in found["concurrent"]) for key in ("second won", "second")]
        lines.append("| " + " | ".join([*shown, f"{won[0]} of {won[1]}"]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
