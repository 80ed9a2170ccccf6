"""What is asked of each model, learnt by watching the machine: arrivals, calls of a run, lengths, runs that were late.

It watches and counts; what follows from it for the replicas is `dask_fmware.provisioning`'s business.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from itertools import islice
from math import inf, prod

from dask_fmware.errors import CapacityError
from dask_fmware.model.plan import PlannedNode, RunPlan
from dask_fmware.provisioning.forecast import ArrivalRate
from dask_fmware.provisioning.usual import UsualLengths
from dask_fmware.provisioning.views import ModelLoad, NodeDemand, WorkflowDemand
from dask_fmware.runtime.actions import Action, Assign, Refuse
from dask_fmware.runtime.events import (
    AttemptEnded,
    CallRunnable,
    Event,
    ReplicaGone,
    RunDropped,
    RunEnded,
    RunSubmitted,
)
from dask_fmware.runtime.learning.histories import plain_name
from dask_fmware.runtime.learning.knowledge import base_name
from dask_fmware.runtime.machine import Machine
from dask_fmware.runtime.runs.records import RunRecord

__all__ = ["Demand"]

WINDOW_S = 60  # of the runs that are judged
PRIOR_RUNS = 5.0  # what the plan says of a node weighs as much as so many runs
PRIOR_CALLS = 20.0  # what is known of lengths beforehand weighs as much as so many calls
MOST_RUNS = 300.0  # after which half of what was counted is forgotten
LOOKED_AT = 500  # calls under way that are looked at for exhausted slack
UNKNOWN = 1 << 30
MOST_WORKFLOWS = 1000


class _Flow:
    """One workflow."""

    __slots__ = ("bodies", "calls", "end_s", "lengths", "nodes", "rate", "rounds", "runs", "slo_s", "to_end")

    def __init__(self) -> None:
        self.rate = ArrivalRate()
        self.nodes: tuple[PlannedNode, ...] = ()
        self.slo_s = inf
        self.end_s = inf  # of the end, beside one of the first token
        self.to_end = False  # the objective is about the end and not the first token
        self.runs = 0.0
        self.calls: Counter[str] = Counter()  # node, or node of a body -> calls
        self.lengths: dict[str, UsualLengths] = {}  # the same
        self.bodies: dict[str, tuple[str, str]] = {}  # node of a body -> map or loop, model
        self.rounds: dict[str, float] = {}  # map or loop, also one within another -> bodies one after the other

    def ended(self, run: RunRecord, now: float) -> None:
        self.runs += 1
        for call in {call.node: call for call in run.report.calls}.values():  # of bodies that ran again the latest
            if call.state != "skipped":
                name = plain_name(call.node)
                self.calls[name] += 1
                if (last := call.last) is not None and last.prompt_tokens:
                    self.lengths.setdefault(name, UsualLengths()).observe(now, last.prompt_tokens, last.output_tokens)
                if "[" in call.node:
                    self.bodies[name] = (base_name(call.node), call.model)
        for owner, rounds in run.rounds.items():
            name = plain_name(owner)
            known = self.rounds.get(name, rounds)
            self.rounds[name] = known + 0.1 * (rounds - known)
        if self.runs > MOST_RUNS:
            self.runs /= 2
            for name in self.calls:
                self.calls[name] /= 2  # type: ignore[assignment]

    def in_turn(self, name: str) -> float:
        """How many calls of a node run one after the other, as the maps and loops around it do with their bodies."""
        parts = name.split(".")
        return prod([self.rounds.get(".".join(parts[:count]), 1.0) for count in range(1, len(parts))])


class Demand:
    """An observer of a machine.

    Parameters
    ----------
    machine
        Whose runs and replicas are looked up; add the observer to its `observers`.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._flows: dict[str, _Flow] = {}
        self._judged: deque[tuple[int, Counter[str], Counter[str]]] = deque()  # second, ended, missed by model
        self._ended: dict[str, int] = {}  # runs that somebody holds and whose end was counted -> retries before it
        self._last_call: dict[str, float] = {}
        self._busy: dict[str, float] = {}  # replica -> when it was last given a call or seen with one

    def observe(self, event: Event, actions: Sequence[Action], now: float) -> None:
        """Take note of an event."""
        match event:
            case RunSubmitted():
                if event.plan.part_of is None and all(map(_is_asked, actions)):
                    self._submitted(event.plan, now)
            case CallRunnable() | AttemptEnded():
                call = self._machine.runs.calls.get(event.call_id)
                if call is not None:
                    self._last_call[call.report.model] = now
            case RunEnded():
                run = self._machine.runs.get(event.run_id)
                if run is not None and run.plan.run_id == event.run_id:
                    self._run_ended(run, now)
            case RunDropped():
                self._ended.pop(event.run_id, None)
            case ReplicaGone():
                self.forget(event.replica_id)
            case _:
                pass
        for action in actions:
            if isinstance(action, Assign):
                self._busy[action.replica_id] = now

    # -- what is learnt --------------------------------------------------------------------------

    def _submitted(self, plan: RunPlan, now: float) -> None:
        flow = self._flows.get(plan.workflow)
        if flow is None:
            if len(self._flows) >= MOST_WORKFLOWS:
                del self._flows[next(iter(self._flows))]
            flow = self._flows[plan.workflow] = _Flow()
        flow.rate.observe(now)
        flow.nodes = plan.nodes
        if (objective := plan.objective) is not None:
            bounds = [b for b in (objective.ttft_s, objective.e2e_s) if b is not None]
            flow.slo_s = min(bounds, default=inf)
            flow.to_end = objective.ttft_s is None
            flow.end_s = inf if flow.to_end or objective.e2e_s is None else objective.e2e_s

    def _run_ended(self, run: RunRecord, now: float) -> None:
        flow, retries = self._flows.get(run.plan.workflow), len(run.report.failures)
        if flow is None or run.report.state == "refused" or self._ended.get(run.plan.run_id) == retries:
            return  # where its result is lost and made again, Dask tells its end again
        self._ended[run.plan.run_id] = retries
        if run.report.state == "finished":
            flow.ended(run, now)
        met = run.report.met
        if met is None or (run.deadline is not None and now - run.deadline > WINDOW_S):
            return  # what was lost long ago says nothing of the replicas of this minute
        second = int(now)
        if not self._judged or self._judged[-1][0] != second:
            self._judged.append((second, Counter(), Counter()))
            self._forget_judged(now)
        models = {call.model for call in run.report.calls if call.state != "skipped"}
        self._judged[-1][1].update(models)
        if not met:
            self._judged[-1][2].update(models)

    def _forget_judged(self, now: float) -> None:
        while self._judged and self._judged[0][0] < now - WINDOW_S:
            self._judged.popleft()

    # -- what is said ----------------------------------------------------------------------------

    def workflows(self, now: float) -> tuple[WorkflowDemand, ...]:
        """Return what every workflow asks for."""
        return tuple(
            WorkflowDemand(
                name, self._nodes(name, flow), flow.rate.now(now), flow.slo_s, flow.rate.trend(now),
                flow.rate.burstiness(now), flow.end_s,
            )
            for name, flow in self._flows.items()
        )  # fmt: skip

    def models(self, now: float) -> dict[str, ModelLoad]:
        """Return what is going on at every model."""
        machine = self._machine
        self._forget_judged(now)
        ended: Counter[str] = Counter()
        missed: Counter[str] = Counter()
        for _, some, late in self._judged:
            ended.update(some)
            missed.update(late)
        running: Counter[str] = Counter()
        waiting: Counter[str] = Counter()
        for state in machine.fleet:
            running[state.replica.model] += len(state.running)
            waiting[state.replica.model] += state.waiting
        exhausted = self._exhausted(now)
        return {
            model: ModelLoad(
                machine.dispatcher.held(model) + waiting[model],
                running[model],
                ended[model],
                missed[model],
                exhausted[model],
                self._last_call.get(model, -inf),
            )
            for model in sorted({*machine.models, *running, *self._last_call})
        }

    def idle_since(self, replica_id: str, running: int, since: float, now: float) -> float | None:
        """Since when a replica has had no calls; None while it has some. `since` is when it became ready."""
        if running:
            self._busy[replica_id] = now
            return None
        return max(self._busy.get(replica_id, since), since)

    def forget(self, replica_id: str) -> None:
        """A replica is gone."""
        self._busy.pop(replica_id, None)

    def _exhausted(self, now: float) -> Counter[str]:
        """Calls that wait although they should have started, by model; of the first that are under way."""
        found: Counter[str] = Counter()
        for call in islice(self._machine.runs.calls.values(), LOOKED_AT):
            if call.report.state in ("held", "queued"):
                view = self._machine.view(call)
                if view.deadline is not None and now + view.own_s + view.after_s > view.deadline:
                    found[call.report.model] += 1
        return found

    def _nodes(self, workflow: str, flow: _Flow) -> tuple[NodeDemand, ...]:
        nodes = []
        branches = {guard.switch: 2 for node in flow.nodes for guard in node.guards}
        for node in flow.nodes:
            for guard in node.guards:
                branches[guard.switch] = max(branches[guard.switch], guard.branch + 1)
        for node in flow.nodes:
            odds = 1.0
            for guard in node.guards:
                odds /= branches[guard.switch]
            if node.model is not None:
                nodes.append(self._node(workflow, flow, node.name, node.model, node, odds))
                continue
            parts = [name for name, (base, _) in flow.bodies.items() if base == node.name]
            for name in parts:
                nodes.append(self._node(workflow, flow, name, flow.bodies[name][1], node, 0.0))
            nodes.append(NodeDemand(node.name, None, after=(*node.after, *parts)))
        return tuple(nodes)

    def _node(self, workflow: str, flow: _Flow, name: str, model: str, node: PlannedNode, odds: float) -> NodeDemand:
        knowledge = self._machine.knowledge
        prompt, output = self._lengths(workflow, flow, name, node)
        calls = (flow.calls[name] + PRIOR_RUNS * odds) / (flow.runs + PRIOR_RUNS)
        return NodeDemand(
            name,
            model,
            node.after,
            calls,
            flow.in_turn(name),
            prompt,
            output,
            knowledge.pause_s(workflow, node.name),
            node.answers and not flow.to_end,
        )

    def _lengths(self, workflow: str, flow: _Flow, name: str, node: PlannedNode) -> tuple[float, float]:
        """Prompt and output tokens of a call: those of late, with what was known before while they are few."""
        history = self._machine.knowledge.nodes.of(workflow, name)
        prompt = history.prompt.within(UNKNOWN)
        prompt = prompt if prompt < UNKNOWN else max(node.prompt_bytes / 4, 1.0)
        output = history.output.within(max(node.max_tokens, 1))
        if (usual := flow.lengths.get(name)) is None:
            return prompt, output
        calls, mean_prompt, mean_output = usual.means()
        before = PRIOR_CALLS / (calls + PRIOR_CALLS)
        return mean_prompt + before * (prompt - mean_prompt), mean_output + before * (output - mean_output)


def _is_asked(action: Action) -> bool:
    """Whether a run is asked of the replicas: one for which there was no room is, one that none can serve is not."""
    return not isinstance(action, Refuse) or isinstance(action.error, CapacityError)
