"""How runs go through their nodes: which are runnable, which are done, what came of each run.

It stands for Dask and for the clients. It knows the truth of each run (lengths, branches) and tells the machine
what a cluster would tell; it decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from dask_fmware.model.plan import PlannedNode, RunPlan
from dask_fmware.runtime import Branched, CallRunnable, Event, RunDropped, RunEnded, RunSubmitted
from dask_fmware.simulate.agenda import Agenda
from dask_fmware.simulate.engines import Attempt
from dask_fmware.simulate.workload import SampledRun

__all__ = ["Course", "Live", "Outcome"]


@dataclass(slots=True)
class Outcome:
    """What came of one run."""

    run: SampledRun
    first_token_at: float = inf
    finished_at: float = inf
    calls: list[tuple[str, str, float, float]] = field(default_factory=list)  # node, accelerator, start, end
    parked: int = 0  # calls that were started although they were found too late

    @property
    def met(self) -> bool:
        """Whether its answer began in time."""
        return self.first_token_at <= self.run.deadline + 1e-9


class Live:
    """A run under way."""

    __slots__ = ("attempts", "done", "left", "open", "outcome", "run", "users")

    def __init__(self, run: SampledRun, users: tuple[tuple[int, ...], ...]) -> None:
        self.run = run
        self.outcome = Outcome(run)
        self.users = users  # of each node's value
        self.open = [len(node.after) for node in run.nodes]
        self.left = len(run.nodes)
        self.done: dict[int, int] = {}  # map or loop -> calls of its bodies that are done
        self.attempts: dict[str, Attempt] = {}  # call id -> what runs


class Course:
    """The runs under way.

    Parameters
    ----------
    agenda
        The clock.
    tell
        Takes events for the machine.
    ended
        Told of each run that has ended.
    hop_s
        Between a node's end and the start of the next one.
    """

    def __init__(
        self, agenda: Agenda, tell: Callable[[Event], None], ended: Callable[[Live], None], hop_s: float
    ) -> None:
        self._agenda = agenda
        self._tell = tell
        self._ended = ended
        self._hop_s = hop_s
        self._users: dict[str, tuple[tuple[int, ...], ...]] = {}  # workflow -> users of each node
        self.live: dict[str, Live] = {}
        self.calls: dict[str, tuple[Live, int, int]] = {}  # call id -> run, node, which of the node's calls

    def submit(self, run: SampledRun) -> Live:
        """A run has arrived."""
        users = self._users.get(run.workflow)
        if users is None:
            users = self._users[run.workflow] = tuple(
                tuple(i for i, node in enumerate(run.nodes) if source in node.after) for source in range(len(run.nodes))
            )
        live = self.live[run.run_id] = Live(run, users)
        self._tell(RunSubmitted(run.plan))
        for index, node in enumerate(run.nodes):
            if not node.after:
                self._runnable(live, index)
        return live

    def call_done(self, call_id: str) -> None:
        """A call has been finished."""
        entry = self.calls.pop(call_id, None)
        if entry is None:
            return  # its run failed by what the machine was told last
        live, index, _ = entry
        node = live.run.nodes[index]
        if live.run.plan.nodes[index].model is not None:
            self._node_done(live, index)
            return
        done = live.done[index] = live.done[index] + 1
        if done == len(node.calls):
            self._node_done(live, index)
        elif node.in_turn:
            self._body(live, index, done)

    def skipped(self, call_id: str) -> None:
        """A call was on a branch that was not taken."""
        entry = self.calls.pop(call_id, None)
        if entry is not None:
            self._node_done(entry[0], entry[1])

    def end(self, live: Live, state: Literal["finished", "failed"], reason: str = "") -> None:
        """A run is over."""
        run = live.run
        if self.live.pop(run.run_id, None) is None:
            return
        if state == "finished":
            live.outcome.finished_at = self._agenda.now
            if live.outcome.first_token_at == inf:
                live.outcome.first_token_at = self._agenda.now
        self._tell(RunEnded(run.run_id, state, reason))
        self._tell(RunDropped(run.run_id))
        if state != "finished":
            for node, planned in zip(run.nodes, run.plan.nodes, strict=True):
                self.calls.pop(planned.key, None)
                for number in range(len(node.calls) if planned.model is None else 0):
                    self.calls.pop(f"{planned.key}[{number}]", None)
        self._ended(live)

    # -- nodes -----------------------------------------------------------------------------------

    def _runnable(self, live: Live, index: int) -> None:
        if live.run.run_id not in self.live:
            return  # it failed meanwhile
        node, planned = live.run.nodes[index], live.run.plan.nodes[index]
        if planned.model is not None:
            self.calls[planned.key] = (live, index, 0)
            self._tell(CallRunnable(planned.key))
        elif not node.taken:
            self._node_done(live, index)
        elif node.calls:
            live.done[index] = 0
            if node.in_turn:
                self._body(live, index, 0)
                return
            for number in range(len(node.calls)):
                self._body_submitted(live, index, number)
            for number in range(len(node.calls)):
                self._tell(CallRunnable(f"{planned.key}[{number}]"))
        elif node.seconds:
            self._agenda.at(self._agenda.now + node.seconds, self._node_done, live, index)
        else:
            self._node_done(live, index)

    def _body(self, live: Live, index: int, number: int) -> None:
        self._body_submitted(live, index, number)
        self._tell(CallRunnable(f"{live.run.plan.nodes[index].key}[{number}]"))

    def _body_submitted(self, live: Live, index: int, number: int) -> None:
        """Submit a body of a map or loop."""
        node, planned = live.run.nodes[index], live.run.plan.nodes[index]
        key = f"{planned.key}[{number}]"
        self.calls[key] = (live, index, number)
        call = PlannedNode(f"{node.name}[{number}]", key, model=node.model, max_tokens=planned.max_tokens)
        self._tell(RunSubmitted(RunPlan(key, live.run.workflow, (call,), key, part_of=live.run.run_id)))

    def _node_done(self, live: Live, index: int) -> None:
        run = live.run
        if run.run_id not in self.live:
            return
        node = run.nodes[index]
        if node.decides is not None and node.taken:
            self._tell(Branched(run.run_id, node.name, node.decides))
        live.left -= 1
        for user in live.users[index]:
            live.open[user] -= 1
            if not live.open[user]:
                if self._hop_s:
                    self._agenda.at(self._agenda.now + self._hop_s, self._runnable, live, user)
                else:
                    self._runnable(live, user)
        if not live.left:
            self.end(live, "finished")
