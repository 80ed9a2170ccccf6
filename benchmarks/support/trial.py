"""What one cell of the evaluation asks of a system and what it saw: plain values that travel between processes.

Runs are drawn by the simulator's own `Workload`, so a real system and its simulation get the same arrivals, paths,
lengths and objectives. It knows no system.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from benchmarks.support.card_engine import planned_prompt
from dask_fmware.simulation.alone import alone_s
from dask_fmware.simulation.sampled import SampledNode, SampledRun
from dask_fmware.simulation.scenario import Scenario, WindowArrivals, load_scenario
from dask_fmware.simulation.workload import Workload

__all__ = ["LABELS", "Cell", "Clock", "PlannedCall", "PlannedRun", "Seen", "drive", "model_of", "plan", "scenario_of"]

SCENARIO = Path(__file__).parents[1] / "scenarios" / "paper.yaml"
FAST, SLOW = "A100", "A40"
LABELS = {"order": "place order", "search": "search shop", "chat": "chat a bit."}  # of three tokens each
WINDOW_S = 10.0
TICK_S = 0.02  # between two looks at the clock


@dataclass(frozen=True, slots=True)
class Cell:
    """One load on one workflow with one seed."""

    workflow: Literal["rag", "shopping"]
    count: int  # runs that arrive in the window
    seed: int
    lengths: Literal["deterministic", "drawn"] = "deterministic"
    plus_s: float = 1.0  # SLO: unloaded TTFT and so much more


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """One call as the engine will play it."""

    name: str  # "r3/answer", "r3/pitch.1"
    model: str
    prompt: str
    prompt_tokens: int
    output_tokens: int
    alone_s: dict[str, float]  # by card, on an idle one


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run of a cell."""

    run_id: str
    workflow: str
    arrival_s: float
    ttft_slo_s: float
    prompts: dict[str, str | list[str]]  # by node; only of the path that the run takes
    pauses_s: dict[str, float]  # of plain code, by node
    calls: list[PlannedCall]


@dataclass(slots=True)
class Seen:
    """What a client saw of one run, seconds since its planned arrival."""

    run_id: str
    submitted_s: float = 0.0  # how late the client was
    first_s: float | None = None
    done_s: float | None = None
    error: str = ""

    def wire(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def scenario_of(cell: Cell) -> Scenario:
    """The paper's setting at the load of a cell, for the simulator."""
    base = load_scenario(SCENARIO)
    workflow = base.workflows[cell.workflow]
    assert workflow.slo is not None
    slo = workflow.slo.model_copy(update={"plus_s": cell.plus_s})
    return base.model_copy(
        update={
            "workflows": {cell.workflow: workflow.model_copy(update={"slo": slo})},
            "arrivals": WindowArrivals(kind="window", count=cell.count, window_s=WINDOW_S),
            "lengths": cell.lengths,
        }
    )


def plan(cell: Cell) -> list[PlannedRun]:
    """Draw the runs of a cell."""
    scenario = scenario_of(cell)
    return [
        planned(scenario, run, f"{cell.workflow[0]}{cell.count}s{cell.seed}")
        for run in Workload(scenario, cell.seed).runs()
    ]


def planned(scenario: Scenario, run: SampledRun, prefix: str, time_scale: float = 1.0) -> PlannedRun:
    """Write the prompts of one run; `time_scale` is seconds on the clock for one second of the scenario."""
    name = f"{prefix}{run.run_id}"
    prompts: dict[str, str | list[str]] = {}
    pauses_s: dict[str, float] = {}
    calls: list[PlannedCall] = []
    for node in run.nodes:
        if not node.calls:
            pauses_s[node.name] = time_scale * node.seconds
        elif node.taken:
            names = [f"{name}/{node.name}" + (f".{i}" if node.bodies else "") for i in range(len(node.calls))]
            made = [
                _call(scenario, run, node, call, *lengths, time_scale)
                for call, lengths in zip(names, node.calls, strict=True)
            ]
            calls += made
            prompts[node.name] = [call.prompt for call in made] if node.bodies else made[0].prompt
    return PlannedRun(
        name,
        run.workflow,
        time_scale * run.arrival,
        time_scale * (run.deadline - run.arrival),
        prompts,
        pauses_s,
        calls,
    )


def model_of(node: SampledNode) -> str:
    """Model of a node that makes calls, or of what its bodies call."""
    return node.model or node.bodies[0].nodes[0].model or ""


def _call(
    scenario: Scenario,
    run: SampledRun,
    node: SampledNode,
    name: str,
    prompt_tokens: int,
    output_tokens: int,
    time_scale: float,
) -> PlannedCall:
    output: int | str = output_tokens
    for switch, branch in node.decides:
        assert branch is not None
        output = LABELS[list(scenario.workflows[run.workflow].nodes[switch].decides or {})[branch]]
    model = model_of(node)
    alone = {
        card: time_scale * alone_s(hosting.step_law, hosting.limits, ((prompt_tokens, output_tokens),))[1]
        for card, hosting in scenario.models[model].on.items()
    }
    return PlannedCall(name, model, planned_prompt(name, prompt_tokens, output), prompt_tokens, output_tokens, alone)


@dataclass(slots=True)
class Clock:
    """How long an event loop was away, at worst."""

    worst_s: float = 0.0

    async def watch(self) -> None:
        """Look at the clock until cancelled."""
        while True:
            due = perf_counter() + TICK_S
            await asyncio.sleep(TICK_S)
            self.worst_s = max(self.worst_s, perf_counter() - due)


async def drive(
    runs: Sequence[PlannedRun], start: Callable[[PlannedRun], AsyncIterator[str]], ahead_s: float = 0.2
) -> tuple[list[Seen], float]:
    """Submit runs when they arrive, whatever becomes of those before; return what was seen and the worst stall.

    All times are since the planned arrival, so a client that is late makes a system no faster.
    """
    begin = perf_counter() + ahead_s
    clock = Clock()
    watching = asyncio.create_task(clock.watch())

    async def one(run: PlannedRun) -> Seen:
        seen = Seen(run.run_id)
        due = begin + run.arrival_s
        await asyncio.sleep(max(0.0, due - perf_counter()))
        seen.submitted_s = perf_counter() - due
        try:
            async for text in start(run):
                if seen.first_s is None and text:
                    seen.first_s = perf_counter() - due
            seen.done_s = perf_counter() - due
        except Exception as error:
            seen.error = f"{type(error).__name__}: {error}"[:300]
        return seen

    try:
        return list(await asyncio.gather(*(one(run) for run in runs))), clock.worst_s
    finally:
        watching.cancel()
