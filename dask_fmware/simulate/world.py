"""A cluster in virtual time: emulated engines and sampled runs around the runtime machine and a policy.

It stands for Dask (which nodes are runnable or done), for the workers (which attempts are on which engine)
and for the clients, and does what the machine says, as the scheduler plugin does. It decides nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf

from dask_fmware.model.plan import PlannedNode, RunPlan
from dask_fmware.model.replica import Replica
from dask_fmware.policy import Policy, create_policy
from dask_fmware.profile.emulation import FIRST, EmulatedBatch
from dask_fmware.runtime import (
    Action,
    Assign,
    AttemptEnded,
    Branched,
    CallRunnable,
    Event,
    Fail,
    FirstToken,
    Machine,
    ModelLimits,
    Refuse,
    ReplicaGone,
    ReplicaReady,
    RunDropped,
    RunEnded,
    RunSubmitted,
    Skip,
    Tick,
)
from dask_fmware.simulate.arrivals import Arrival
from dask_fmware.simulate.scenario import Hosting, Scenario
from dask_fmware.simulate.workload import SampledNode, SampledRun, Workload

__all__ = ["Outcome", "World"]


@dataclass(slots=True)
class Outcome:
    """What came of one run."""

    run: SampledRun
    first_token_at: float = inf
    finished_at: float = inf
    calls: list[tuple[str, str, float, float]] = field(default_factory=list)  # node, accelerator, start, end

    @property
    def met(self) -> bool:
        """Whether its answer began in time."""
        return self.first_token_at <= self.run.deadline + 1e-9


class _Engine:
    """One replica: its batch and when that has something to say next."""

    __slots__ = ("batch", "card", "hosting", "replica", "up", "wakes_at")

    def __init__(self, replica: Replica, hosting: Hosting, card: list[_Engine]) -> None:
        self.replica = replica
        self.hosting = hosting
        self.card = card  # all engines on its card
        self.batch = EmulatedBatch(hosting.step_law, hosting.limits)
        self.wakes_at = inf
        self.up = False


class _Live:
    """A run under way."""

    __slots__ = ("done", "left", "open", "outcome", "run", "users")

    def __init__(self, run: SampledRun, users: tuple[tuple[int, ...], ...]) -> None:
        self.run = run
        self.outcome = Outcome(run)
        self.users = users  # of each node's value
        self.open = [len(node.after) for node in run.nodes]
        self.left = len(run.nodes)
        self.done: dict[int, int] = {}  # map or loop -> calls of its bodies that are done


class _Attempt:
    """A call on an engine."""

    __slots__ = ("attempt", "call_id", "engine", "started")

    def __init__(self, call_id: str, attempt: int, engine: _Engine, started: float) -> None:
        self.call_id, self.attempt, self.engine, self.started = call_id, attempt, engine, started


class World:
    """One simulation.

    Parameters
    ----------
    scenario
        Cards, models, workflows.
    policy
        A name, or a policy.
    runs
        What arrives, from a `Workload` of the scenario.
    seed
        Of the policy's draws.
    watch
        Called with each event, its time and the machine's actions.
    """

    def __init__(
        self,
        scenario: Scenario,
        policy: str | Policy,
        runs: Iterable[SampledRun],
        seed: int = 0,
        watch: Callable[[Event, float, list[Action]], None] | None = None,
    ) -> None:
        self.scenario = scenario
        self.now = 0.0
        self.outcomes: list[Outcome] = []
        self.calls = 0
        self._watch = watch
        made = create_policy(policy, random.Random(f"draws {seed}").random) if isinstance(policy, str) else policy
        laws = {
            (model, accelerator): hosting.step_law
            for model, spec in scenario.models.items()
            for accelerator, hosting in spec.on.items()
        }
        self.machine = Machine(
            made,
            models={model: ModelLimits(spec.context_tokens, 1) for model, spec in scenario.models.items()},
            max_held=1 << 60,
            keep_runs=0,
            laws=laws,
        )
        self._arriving = iter(runs)
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._ties = 0
        self._ticks_at = inf
        self._live: dict[str, _Live] = {}
        self._calls: dict[str, tuple[_Live, int, int]] = {}  # call id -> run, node, which of the node's calls
        self._attempts: dict[str, _Attempt] = {}  # name of a sequence -> what it is
        self._users: dict[str, tuple[tuple[int, ...], ...]] = {}
        self._engines: dict[str, _Engine] = {}
        self._start_cards()
        self._learn()

    # -- the loop --------------------------------------------------------------------------------

    def play(self) -> list[Outcome]:
        """Play until all runs have ended; return them in order of arrival."""
        self._next_arrival()
        heap = self._heap
        while heap:
            self.now, _, do, arguments = heappop(heap)
            do(*arguments)
        return self.outcomes

    def _at(self, when: float, do: Callable[..., None], *arguments: object) -> None:
        self._ties += 1
        heappush(self._heap, (when, self._ties, do, arguments))

    def _tick(self, due: float) -> None:
        if due == self._ticks_at:
            self._ticks_at = inf
            self._tell(Tick())

    def _tell(self, event: Event) -> None:
        actions = self.machine.handle(event, self.now)
        wake_at = self.machine.wake_at
        if wake_at is not None and wake_at < self._ticks_at:
            self._ticks_at = wake_at
            self._at(wake_at, self._tick, wake_at)
        if self._watch is not None:
            self._watch(event, self.now, actions)
        for action in actions:
            if isinstance(action, Assign):
                self._assign(action)
            elif isinstance(action, Skip):
                live, node, _ = self._calls.pop(action.call_id)
                self._node_done(live, node)
            elif isinstance(action, Fail):
                self._end(self._calls[action.call_id][0], "failed", action.reason)
            elif isinstance(action, Refuse):
                raise action.error

    # -- runs ------------------------------------------------------------------------------------

    def _next_arrival(self) -> None:
        run = next(self._arriving, None)
        if run is not None:
            self._at(run.arrival, self._arrive, run)

    def _arrive(self, run: SampledRun) -> None:
        self._next_arrival()
        users = self._users.get(run.workflow)
        if users is None:
            users = tuple(
                tuple(i for i, node in enumerate(run.nodes) if source in node.after) for source in range(len(run.nodes))
            )
            self._users[run.workflow] = users
        live = self._live[run.run_id] = _Live(run, users)
        self.outcomes.append(live.outcome)
        self._tell(RunSubmitted(run.plan))
        for index, node in enumerate(run.nodes):
            if not node.after:
                self._runnable(live, index)

    def _runnable(self, live: _Live, index: int) -> None:
        node, planned = live.run.nodes[index], live.run.plan.nodes[index]
        if planned.model is not None:
            self._calls[planned.key] = (live, index, 0)
            self._tell(CallRunnable(planned.key))
        elif not node.taken:
            self._node_done(live, index)
        elif node.calls:
            live.done[index] = 0
            for number in range(1 if node.in_turn else len(node.calls)):
                self._body(live, index, number)
            if not node.in_turn:
                for number in range(len(node.calls)):
                    self._tell(CallRunnable(f"{planned.key}[{number}]"))
        else:
            self._at(self.now + node.seconds, self._node_done, live, index)

    def _body(self, live: _Live, index: int, number: int) -> None:
        """Submit a body of a map or loop."""
        node, planned = live.run.nodes[index], live.run.plan.nodes[index]
        key = f"{planned.key}[{number}]"
        self._calls[key] = (live, index, number)
        call = PlannedNode(f"{node.name}[{number}]", key, model=node.model, max_tokens=planned.max_tokens)
        self._tell(RunSubmitted(RunPlan(key, live.run.workflow, (call,), key, part_of=live.run.run_id)))
        if node.in_turn:
            self._tell(CallRunnable(key))

    def _call_done(self, live: _Live, index: int, number: int) -> None:
        node = live.run.nodes[index]
        if live.run.plan.nodes[index].model is not None:
            self._node_done(live, index)
            return
        live.done[index] += 1
        if live.done[index] == len(node.calls):
            self._node_done(live, index)
        elif node.in_turn:
            self._body(live, index, number + 1)

    def _node_done(self, live: _Live, index: int) -> None:
        node = live.run.nodes[index]
        if node.decides is not None and node.taken:
            self._tell(Branched(live.run.run_id, node.name, node.decides))
        live.left -= 1
        for user in live.users[index]:
            live.open[user] -= 1
            if not live.open[user]:
                if self.scenario.hop_s:
                    self._at(self.now + self.scenario.hop_s, self._runnable, live, user)
                else:
                    self._runnable(live, user)
        if not live.left:
            self._end(live, "finished")

    def _end(self, live: _Live, state: str, reason: str = "") -> None:
        if self._live.pop(live.run.run_id, None) is None:
            return
        if state == "finished":
            live.outcome.finished_at = self.now
            if live.outcome.first_token_at == inf:
                live.outcome.first_token_at = self.now
        self._tell(RunEnded(live.run.run_id, state, reason))  # type: ignore[arg-type]
        self._tell(RunDropped(live.run.run_id))

    # -- engines ---------------------------------------------------------------------------------

    def _start_cards(self) -> None:
        cards: dict[str, list[_Engine]] = {}
        for replica, hosting in self.scenario.replicas():
            engine = _Engine(replica, hosting, cards.setdefault(replica.card, []))
            engine.card.append(engine)
            self._engines[replica.replica_id] = engine
            if hosting.load_s:
                self._at(hosting.load_s, self._ready, engine)
            else:
                self._ready(engine)
        for failure in self.scenario.failures:
            self._at(failure.at_s, self._lose, cards[failure.card], failure.down_s)

    def _ready(self, engine: _Engine) -> None:
        engine.up = True
        engine.batch = EmulatedBatch(engine.hosting.step_law, engine.hosting.limits)
        self._tell(ReplicaReady(engine.replica))

    def _lose(self, card: list[_Engine], down_s: float | None) -> None:
        for engine in card:
            engine.up, engine.wakes_at = False, inf
            engine.batch = EmulatedBatch(engine.hosting.step_law, engine.hosting.limits)
            lost = [name for name, attempt in self._attempts.items() if attempt.engine is engine]
            calls = [self._attempts.pop(name).call_id for name in lost]
            self._tell(ReplicaGone(engine.replica.replica_id))
            for call_id in calls:
                self._tell(CallRunnable(call_id))
            if down_s is not None:
                self._at(self.now + down_s, self._ready, engine)

    def _assign(self, action: Assign) -> None:
        live, index, number = self._calls[action.call_id]
        engine = self._engines[action.replica_id]
        self.calls += 1
        name = f"{action.call_id}#{action.attempt}"
        self._attempts[name] = _Attempt(action.call_id, action.attempt, engine, self.now)
        prompt, output = live.run.nodes[index].calls[number]
        idle = engine.batch.idle
        engine.batch.add(self.now, name, prompt, output, 0, action.priority)
        if idle and len(engine.card) > 1:
            self._share(engine)
        self._wake(engine)

    def _share(self, engine: _Engine) -> None:
        """Engines of one card that are busy share its speed."""
        busy = [other for other in engine.card if not other.batch.idle]
        for other in busy:
            other.batch.set_speed(self.now, 1.0 / len(busy))
            self._wake(other)

    def _wake(self, engine: _Engine) -> None:
        at = engine.batch.next_event_at
        if at != engine.wakes_at:
            engine.wakes_at = at
            if at < inf:
                self._at(at, self._advance, engine, at)

    def _advance(self, engine: _Engine, due: float) -> None:
        if due != engine.wakes_at:
            return  # something came in between
        outputs = engine.batch.advance(self.now)
        self._wake(engine)
        if engine.batch.idle and len(engine.card) > 1:
            self._share(engine)
        for output in outputs:
            attempt = self._attempts.get(output.sequence_id)
            if attempt is None:
                continue  # lost meanwhile
            live, index, number = self._calls[attempt.call_id]
            if output.kind == FIRST:
                node = live.run.nodes[index]
                if node.answers:  # only answers report it
                    live.outcome.first_token_at = self.now
                    self._tell(FirstToken(attempt.call_id, attempt.attempt, self.now - attempt.started))
                continue
            del self._attempts[output.sequence_id], self._calls[attempt.call_id]
            prompt, tokens = live.run.nodes[index].calls[number]
            live.outcome.calls.append(
                (live.run.nodes[index].name, engine.replica.accelerator, attempt.started, self.now)
            )
            self._tell(AttemptEnded(attempt.call_id, attempt.attempt, "finished", prompt, tokens))
            self._call_done(live, index, number)

    # -- what the runtime knows at the start -----------------------------------------------------

    def _learn(self) -> None:
        """Let the machine know finished calls of each node, as a profile or the past would."""
        for run in _past(self.scenario):
            self._learn_run(run)
        self.machine.knowledge.refresh()

    def _learn_run(self, run: SampledRun) -> None:
        knowledge = self.machine.knowledge
        for node, planned in zip(run.nodes, run.plan.nodes, strict=True):
            if not node.taken:
                continue
            if node.decides is not None:
                knowledge.observe_branch(run.workflow, node.name, node.decides)
            if planned.model is None and node.calls:
                body = PlannedNode(f"{node.name}[0]", "", model=node.model, max_tokens=planned.max_tokens)
                knowledge.observe_body(run.workflow, node.name, (body,))
                knowledge.observe_rounds(run.workflow, node.name, len(node.calls) if node.in_turn else 1)
            for prompt, output in node.calls:
                knowledge.observe_call(run.workflow, node.name, prompt, output)
            if planned.model is not None:
                knowledge.observe_pause(run.workflow, node.name, _pause_s(run.nodes, node))


_PAST: list[tuple[Scenario, list[SampledRun]]] = []  # the latest, since the seeds of a sweep share it


def _past(scenario: Scenario) -> list[SampledRun]:
    """Runs before the simulation, alike for all seeds, arrivals and policies."""
    for known, runs in _PAST:
        if (known.workflows, known.cards, known.models) == (scenario.workflows, scenario.cards, scenario.models) and (
            known.history,
            known.lengths,
        ) == (scenario.history, scenario.lengths):
            return runs
    past = Workload(scenario, -1)
    runs = [past.run(name, f"past{n}", Arrival(0.0)) for n in range(scenario.history) for name in scenario.workflows]
    _PAST.insert(0, (scenario, runs))
    del _PAST[4:]
    return runs


def _pause_s(nodes: tuple[SampledNode, ...], node: SampledNode) -> float:
    """Longest chain of plain code right before a node."""
    return max((
        nodes[i].seconds + _pause_s(nodes, nodes[i]) for i in node.after if not nodes[i].calls and nodes[i].taken
    ), default=0.0)  # fmt: skip
