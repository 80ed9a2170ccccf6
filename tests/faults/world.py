"""A simulation in which things go wrong, watched by the contract."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import product
from math import inf

from dask_fmware.profile.emulation import LAST
from dask_fmware.runtime import (
    Action,
    Assign,
    AttemptEnded,
    Branched,
    CallRunnable,
    CallWithdrawn,
    Event,
    FirstToken,
    Overdue,
    ReplicaGone,
    RunDropped,
    RunEnded,
    StepsTimed,
)
from dask_fmware.runtime.contract import Contract
from dask_fmware.runtime.replicas.slots import Stay
from dask_fmware.simulation.course import Live, Outcome
from dask_fmware.simulation.replicas import Attempt, VirtualReplica
from dask_fmware.simulation.scenario import Scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World
from tests.faults.drawing import Fault, draw_faults, draw_scenario
from tests.faults.replicas import ReplicaFaults

__all__ = ["FaultyWorld"]

MAX_ATTEMPTS = 3
STALL_S = 10.0  # after which a worker gives an attempt up that has no token
OVER_S = 4000.0  # by which every run has long ended
MANY = 10_000  # events; a machine that turns in circles stops here
REPEATED = (
    AttemptEnded,
    FirstToken,
    Overdue,
    Branched,
    ReplicaGone,
    RunEnded,
    RunDropped,
    StepsTimed,
)  # told twice at times


class FaultyWorld(World):
    """Plays the faults of a seed, or those that are given.

    It knows what is on which engine by itself, so that the machine cannot give an engine more than it takes.
    """

    def __init__(
        self,
        seed: int,
        policy: str,
        scenario: Scenario | None = None,
        faults: Sequence[Fault] | None = None,
        poison: float | None = None,
        stuck: float | None = None,
        hedge_budget: float = 1.0,
    ) -> None:
        self.breaches: list[str] = []
        self.injected: Counter[str] = Counter()
        self.told: list[tuple[Event, float, list[str]]] = []
        self._ends: Counter[str] = Counter()
        self.met = 0  # runs that were in time
        self.unserved: set[str] = set()  # runs that ended without a result
        self._draws = random.Random(f"play {seed}")
        self._twice = self._draws.choice((0.0, 0.1, 0.5))  # share of messages
        drawn = self._draws.choice((0.0, 0.0, 0.05))
        self._poison = drawn if poison is None else poison  # share of calls
        self.is_poison: dict[str, bool] = {}
        self._stuck = random.Random(f"stuck {seed}")
        drawn = self._stuck.choice((0.0, 0.0, 0.1, 0.5))
        self._stuck_share = drawn if stuck is None else stuck  # of attempts
        self._lose = self._undeliver = 0
        self.contract = Contract(
            MAX_ATTEMPTS,
            report=lambda run_id: self.machine.report(run_id),
            wake_at=lambda: self.machine.wake_at,
        )
        self._unheard: dict[str, list[tuple[Attempt, int]]] = {}  # of replicas that are cut off
        scenario = draw_scenario(seed) if scenario is None else scenario
        super().__init__(scenario, policy, (), seed, self._take_down, ended=self._take_end, hedge_budget=hedge_budget)
        self._replicas = ReplicaFaults(scenario, self._agenda, self.fleet)
        self._heard, self.engines.say = self.engines.say, self._say  # type: ignore[method-assign]
        if self._draws.random() < 0.5:
            self._foretell_ends()
        runs = list(Workload(scenario, seed).runs())
        self.expected = [run.run_id for run in runs]
        self._arriving = iter(runs)
        for fault in draw_faults(seed) if faults is None else faults:
            self._agenda.at(fault.at_s, self._befall, fault)
        self._replicas.keep()

    def _foretell_ends(self) -> None:
        """Let the machine take ends for known, so that it binds ahead; it is wrong about most of them."""
        for workflow, spec in self.scenario.workflows.items():
            for node, model, accelerator in product(spec.nodes, self.scenario.models, self.scenario.cards):
                stay = Stay(1.0, kind=(model, accelerator, workflow, node))
                stay.began_at = 0.0
                for _ in range(50):
                    self.machine.fleet.ahead.ended(stay, latency_s=1.0, waited_s=0.0, now=1.2)

    def run(self) -> list[str]:
        """Play to the end and return all that was wrong."""
        self.play(OVER_S)
        for attempt in [attempt for replica in self.fleet for attempt in replica.attempts]:
            if not self._is_current(attempt):
                self._let_go(attempt)  # its abort was under way
        machine = self.machine
        found = [*self.breaches, *map(str, self.contract.finish())]
        found += [
            f"run '{run_id}' ended {self._ends[run_id]} times" for run_id in self.expected if self._ends[run_id] != 1
        ]
        if machine.runs.calls or machine.held or machine.waiting.models:
            found.append(f"left over: calls {list(machine.runs.calls)}, {machine.held} held")
        for state in machine.fleet:
            if state.running or state.waiting or state.context_tokens or state.card.running or state.card.waiting:
                found.append(
                    f"left over on '{state.replica.replica_id}': {list(state.running)}, {state.waiting} waiting"
                )
        return found

    # -- what is watched -------------------------------------------------------------------------

    def _take_down(self, event: Event, now: float, actions: Sequence[Action]) -> None:
        self.contract.observe(event, actions, now)
        self.told.append((event, now, [str(action) for action in actions]))
        if len(self.told) > MANY:
            raise AssertionError(f"{MANY} events and no end; the last: {event} -> {actions}")
        self.breaches += [f"{action} has no reason" for action in actions if not action.reason]

    def _take_end(self, outcome: Outcome) -> None:
        self._ends[outcome.run.run_id] += not outcome.never_ended
        self.met += outcome.met
        if outcome.finished_at == inf:
            self.unserved.add(outcome.run.run_id)

    # -- messages --------------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        super()._tell(event)
        if isinstance(event, REPEATED) and self._draws.random() < self._twice:
            self.injected["message told twice"] += 1
            super()._tell(event)

    def _assign(self, action: Assign) -> None:
        if self._undeliver and action.call_id in self._course.calls:
            self._undeliver -= 1
            self.injected["assignment not delivered"] += 1
            self._agenda.at(self.now, self._not_delivered, action)  # when all that was decided with it is under way
            return
        replica = self.fleet.get(action.replica_id)
        if replica is None:
            self.breaches.append(f"{action}: no such replica")
        elif replica.running >= replica.replica.slots * (2 if action.wait_s else 1):
            self.breaches.append(f"{action}: its engine has {replica.running} attempts already")
        self.injected["bound ahead"] += action.wait_s > 0
        super()._assign(action)
        entry = self._course.calls.get(action.call_id)
        if entry is None:
            return
        call_id = action.call_id
        attempt = entry[0].attempts.get(call_id)
        if attempt is not None and self._stuck.random() < self._stuck_share:
            self._agenda.at(self.now + self.scenario.delivery_s + 1e-6, self._stick, attempt)
        if call_id not in self.is_poison:
            self.is_poison[call_id] = self._draws.random() < self._poison
        if self.is_poison[call_id] and attempt is not None:
            self._agenda.at(self.now + 0.01, self._poisoned, attempt)

    def _not_delivered(self, action: Assign) -> None:
        self._tell(AttemptEnded(action.call_id, action.attempt, "undelivered"))
        if action.call_id in self._course.calls:
            self._tell(CallRunnable(action.call_id))

    def _say(self, attempt: Attempt, kind: int) -> None:
        unheard = self._unheard.get(attempt.replica.replica_id)
        if unheard is None:
            self._heard(attempt, kind)
        else:
            unheard.append((attempt, kind))

    def _overdue(self, attempt: Attempt, waited_s: float, is_ahead: bool = False) -> None:
        if attempt.replica.replica_id not in self._unheard:
            super()._overdue(attempt, waited_s, is_ahead)

    def _gave(self, attempt: Attempt, kind: int) -> None:
        if not self._is_current(attempt):
            if kind == LAST:  # its task was taken back; the engine was quicker than the abort
                self._tell(AttemptEnded(attempt.call_id, attempt.number, "aborted"))
            return
        if self._lose and kind == LAST:
            self._lose -= 1
            self.injected["result lost"] += 1
            del self._course.calls[attempt.call_id][0].attempts[attempt.call_id]
            self._tell(self._finished(attempt, 1, 1))
            self._tell(CallRunnable(attempt.call_id))
            return
        super()._gave(attempt, kind)

    def _lost(self, attempt: Attempt) -> None:
        if not self._is_current(attempt):
            return
        super()._lost(attempt)
        if self._draws.random() < 0.3:  # its worker lives on, and tells too late
            outcome = self._draws.choice(("finished", "aborted", "retry"))
            late = AttemptEnded(attempt.call_id, attempt.number, outcome)
            self.injected["message told late"] += 1
            self._agenda.at(self.now + self._draws.uniform(0.0, 2.0), self._tell, late)

    # -- faults ----------------------------------------------------------------------------------

    def _befall(self, fault: Fault) -> None:
        done = {
            **self._replicas.kinds,
            "crash": self._crash_one,
            "cut": self._cut_off,
            "clock": self._set_clock,
            "cancel": self._cancel,
            "withdraw": self._withdraw,
            "lose result": self._lose_results,
            "undeliver": self._undeliver_some,
        }[fault.kind](fault)
        if done is not False:
            self.injected[fault.kind] += 1

    def _crash_one(self, fault: Fault) -> bool:
        replica = self._replicas.one(fault)
        return replica is not None and self._crash(replica, says_first=fault.size < 0.5)

    def _crash(self, replica: VirtualReplica, *, says_first: bool) -> bool:
        """An engine dies: its worker says it of each attempt and of the replica, in one order or the other."""
        if replica.state not in ("ready", "draining"):
            return False
        attempts = list(replica.attempts)
        if says_first:
            for attempt in attempts:
                if attempt in replica.attempts:
                    self._end_attempt(attempt)
        if self.fleet.get(replica.replica_id) is replica:
            self.fleet.stop(replica.replica_id, "its engine crashed")
        if not says_first:
            for attempt in attempts:
                self._tell(self._crashed(attempt))
        self._replicas.back(replica.model, replica.accelerator, self._draws.uniform(0.0, 3.0))
        return True

    def _end_attempt(self, attempt: Attempt) -> None:
        """An attempt ends without a result, and Dask offers its call again."""
        is_current, crashed = self._is_current(attempt), self._crashed(attempt)
        if is_current:
            del self._course.calls[attempt.call_id][0].attempts[attempt.call_id]
        self.engines.abort(attempt)
        self._tell(crashed)
        if is_current and attempt.call_id in self._course.calls:
            self._tell(CallRunnable(attempt.call_id))

    @staticmethod
    def _crashed(attempt: Attempt) -> AttemptEnded:
        """What the worker of an engine that died says of an attempt."""
        if attempt in attempt.replica.ahead:
            return AttemptEnded(attempt.call_id, attempt.number, "undelivered")
        return AttemptEnded(attempt.call_id, attempt.number, "retry", error="the engine crashed")

    def _poisoned(self, attempt: Attempt) -> None:
        if attempt in attempt.replica.ahead:  # its engine has not seen it yet
            self._agenda.at(self.now + 0.01, self._poisoned, attempt)
        elif attempt in attempt.replica.attempts:
            self.injected["poison"] += 1
            self._crash(attempt.replica, says_first=False)  # workers tell of the engine before its attempts

    def _stick(self, attempt: Attempt) -> None:
        """An engine makes nothing of an attempt, which keeps its slot until its worker gives it up."""
        replica = attempt.replica
        if attempt in replica.attempts and attempt not in replica.ahead and self._is_silent(attempt):
            self.injected["stuck"] += 1
            self.engines.stall(attempt)
            self._agenda.at(self.now + STALL_S, self._unstick, attempt)

    def _unstick(self, attempt: Attempt) -> None:
        if attempt in attempt.replica.attempts:
            self._end_attempt(attempt)

    def _cut_off(self, fault: Fault) -> bool:
        replica = self._replicas.one(fault)
        if replica is None or replica.replica_id in self._unheard:
            return False
        self._unheard[replica.replica_id] = []
        self._agenda.at(self.now + 4.0 * fault.size, self._restore, replica, fault.size > 0.7)
        return True

    def _restore(self, replica: VirtualReplica, is_late: bool) -> None:
        """A worker is heard again, or has been given up: then its engine has worked in vain."""
        if is_late and self.fleet.get(replica.replica_id) is replica:
            self.fleet.stop(replica.replica_id, "its worker is gone")
            self._replicas.back(replica.model, replica.accelerator, 1.0)
        for attempt, kind in self._unheard.pop(replica.replica_id):
            self._heard(attempt, kind)

    def _set_clock(self, fault: Fault) -> None:
        self.clock_ahead_s += (fault.size - 0.5) * (2.0 if fault.pick < 0.5 else 600.0)

    def _live(self, fault: Fault) -> tuple[str, Live] | None:
        there = [(call_id, entry[0]) for call_id, entry in self._course.calls.items()]
        return there[int(fault.pick * len(there))] if there else None

    def _cancel(self, fault: Fault) -> bool:
        found = self._live(fault)
        if found is None:
            return False
        self._course.end(found[1].root, "failed", "the client let go of it")
        return True

    def _withdraw(self, fault: Fault) -> bool:
        found = self._live(fault)
        if found is None:
            return False
        call_id, live = found
        self._tell(CallWithdrawn(call_id))
        attempt = live.attempts.pop(call_id, None)
        if attempt is not None:
            self._agenda.at(self.now + 0.5 * fault.size, self._let_go, attempt)
        self._agenda.at(self.now + fault.size, self._again, call_id)
        return True

    def _let_go(self, attempt: Attempt) -> None:
        """The engine has stopped a request whose task was taken back."""
        if attempt in attempt.replica.attempts:
            self.engines.abort(attempt)
            self._tell(AttemptEnded(attempt.call_id, attempt.number, "aborted"))

    def _again(self, call_id: str) -> None:
        entry = self._course.calls.get(call_id)
        if entry is not None and call_id not in entry[0].attempts:
            self._tell(CallRunnable(call_id))

    def _lose_results(self, fault: Fault) -> None:
        self._lose += 1 + int(3 * fault.size)

    def _undeliver_some(self, fault: Fault) -> None:
        self._undeliver += 1 + int(5 * fault.size)
