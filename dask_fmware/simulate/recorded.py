"""A recorded event log as something to simulate: its cluster, its runs, and what came of them.

Runs bring what they really did: when they came, the branches they took, the tokens of their calls, the bodies of maps
and loops, and the time that plain code took before each call. Runs that did not finish are left out and counted.
Replicas play the step-time law of their profile, or else their latency figure, which knows no batching.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import NamedTuple

from dask_fmware.errors import SpecError
from dask_fmware.model.plan import Objective, PlannedNode, RunPlan
from dask_fmware.model.replica import Replica
from dask_fmware.profile.law import Curve, StepLaw
from dask_fmware.profile.record import LawRecord, LiveProfile
from dask_fmware.runtime import AttemptEnded, Branched, CallRunnable, FirstToken, ReplicaReady, RunEnded, RunSubmitted
from dask_fmware.runtime.eventlog import Decision, Head
from dask_fmware.simulate.course import Outcome
from dask_fmware.simulate.replay import open_log, scenario_of
from dask_fmware.simulate.scenario import CardScenario, FleetScenario, Hosting, ModelScenario
from dask_fmware.simulate.workload import Body, SampledNode, SampledRun, alone_s

__all__ = ["Assigned", "Recorded", "read_recorded"]


@dataclass(slots=True)
class _CallFacts:
    """What is known of one call."""

    runnable_at: float = inf
    started_at: float = inf
    first_at: float = inf
    ended_at: float = inf
    tokens: tuple[int, int] = (1, 1)
    accelerator: str = ""


class Assigned(NamedTuple):
    """One decision: a call was given to a replica."""

    at: float
    call_id: str
    replica: str  # name


@dataclass(slots=True)
class Recorded:
    """What a log holds.

    Attributes
    ----------
    head
        How its machine was made.
    fleet
        The cluster, as far as its replicas said.
    runs
        Those that finished, in order of arrival.
    outcomes
        What came of them when they were recorded.
    left_out
        Runs that did not finish.
    assigned
        What was decided, in order.
    """

    head: Head
    fleet: FleetScenario
    runs: list[SampledRun]
    outcomes: list[Outcome]
    left_out: int
    assigned: list[Assigned]

    def with_slo(self, slo_s: float) -> list[SampledRun]:
        """Return the runs with another objective: so many seconds to what theirs was of, or to the first token."""
        made = []
        for run in self.runs:
            e2e = run.is_whole
            kept = run.plan.objective.on_miss if run.plan.objective is not None else "finish"
            objective = Objective(ttft_s=None if e2e else slo_s, e2e_s=slo_s if e2e else None, on_miss=kept)
            plan = replace(run.plan, objective=objective)
            made.append(replace(run, plan=plan, deadline=run.arrival + slo_s))
        return made

    def with_load(self, factor: float, runs: Sequence[SampledRun] | None = None) -> list[SampledRun]:
        """Return the runs `factor` times as close to one another."""
        return [
            replace(run, arrival=run.arrival / factor, deadline=run.arrival / factor + run.deadline - run.arrival)
            for run in (self.runs if runs is None else runs)
        ]

    def with_cards(self, more: Mapping[str, int]) -> FleetScenario:
        """Return the cluster with cards added (below 0: taken away); each hosts what those of its type do.

        Raises
        ------
        SpecError
            No card of that type was recorded, or fewer than are to be taken away.
        """
        cards, models = dict(self.fleet.cards), dict(self.fleet.models)
        for accelerator, count in more.items():
            card = cards.get(accelerator)
            if card is None:
                raise SpecError(f"no card '{accelerator}' was recorded (known: {', '.join(cards)})")
            if card.count + count < 0:
                raise SpecError(f"{card.count} cards '{accelerator}' were recorded, {-count} cannot be taken away")
            cards[accelerator] = card.model_copy(update={"count": card.count + count})
            for name, spec in models.items():
                hosting = spec.on.get(accelerator)
                if hosting is not None and hosting.replicas is not None:
                    replicas = min(max(round(hosting.replicas * (1 + count / card.count)), 0), card.count + count)
                    on = {**spec.on, accelerator: hosting.model_copy(update={"replicas": replicas})}
                    models[name] = spec.model_copy(update={"on": on})
        return self.fleet.model_copy(update={"cards": cards, "models": models})


def read_recorded(path: str | Path) -> Recorded:
    """Read what a log holds.

    Raises
    ------
    SpecError
        It is no event log, or nothing in it can be simulated.
    """
    reader = _Reader()
    with open_log(path) as (head, lines):
        for line in lines:
            reader.take(line.event, line.now, [d for d in line.decisions if d.kind == "Assign"])
    if not reader.replicas:
        raise SpecError(f"event log {path}: no replica was ever ready, so there is no cluster to simulate")
    made = [
        (run, outcome) for plan in reader.roots if (found := reader.run(plan)) is not None for run, outcome in [found]
    ]
    if not made:
        raise SpecError(f"event log {path}: no run finished while it was recorded; record for longer")
    fleet = scenario_of(head) or _fleet(reader.replicas.values())
    if head.scenario is None:
        fleet = fleet.model_copy(update={"delivery_s": _delivery_s(fleet, [run for run, _ in made], reader)})
    runs, outcomes = [run for run, _ in made], [outcome for _, outcome in made]
    return Recorded(head, fleet, runs, outcomes, len(reader.roots) - len(made), reader.assigned)


@dataclass(slots=True)
class _Reader:
    """Collects facts from events."""

    begin: float | None = None
    replicas: dict[str, Replica] = field(default_factory=dict)  # by name: one that started again is the same
    accelerators: dict[str, str] = field(default_factory=dict)  # replica id -> its type
    submitted: dict[str, float] = field(default_factory=dict)
    roots: list[RunPlan] = field(default_factory=list)
    parts: dict[str, list[RunPlan]] = field(default_factory=dict)  # run -> plans of its bodies, in order
    branches: dict[tuple[str, str], tuple[int | None, float]] = field(default_factory=dict)
    calls: dict[str, _CallFacts] = field(default_factory=dict)
    finished: dict[str, float] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # replica id -> its name
    assigned: list[Assigned] = field(default_factory=list)

    def take(self, event: object, now: float, assigned: Sequence[Decision]) -> None:
        if self.begin is None:
            self.begin = now
        now -= self.begin
        match event:
            case ReplicaReady(replica):
                self.replicas[replica.name] = replica
                self.accelerators[replica.replica_id] = replica.accelerator
                self.names[replica.replica_id] = replica.name
            case RunSubmitted(plan) if plan.run_id not in self.submitted:
                self.submitted[plan.run_id] = now
                if plan.part_of is None:
                    self.roots.append(plan)
                else:
                    self.parts.setdefault(plan.part_of, []).append(plan)
                for switch, branch in plan.decided:
                    self.branches[plan.run_id, switch] = branch, now
            case CallRunnable(call_id):
                facts = self.calls.setdefault(call_id, _CallFacts())
                facts.runnable_at = min(facts.runnable_at, now)
            case Branched(run_id, switch, branch):
                self.branches[run_id, switch] = branch, now
            case FirstToken(call_id):
                if call_id in self.calls:
                    self.calls[call_id].first_at = now
            case AttemptEnded(call_id) if event.outcome == "finished" and call_id in self.calls:
                facts = self.calls[call_id]
                facts.ended_at, facts.tokens = now, (max(event.prompt_tokens, 1), max(event.output_tokens, 1))
            case RunEnded(run_id, "finished"):
                self.finished[run_id] = now
        for one in assigned:
            self.assigned.append(Assigned(now, one.of, self.names.get(one.replica_id, one.replica_id)))
            facts = self.calls.setdefault(one.of, _CallFacts())
            facts.started_at = now
            facts.accelerator = self.accelerators.get(one.replica_id, "")

    # -- runs ------------------------------------------------------------------------------------

    def run(self, plan: RunPlan) -> tuple[SampledRun, Outcome] | None:
        """Return a run and what came of it, or None if it did not finish."""
        ended = self.finished.get(plan.run_id)
        plans = [plan, *self.parts.get(plan.run_id, ())]
        calls = [self.calls.get(node.key) for one in plans for node in one.nodes if self._runs(one, node)]
        if ended is None or any(call is None or call.ended_at == inf for call in calls):
            return None
        arrival = self.submitted[plan.run_id]
        bodies: dict[str, list[RunPlan]] = {}  # path of a map or loop -> plans of its bodies
        for part in plans[1:]:
            if part.nodes:
                bodies.setdefault(_owner(part), []).append(part)
        nodes = self._nodes(plan, "", arrival, bodies, ended)
        objective = plan.objective
        is_whole = objective is not None and objective.ttft_s is None
        bound = None if objective is None else objective.e2e_s if is_whole else objective.ttft_s
        run = SampledRun(
            plan.run_id, arrival, plan.workflow, plan.tenant, plan, nodes, 0.0,
            inf if bound is None else arrival + bound, is_whole,
        )  # fmt: skip
        answers = [self.calls[n.key].first_at for n in plan.nodes if n.answers and self._runs(plan, n)]
        first = max(answers, default=ended)
        outcome = Outcome(run, first if first < inf else ended, ended)
        for one in plans:
            for node in one.nodes:
                if self._runs(one, node):
                    facts = self.calls[node.key]
                    outcome.calls.append((node.name, facts.accelerator, facts.started_at, facts.ended_at))
        return run, outcome

    def _taken(self, plan: RunPlan, node: PlannedNode) -> bool:
        return all(
            self.branches.get((plan.run_id, guard.switch), (guard.branch, 0.0))[0] == guard.branch
            for guard in node.guards
        )

    def _runs(self, plan: RunPlan, node: PlannedNode) -> bool:
        return node.model is not None and self._taken(plan, node)

    def _nodes(
        self, plan: RunPlan, path: str, begin: float, bodies: Mapping[str, list[RunPlan]], ended: float
    ) -> tuple[SampledNode, ...]:
        """The nodes of a plan; `path` is how the names of its nodes begin."""
        index = {node.name: i for i, node in enumerate(plan.nodes)}
        ends: list[float] = []  # when what each node waits for, or is, was over
        made: list[SampledNode] = []
        for node in plan.nodes:
            after = tuple(index[name] for name in node.after if name in index)
            ready = max((ends[i] for i in after), default=begin)
            taken = self._taken(plan, node)
            sampled = SampledNode(node.name, node.model, after, taken, answers=node.answers)
            end = ready
            mine = bodies.get(node.name, ())
            if not taken:
                pass
            elif node.model is not None:
                facts = self.calls[node.key]
                sampled.call, sampled.seconds, end = facts.tokens, max(facts.runnable_at - ready, 0.0), facts.ended_at
            elif mine:
                started = [self.submitted[one.run_id] for one in mine]
                sampled.seconds = max(started[0] - ready, 0.0)
                made_bodies: list[Body] = []
                spans: list[float] = []
                for one, at in zip(mine, started, strict=True):
                    prefix = one.nodes[0].name.rpartition(".")[0]
                    since = spans[-1] if spans and at >= spans[-1] else at  # code between rounds is of the next
                    inner = self._nodes(one, prefix + ".", since, bodies, ended)
                    made_bodies.append(Body(one, inner))
                    spans.append(self._last_end(one, at, bodies))
                sampled.in_turn = len(mine) > 1 and all(started[i + 1] >= spans[i] for i in range(len(mine) - 1))
                sampled.bodies, end = tuple(made_bodies), max(spans)
            ends.append(end)
            made.append(sampled)
        self._decide(plan, made, ends)
        if not path and plan.nodes[-1].model is None and made and not made[-1].bodies:
            made[-1].seconds = max(ended - max(ends), 0.0)  # code that makes the result
        return tuple(made)

    def _last_end(self, plan: RunPlan, begin: float, bodies: Mapping[str, list[RunPlan]]) -> float:
        last = begin
        for node in plan.nodes:
            if self._runs(plan, node):
                last = max(last, self.calls[node.key].ended_at)
            for inner in bodies.get(node.name, ()):
                last = max(last, self._last_end(inner, begin, bodies))
        return last

    def _decide(self, plan: RunPlan, nodes: Sequence[SampledNode], ends: Sequence[float]) -> None:
        """Let the node that decided a switch say so: the last to end of those that all its branches wait for."""
        switches = dict.fromkeys(guard.switch for node in plan.nodes for guard in node.guards)
        already = {switch for switch, _ in plan.decided}
        for switch in switches:
            if switch in already or (plan.run_id, switch) not in self.branches:
                continue
            guarded = [i for i, node in enumerate(plan.nodes) if any(guard.switch == switch for guard in node.guards)]
            shared = set.intersection(*[set(nodes[i].after) for i in guarded]) - set(guarded)
            if shared:
                decider = max(shared, key=lambda i: (ends[i], i))
                nodes[decider].decides += ((switch, self.branches[plan.run_id, switch][0]),)


def _owner(part: RunPlan) -> str:
    """Path of the map or loop whose body a plan is: ``outer[1].pitches`` of ``outer[1].pitches[3].small``."""
    return part.nodes[0].name.rpartition("[")[0]


def _fleet(replicas: object) -> FleetScenario:
    """The cluster that replicas were of."""
    cards: dict[str, set[str]] = {}
    slots: dict[str, int | None] = {}
    hostings: dict[tuple[str, str], list[Replica]] = {}
    for replica in replicas:  # type: ignore[attr-defined]
        cards.setdefault(replica.accelerator, set()).add(replica.card)
        slots[replica.accelerator] = replica.card_slots
        hostings.setdefault((replica.model, replica.accelerator), []).append(replica)
    models: dict[str, ModelScenario] = {}
    for (model, accelerator), found in hostings.items():
        count = len({replica.card for replica in found})
        hosting = Hosting(slots=found[0].slots, law=_law(found[0]), replicas=count, step_tokens=_step_tokens(found[0]))
        on = models[model].on if model in models else {}
        models[model] = ModelScenario(context_tokens=found[0].context_tokens, on={**on, accelerator: hosting})
    return FleetScenario(
        cards={name: CardScenario(count=len(found), slots=slots[name]) for name, found in cards.items()},
        models=models,
        warm_start=True,
    )


def _delivery_s(fleet: FleetScenario, runs: Sequence[SampledRun], reader: _Reader) -> float:
    """Half of what the quickest tenth of calls took beyond the step-time law: the way to the engine and back."""
    beyond = []
    for run in runs:
        for planned, node in _calls_of(run.plan, run.nodes):
            facts = reader.calls[planned.key]
            hosting = fleet.models[planned.model or ""].on.get(facts.accelerator)
            if hosting is not None and node.call is not None:
                alone = alone_s(hosting.step_law, hosting.limits, (node.call,))[1]
                beyond.append(facts.ended_at - facts.started_at - alone)
    beyond.sort()
    return max(beyond[len(beyond) // 10], 0.0) / 2 if beyond else 0.0


def _calls_of(plan: RunPlan, nodes: Sequence[SampledNode]) -> Iterator[tuple[PlannedNode, SampledNode]]:
    for planned, node in zip(plan.nodes, nodes, strict=True):
        if node.call is not None:
            yield planned, node
        for body in node.bodies:
            yield from _calls_of(body.plan, body.nodes)


def _law(replica: Replica) -> LawRecord:
    if replica.profile is not None:
        return LiveProfile.from_wire(replica.profile).law
    figure = replica.latency
    return LawRecord.of(
        StepLaw(
            fixed_s=figure.output_token_s,
            prefill_fixed_s=max(figure.first_token_s - figure.output_token_s, 0.0),
            prefill=Curve((figure.prompt_token_s,)),
        )
    )


def _step_tokens(replica: Replica) -> int:
    told = LiveProfile.from_wire(replica.profile).step_tokens if replica.profile is not None else None
    return told or 2048
