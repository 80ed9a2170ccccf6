"""How runs go through their nodes: which are runnable, which are done, what came of each run.

It stands for Dask and for the clients. It knows the truth of each run (lengths, branches) and tells the machine
what a cluster would tell; it decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Literal, TypeAlias

from dask_fmware.runtime import Branched, CallRunnable, Event, RunDropped, RunEnded, RunSubmitted
from dask_fmware.simulation.agenda import Agenda
from dask_fmware.simulation.replicas import Attempt
from dask_fmware.simulation.sampled import Body, SampledNode, SampledRun

__all__ = ["Course", "Live", "Outcome"]

Users: TypeAlias = tuple[tuple[int, ...], ...]


@dataclass(slots=True)
class Outcome:
    """What came of one run."""

    run: SampledRun
    first_token_at: float = inf
    finished_at: float = inf
    calls: list[tuple[str, str, float, float]] = field(default_factory=list)  # node, accelerator, start, end
    parked: int = 0  # calls that were started although they were found too late
    is_rejected: bool = False  # as it would be late, which it asked for
    never_ended: bool = False  # it was under way when the simulation ended

    @property
    def is_broken_off(self) -> bool:
        """Whether it ended without an answer: it failed, or was rejected."""
        return self.finished_at == inf and not self.never_ended

    @property
    def met(self) -> bool:
        """Whether its answer began in time and was complete in time, as far as promised; any time, if nothing was.

        An answer that began and was broken off for good is none, as in `RunReport.met`.
        """
        if self.is_broken_off:
            return False
        at = self.finished_at if self.run.is_whole else self.first_token_at
        return at < inf and at <= self.run.deadline + 1e-9 and self.finished_at <= self.run.ends_by + 1e-9


class Live:
    """A run under way, or one of its bodies."""

    __slots__ = ("_root", "attempts", "done", "index", "is_over", "keys", "left", "nodes", "open", "outcome", "parent",
                 "plan", "run", "users")  # fmt: skip

    def __init__(self, run: SampledRun, body: Body | None, parent: Live | None, index: int, users: Users) -> None:
        self.run = run
        self.plan = run.plan if body is None else body.plan
        self.nodes = nodes = run.nodes if body is None else body.nodes
        self.parent = parent
        self.index = index  # of the map or loop in its parent
        self.users = users  # of each node's value
        self.open = [len(node.after) for node in nodes]
        self.left = len(nodes)
        self.done: dict[int, int] = {}  # map or loop -> bodies that are done
        self.is_over = False
        self._root = None if parent is None else parent.root  # no cycle, which would wait for the garbage collector
        if parent is None:
            self.outcome = Outcome(run)
            self.keys: dict[str, None] = {}  # calls that are not done, of bodies too
            self.attempts: dict[str, Attempt] = {}  # call id -> what runs, of bodies too
        else:
            self.outcome, self.keys, self.attempts = parent.outcome, parent.keys, parent.attempts

    @property
    def root(self) -> Live:
        """The run that it is, or is a body of."""
        return self if self._root is None else self._root


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
        self._users: dict[tuple[tuple[int, ...], ...], Users] = {}  # what the nodes wait for -> users of each node
        self.live: dict[Live, None] = {}  # runs under way, in order of arrival
        self.calls: dict[str, tuple[Live, SampledNode, int]] = {}  # by call id, from runnable to done

    def submit(self, run: SampledRun) -> Live:
        """A run has arrived."""
        return self._begin(run, None, None, 0)

    def call_done(self, call_id: str) -> None:
        """A call has been finished, or was on a branch that was not taken."""
        entry = self.calls.pop(call_id, None)
        if entry is None:
            return  # its run failed by what the machine was told last
        live, node, index = entry
        del live.keys[call_id]
        self._node_done(live, node, index)

    def end(self, live: Live, state: Literal["finished", "failed", "rejected"], reason: str = "") -> None:
        """A run is over."""
        if live.is_over:
            return
        live.is_over = True
        del self.live[live]
        run_id = live.run.run_id
        if state == "finished":
            live.outcome.finished_at = self._agenda.now
            if live.outcome.first_token_at == inf:
                live.outcome.first_token_at = self._agenda.now
        live.outcome.is_rejected = state == "rejected"
        self._tell(RunEnded(run_id, state, reason))
        self._tell(RunDropped(run_id))
        for call_id in live.keys:  # of a run that failed
            del self.calls[call_id]
        live.keys.clear()
        self._ended(live)

    def leave(self, *, is_stuck: bool) -> list[Outcome]:
        """Return the outcomes of the runs under way, as nothing more will happen.

        Where they are stuck, no engine has anything to do: tokens that were seen are of attempts that were lost, or of
        runs whose rest nobody serves.
        """
        left = [live.outcome for live in self.live]
        for outcome in left:
            outcome.never_ended = True
            if is_stuck:
                outcome.first_token_at = inf
        return left

    # -- nodes -----------------------------------------------------------------------------------

    def _begin(self, run: SampledRun, body: Body | None, parent: Live | None, index: int) -> Live:
        live = self._submit(run, body, parent, index)
        self._start(live)
        return live

    def _submit(self, run: SampledRun, body: Body | None, parent: Live | None, index: int) -> Live:
        nodes = run.nodes if body is None else body.nodes
        shape = tuple([node.after for node in nodes])
        users = self._users.get(shape)
        if users is None:
            users = self._users[shape] = tuple(
                tuple(i for i, after in enumerate(shape) if source in after) for source in range(len(shape))
            )
        live = Live(run, body, parent, index, users)
        if parent is None:
            self.live[live] = None
        self._tell(RunSubmitted(live.plan))
        return live

    def _start(self, live: Live) -> None:
        for index, node in enumerate(live.nodes):
            if not node.after:
                self._runnable(live, node, index)

    def _runnable(self, live: Live, node: SampledNode, index: int) -> None:
        if live.root.is_over:
            return
        if node.taken and node.seconds:
            self._agenda.at(self._agenda.now + node.seconds, self._ready, live, node, index)
        else:
            self._ready(live, node, index)

    def _ready(self, live: Live, node: SampledNode, index: int) -> None:
        if node.model is not None:
            key = live.plan.nodes[index].key
            if not live.root.is_over:
                self.calls[key] = (live, node, index)
                live.keys[key] = None
                self._tell(CallRunnable(key))
        elif not node.bodies or not node.taken:
            self._node_done(live, node, index)
        elif node.in_turn:
            live.done[index] = 0
            self._begin(live.run, node.bodies[0], live, index)
        else:
            live.done[index] = 0
            for made in [self._submit(live.run, body, live, index) for body in node.bodies]:
                self._start(made)

    def _node_done(self, live: Live, node: SampledNode, index: int) -> None:
        if live.root.is_over:
            return
        if node.taken:
            for switch, branch in node.decides:
                self._tell(Branched(live.plan.run_id, switch, branch))
        live.left -= 1
        if not live.left:  # nothing waits for the last one
            if live.parent is None:
                self.end(live, "finished")
            else:
                self._body_done(live.parent, live.index)
            return
        is_open = live.open
        for user in live.users[index]:
            is_open[user] -= 1
            if not is_open[user]:
                if self._hop_s:
                    self._agenda.at(self._agenda.now + self._hop_s, self._runnable, live, live.nodes[user], user)
                else:
                    self._runnable(live, live.nodes[user], user)

    def _body_done(self, live: Live, index: int) -> None:
        node = live.nodes[index]
        done = live.done[index] = live.done[index] + 1
        if done == len(node.bodies):
            self._node_done(live, node, index)
        elif node.in_turn and not live.root.is_over:
            self._begin(live.run, node.bodies[done], live, index)
