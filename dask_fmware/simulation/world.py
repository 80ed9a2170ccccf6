"""A cluster in virtual time: emulated engines and sampled runs around the runtime machine and a policy.

It does what the machine says, as the scheduler plugin does, and decides nothing: `course` stands for Dask and
the clients, `engines` for the workers, `fleet` for whoever starts them, `agenda` for the clock.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from math import inf

from dask_fmware.errors import DeadlineRejectedError, PolicyFaultError
from dask_fmware.policy import Policy, create_policy
from dask_fmware.profile.emulation import FIRST
from dask_fmware.runtime import (
    Action,
    Assign,
    AttemptEnded,
    CallRunnable,
    Event,
    Fail,
    FirstToken,
    Machine,
    ModelLimits,
    Move,
    Overdue,
    Refuse,
    Skip,
    Tick,
)
from dask_fmware.runtime.eventlog import EventLog, Head
from dask_fmware.simulation.agenda import Agenda
from dask_fmware.simulation.course import Course, Live, Outcome
from dask_fmware.simulation.engines import Engines
from dask_fmware.simulation.fleet import Controller, VirtualFleet
from dask_fmware.simulation.past import teach
from dask_fmware.simulation.replicas import Attempt
from dask_fmware.simulation.sampled import SampledRun
from dask_fmware.simulation.scenario import FleetScenario, Scenario

__all__ = ["Outcome", "World", "new_machine"]

COLLECTED = (10_000, 50, 50)  # objects, and younger generations, after which garbage is looked for; 12 to 20 % faster


def new_machine(
    scenario: FleetScenario,
    policy: str | Policy,
    seed: int = 0,
    hedge_budget: float = 0.0,
    max_attempts: int = 3,
    unhedged: Collection[str] = (),
) -> Machine:
    """Make the machine of a simulation, which knows what the past of its scenario has taught."""
    machine = Machine(
        create_policy(policy, random.Random(seed).random) if isinstance(policy, str) else policy,
        models={
            model: ModelLimits(spec.context_tokens, spec.longest_token_bytes) for model, spec in scenario.models.items()
        },
        max_attempts=max_attempts,
        max_held=1 << 60,
        keep_runs=0,
        laws={
            (model, accelerator): hosting.step_law
            for model, spec in scenario.models.items()
            for accelerator, hosting in spec.on.items()
        },
        tenants={name: tenant.weight for name, tenant in scenario.tenants.items()},
        hedge_budget=hedge_budget,
        unhedged=unhedged,
        predicts=hedge_budget > 0.0,  # nobody is told of single calls
    )
    if isinstance(scenario, Scenario):
        teach(machine, scenario)
    return machine


@contextmanager
def _few_collections() -> Iterator[None]:
    """Let the garbage collector run seldom: a simulation makes no cycles, so there is hardly any."""
    before = gc.get_threshold()
    gc.set_threshold(*(max(now, least) if now else 0 for now, least in zip(before, COLLECTED, strict=True)))
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _head(machine: Machine, scenario: FleetScenario, seed: int) -> Head:
    return Head(
        policy=machine.policy.name,
        seed=seed,
        max_attempts=machine.max_attempts,
        max_held=machine.max_held,
        models={name: (limits.context_tokens, limits.longest_token_bytes) for name, limits in machine.models.items()},
        is_complete=True,
        tenants=machine.tenants,
        hedge_budget=machine.hedging.budget,
        unhedged=tuple(sorted(machine.hedging.exempt)),
        scenario=scenario.model_dump(mode="json", exclude_defaults=True) if isinstance(scenario, Scenario) else None,
    )


STUCK_S = 3600.0  # for which a controller or a policy may leave calls waiting while nothing runs


class World:
    """One simulation.

    Parameters
    ----------
    scenario
        Cards, models, workflows.
    policy
        A name, or a policy.
    runs
        What arrives, in order, from a `Workload` of the scenario; drawn as it arrives if it is an iterator.
    seed
        Of the policy's draws, load times and failed starts.
    watch
        Called with each event, its time and the machine's actions.
    controller
        Starts and stops replicas while the simulation plays.
    ended
        Takes the outcome of each run when it has ended, and at last those of runs that never do. With it, `play` keeps
        none.
    log
        Takes the lines of the machine's event log.
    hedge_budget, max_attempts, unhedged
        As of the machine: without a budget no call is tried elsewhere for giving no token.
    """

    def __init__(
        self,
        scenario: FleetScenario,
        policy: str | Policy,
        runs: Iterable[SampledRun],
        seed: int = 0,
        watch: Callable[[Event, float, list[Action]], None] | None = None,
        controller: Controller | None = None,
        ended: Callable[[Outcome], None] | None = None,
        log: Callable[[str], object] | None = None,
        hedge_budget: float = 0.0,
        max_attempts: int = 3,
        unhedged: Collection[str] = (),
    ) -> None:
        self.scenario = scenario
        self._delivery_s = scenario.delivery_s
        self.outcomes: list[Outcome] = []  # in order of arrival; empty if `ended` takes them
        self.calls = 0  # started, repeated ones included
        self._watch = watch
        self._controller = controller
        self._ended = ended
        self.clock_ahead_s = 0.0  # the machine's clock less that of the simulation: a wall clock may be set
        self.machine = new_machine(scenario, policy, seed, hedge_budget, max_attempts, unhedged)
        if log is not None:
            self.machine.observers.append(EventLog(_head(self.machine, scenario, seed), log))
        self._dispatcher = self.machine.dispatcher
        self._agenda = Agenda()
        self._arriving = iter(runs)
        self._is_arriving = True
        self._is_stuck = False
        self._had_started, self._waits_since = 0, 0.0  # calls, when they were seen to make headway last
        self._ticks_at = inf
        self._course = Course(self._agenda, self._tell, self._run_ended, scenario.hop_s)
        self.engines = Engines(self._agenda, self._tell, self._gave, self._lost, scenario.delivery_s)
        self.fleet = VirtualFleet(scenario, self._agenda, self.engines, self._tell, self._lost, seed)
        self.fleet.begin()
        self.end_s = 0.0  # when the last run ended
        self.card_seconds = dict.fromkeys(scenario.cards, 0.0)  # paid until the end of the simulation, by type

    @property
    def now(self) -> float:
        """Seconds since the start of the simulation."""
        return self._agenda.now

    def play(self, until: float = inf) -> list[Outcome]:
        """Play until all runs have ended, nothing more can happen, or `until`; return what came of them.

        Outcomes are in order of arrival. Runs that wait for what never comes, such as a card that was lost for good,
        are among them: see `Outcome.never_ended`. Where a controller or the policy asks on for ever, that is after an
        hour in which nothing was served.
        """
        self._next_arrival()
        self._agenda.is_over |= self._is_done  # no run comes at all
        if self._controller is not None:
            self._control()
        with _few_collections():
            self._agenda.play(until)
        self.card_seconds = {accelerator: self.fleet.card_seconds(accelerator) for accelerator in self.card_seconds}
        for outcome in self._course.leave(is_stuck=self._agenda.is_empty or self._is_stuck):
            if self._ended is not None:
                self._ended(outcome)
        return self.outcomes

    # -- arrivals and ends -----------------------------------------------------------------------

    def _next_arrival(self) -> None:
        run = next(self._arriving, None)
        if run is None:
            self._is_arriving = False
        else:
            self._agenda.at(run.arrival, self._arrive, run)

    def _arrive(self, run: SampledRun) -> None:
        self._next_arrival()
        live = self._course.submit(run)
        if self._ended is None:
            self.outcomes.append(live.outcome)

    def _run_ended(self, live: Live) -> None:
        for attempt in list(live.attempts.values()):  # of a run that failed
            self.engines.abort(attempt)
            self._tell(AttemptEnded(attempt.call_id, attempt.number, "aborted"))
        self.end_s = self._agenda.now
        if self._ended is not None:
            self._ended(live.outcome)
        self._agenda.is_over |= self._is_done

    @property
    def _is_done(self) -> bool:
        """Whether no run is under way and none will come."""
        return not self._is_arriving and not self._course.live

    # -- the machine -----------------------------------------------------------------------------

    def _tick(self, due: float) -> None:
        if due == self._ticks_at:
            self._ticks_at = inf
            if self._agenda.is_empty and self._makes_no_headway():  # a policy may let calls wait for ever
                self._is_stuck = self._agenda.is_over = True
                return
            self._tell(Tick())

    def _tell(self, event: Event) -> None:
        now = self._agenda.now + self.clock_ahead_s
        actions = self.machine.handle(event, now)
        if (wake_at := self._dispatcher.wake_at) is not None:
            self._wake(wake_at)
        if self._watch is not None:
            self._watch(event, now, actions)
        for action in actions:
            if isinstance(action, Assign):
                self._assign(action)
            elif isinstance(action, Move):
                self._move(action)
            elif isinstance(action, Skip):
                self._course.call_done(action.call_id)
            elif isinstance(action, Fail):
                if isinstance(action.error, PolicyFaultError):  # figures of such a policy say nothing
                    raise action.error
                if (entry := self._course.calls.get(action.call_id)) is not None:  # else its run has failed already
                    is_late = isinstance(action.error, DeadlineRejectedError)
                    self._course.end(entry[0].root, "rejected" if is_late else "failed", action.reason)
            elif isinstance(action, Refuse):
                raise action.error

    def _wake(self, at: float) -> None:
        """Note the next tick, at a time of the machine's clock; at once, if what it waits for is due already."""
        if self.clock_ahead_s:  # not before it by a rounding error
            at += 1e-6 - self.clock_ahead_s
        at = max(at, self._agenda.now)
        if at < self._ticks_at:
            self._ticks_at = at
            self._agenda.at(at, self._tick, at)

    def _control(self) -> None:
        assert self._controller is not None
        if self._makes_no_headway():
            self._is_stuck = self._agenda.is_over = True
            return
        again_at = self._controller.control(self.fleet, self.machine, self._agenda.now)
        if again_at is not None:
            self._agenda.at(max(again_at, self._agenda.now), self._control)

    def _makes_no_headway(self) -> bool:
        """Whether calls wait and none has run for so long that none will: who is asked again asks on for ever."""
        now, started = self._agenda.now, self.calls
        is_served = started > self._had_started or any(state.running for state in self.machine.fleet)
        if self._is_arriving or is_served or not self.machine.held:
            self._had_started, self._waits_since = started, now
        return now - self._waits_since > STUCK_S

    # -- attempts --------------------------------------------------------------------------------

    def _assign(self, action: Assign) -> None:
        entry = self._course.calls.get(action.call_id)
        if entry is None:  # its run failed by an action before this one
            self._tell(AttemptEnded(action.call_id, action.attempt, "aborted"))
            return
        live, node, _ = entry
        replica = self.fleet.get(action.replica_id)
        assert replica is not None
        self.calls += 1
        record = self.machine.runs.calls.get(action.call_id)
        if record is not None and record.parked:
            live.outcome.parked += 1
        attempt = live.attempts[action.call_id] = Attempt(action.call_id, action.attempt, replica, self._agenda.now)
        prompt, output = node.call or (1, 1)
        attempt.cached = self._cached(attempt, prompt)
        self.engines.run(attempt, prompt - attempt.cached, output, action.priority, action.wait_s)
        if action.overdue_s:
            due_at, is_ahead = self._agenda.now + action.overdue_s, action.wait_s > 0.0
            self._agenda.at(due_at, self._overdue, attempt, action.overdue_s, is_ahead)

    def _is_current(self, attempt: Attempt) -> bool:
        """Whether a call still waits for this attempt."""
        entry = self._course.calls.get(attempt.call_id)
        return entry is not None and entry[0].attempts.get(attempt.call_id) is attempt

    def _is_silent(self, attempt: Attempt) -> bool:
        """Whether an attempt runs and has no token yet."""
        replica, now = attempt.replica, self._agenda.now
        return self._is_current(attempt) and attempt in replica.attempts and not replica.batch.tokens(attempt, now)

    def _overdue(self, attempt: Attempt, waited_s: float, is_ahead: bool = False) -> None:
        if is_ahead and attempt in attempt.replica.ahead:
            self._agenda.at(self._agenda.now + waited_s, self._overdue, attempt, waited_s, is_ahead)
        elif self._is_silent(attempt):
            self._agenda.at(
                self._agenda.now + (Overdue.AGAIN - 1.0) * waited_s, self._overdue, attempt, Overdue.AGAIN * waited_s
            )
            self._tell(Overdue(attempt.call_id, attempt.number))

    def _move(self, action: Move) -> None:
        """End an attempt that has no token, as its worker does; Dask offers its call again."""
        entry = self._course.calls.get(action.call_id)
        attempt = entry[0].attempts.get(action.call_id) if entry is not None else None
        if attempt is not None and attempt.number == action.attempt and self._is_silent(attempt):
            self.engines.abort(attempt)
            self._tell(AttemptEnded(action.call_id, action.attempt, "retry", error="no token in time"))
            self._lost(attempt)

    def _cached(self, attempt: Attempt, prompt: int) -> int:
        """Tokens of a prompt that the engine of an attempt has in its cache: an emulated one has none."""
        return 0

    def _lost(self, attempt: Attempt) -> None:
        if not self._is_current(attempt):
            return  # its run failed by what the machine was told last
        del self._course.calls[attempt.call_id][0].attempts[attempt.call_id]
        self._tell(CallRunnable(attempt.call_id))

    def _finished(self, attempt: Attempt, prompt: int, output: int) -> AttemptEnded:
        """What a worker says of an attempt; of its times nothing where the way to it costs nothing."""
        if not self._delivery_s:
            return AttemptEnded(attempt.call_id, attempt.number, "finished", prompt, output, attempt.cached)
        spent_s, waited_s = attempt.ended - attempt.began, attempt.began - attempt.arrived
        return AttemptEnded(
            attempt.call_id,
            attempt.number,
            "finished",
            prompt,
            output,
            attempt.cached,
            latency_s=spent_s,
            waited_s=waited_s,
        )

    def _gave(self, attempt: Attempt, kind: int) -> None:
        call_id, now = attempt.call_id, self._agenda.now
        live, node, _ = self._course.calls[call_id]
        if kind == FIRST:
            if node.answers:  # only answers report it
                live.outcome.first_token_at = now
                self._tell(FirstToken(call_id, attempt.number, now - attempt.started))
            return
        del live.attempts[call_id]
        live.outcome.calls.append((node.name, attempt.replica.accelerator, attempt.started, now))
        prompt, output = node.call or (1, 1)
        self._tell(self._finished(attempt, prompt, output))
        self._course.call_done(call_id)
