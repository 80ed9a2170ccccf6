"""Random histories of runs, workers and lost messages, for every policy; the laws are in `shell.Shell.check`."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from dask_fmware.model.plan import Guard, Objective, PlannedNode, RunPlan
from dask_fmware.runtime import (
    AttemptEnded,
    Branched,
    CallDropped,
    CallRetried,
    CallRunnable,
    CallWithdrawn,
    FirstToken,
    ModelAbandoned,
    Overdue,
    ReplicaDraining,
    ReplicaGone,
    RunDropped,
    RunEnded,
    RunRetried,
    RunSubmitted,
    Tick,
)
from tests.runtime.builders import POLICY_NAMES, node, plan, replica
from tests.runtime.shell import Shell

Decides = dict[str, tuple[str, int | None, bool]]
PICK = st.integers(0, 1000)
SHAPES = ("single", "chain", "fan", "switch", "nested", "extra", "unknown", "too long", "in time", "plain")


def make_plan(shape: str, run_id: str, branch: int | None, announced: bool, priority: int) -> tuple[RunPlan, Decides]:
    """One of a few workflows, and what its switches decide."""

    def n(name: str, model: str | None = "small", *, after: str = "", **more: object) -> PlannedNode:
        return node(f"{run_id}/{name}", model, after=tuple(after.split()), **more)  # type: ignore[arg-type]

    decides: Decides = {}
    objective = None
    match shape:
        case "single":
            nodes = [n("a", answers=True)]
        case "chain":
            nodes = [n("a"), n("code", None, after="a"), n("b", "large", after="code", answers=True)]
        case "fan":
            nodes = [n("a"), n("b"), n("c", "large"), n("d", "large", after="a b c", answers=True)]
        case "switch":
            decides = {"a": ("s", branch, announced)}
            nodes = [
                n("a"),
                n("b", "small", after="a", guards=(Guard("s", 0),), answers=True),
                n("c", "large", after="a", guards=(Guard("s", 1),), answers=True),
                n("out", None, after="b c"),
            ]
        case "nested":
            decides = {"code": ("s", branch, announced), "b": ("t", 1, True)}
            nodes = [
                n("code", None),
                n("b", "small", after="code", guards=(Guard("s", 0),)),
                n("c", "small", after="b", guards=(Guard("s", 0), Guard("t", 0))),
                n("d", "large", after="b", guards=(Guard("s", 0), Guard("t", 1)), answers=True),
            ]
        case "extra":
            nodes = [n("a", "extra", answers=True)]
        case "unknown":
            nodes = [n("a"), n("b", "unheard-of", after="a")]
        case "too long":
            nodes = [n("a", prompt_bytes=4000)]
        case "in time":
            objective = Objective(ttft_s=1.0, on_miss="reject")
            nodes = [n("a"), n("b", "large", after="a", answers=True)]
        case _:
            nodes = [n("code", None), n("more", None, after="code")]
    return plan(run_id, nodes, objective=objective, priority=priority), decides


class World(RuleBasedStateMachine):
    """Hypothesis as client, Dask, workers and bad luck."""

    policy = "greedy"

    def __init__(self) -> None:
        super().__init__()
        self.shell = Shell(self.policy)
        self.serial = 0
        self.dropped: list[tuple[RunPlan, Decides]] = []

    def one(self, things: list, pick: int):
        return things[pick % len(things)]

    def tasks(self, *states: str) -> list:
        return [t for t in self.shell.tasks.values() if t.state in states and t.node.model is not None]

    def failed(self) -> list:
        runs = [run for run in self.shell.runs.values() if run.root]
        return [run for run in runs if self.shell.machine.report(run.plan.run_id).state in ("failed", "refused")]  # type: ignore[union-attr]

    @initialize(
        shapes=st.lists(st.sampled_from(SHAPES), max_size=4), slots=st.integers(1, 2), replicas=st.integers(0, 3)
    )
    def a_cluster_at_work(self, shapes: list[str], slots: int, replicas: int) -> None:
        for number, model in enumerate(("small", "large", "small")[:replicas]):
            self.shell.ready(replica(f"{model}{number}", model, slots=slots, card=f"host/{number % 2}"))
        for shape in shapes:
            self.a_run_is_submitted(shape, 1, True, False)

    # -- clients ---------------------------------------------------------------------------------

    @rule(
        shape=st.sampled_from(SHAPES), branch=st.sampled_from([0, 1, None]), announced=st.booleans(), top=st.booleans()
    )
    def a_run_is_submitted(self, shape: str, branch: int | None, announced: bool, top: bool) -> None:
        self.serial += 1
        self.shell.submit(*make_plan(shape, f"run{self.serial}", branch, announced, int(top)))

    @precondition(lambda self: self.dropped)
    @rule(pick=PICK)
    def a_dropped_run_is_submitted_again(self, pick: int) -> None:
        again = self.one(self.dropped, pick)
        if again[0].run_id not in self.shell.runs:
            self.shell.submit(*again)

    @precondition(lambda self: self.shell.runs)
    @rule(pick=PICK, branch=st.sampled_from([0, 1]), decided=st.booleans())
    def a_map_submits_a_body(self, pick: int, branch: int, decided: bool) -> None:
        parent = self.one(list(self.shell.runs.values()), pick)
        if len(self.shell.runs) > 12 or parent.refused or self.shell.root_of(parent).refused:
            return
        self.serial += 1
        run_id = f"body{self.serial}"
        guards = (Guard("s", 1),) if decided else ()
        item = f"m[{self.serial}]"
        first, second = f"{item}.x", f"{item}.y"
        nodes = [node(f"{run_id}/{first}"), node(f"{run_id}/{second}", "large", after=(first,), guards=guards)]
        outer = (("s", branch),) if decided else ()
        self.shell.submit(plan(run_id, nodes, part_of=parent.plan.run_id, decided=outer), {})

    @precondition(lambda self: self.failed())
    @rule(pick=PICK)
    def a_client_retries(self, pick: int) -> None:
        self.shell.retry(self.one(self.failed(), pick))

    @precondition(lambda self: self.shell.runs)
    @rule(pick=PICK, calls_first=st.booleans())
    def a_client_lets_go(self, pick: int, calls_first: bool) -> None:
        run = self.one([r for r in self.shell.runs.values() if r.root], pick)
        self.dropped.append((run.plan, run.decides))
        self.shell.cancel(run, calls_first=calls_first)

    @precondition(lambda self: any(self.leaf(r) for r in self.shell.runs.values()))
    @rule(pick=PICK, calls_first=st.booleans())
    def a_body_is_let_go(self, pick: int, calls_first: bool) -> None:
        self.shell.cancel(
            self.one([r for r in self.shell.runs.values() if self.leaf(r)], pick), calls_first=calls_first
        )

    def leaf(self, run) -> bool:
        return not run.root and not any(r.plan.part_of == run.plan.run_id for r in self.shell.runs.values())

    # -- Dask ------------------------------------------------------------------------------------

    @precondition(lambda self: self.tasks("held"))
    @rule(pick=PICK)
    def a_held_call_is_reported_runnable_again(self, pick: int) -> None:
        self.shell.send(CallRunnable(self.one(self.tasks("held"), pick).node.key))

    @precondition(lambda self: self.tasks("running"))
    @rule(pick=PICK)
    def a_running_call_is_moved_by_dask(self, pick: int) -> None:
        self.shell.runnable(self.one(self.tasks("running"), pick))
        self.shell.flush()

    @precondition(lambda self: self.tasks("held", "running"))
    @rule(pick=PICK)
    def a_call_is_withdrawn(self, pick: int) -> None:
        self.shell.withdraw(self.one(self.tasks("held", "running"), pick))

    @precondition(lambda self: self.tasks("waiting"))
    @rule(pick=PICK)
    def a_withdrawn_call_is_runnable(self, pick: int) -> None:
        task = self.one(self.tasks("waiting"), pick)
        self.shell.advance(self.shell.runs[task.plan_id])
        self.shell.flush()

    @precondition(lambda self: self.tasks("done"))
    @rule(pick=PICK, withdrawn=st.booleans())
    def a_result_is_lost(self, pick: int, withdrawn: bool) -> None:
        self.shell.lose_result(self.one(self.tasks("done"), pick), withdrawn=withdrawn)

    # -- workers ---------------------------------------------------------------------------------

    @precondition(lambda self: len(self.shell.workers.replicas) < 6)
    @rule(
        name=st.integers(0, 3),
        model=st.sampled_from(["small", "small", "large", "extra"]),
        slots=st.integers(1, 3),
        card=st.integers(0, 1),
    )
    def a_replica_is_ready(self, name: int, model: str, slots: int, card: int) -> None:
        self.shell.ready(replica(f"{model}{name}", model, slots=slots, card=f"host/{card}"))

    @precondition(lambda self: self.shell.workers.replicas)
    @rule(pick=PICK, model=st.sampled_from([None, "small", "large"]))
    def an_engine_starts_again(self, pick: int, model: str | None) -> None:
        old = self.one(list(self.shell.workers.replicas.values()), pick)
        self.shell.ready(replica(old.name, model or old.model, slots=1, card="host/2", replica_id=old.replica_id))

    @precondition(lambda self: self.shell.workers.replicas)
    @rule(pick=PICK)
    def a_worker_is_gone(self, pick: int) -> None:
        self.shell.gone(self.one(list(self.shell.workers.replicas), pick))

    @precondition(lambda self: self.shell.workers.replicas)
    @rule(pick=PICK, draining=st.booleans())
    def a_replica_drains(self, pick: int, draining: bool) -> None:
        self.shell.drain(self.one(list(self.shell.workers.replicas), pick), draining)

    @rule(model=st.sampled_from(["small", "large"]), reason=st.sampled_from(["", "its file is missing"]))
    def a_model_is_abandoned(self, model: str, reason: str) -> None:
        self.shell.send(ModelAbandoned(model, reason))

    @precondition(lambda self: self.shell.workers.replicas)
    @rule(pick=PICK, how=st.sampled_from(["dead", "paused"]))
    def a_worker_stops_taking_tasks_unnoticed(self, pick: int, how: str) -> None:
        self.shell.workers.silent[self.one(list(self.shell.workers.replicas), pick)] = how

    @precondition(lambda self: (self.shell.machine.wake_at or inf) <= self.shell.now)
    @rule()
    def the_time_has_come(self) -> None:
        self.shell.send(Tick())

    @precondition(lambda self: self.shell.workers.attempts())
    @rule(pick=PICK)
    def a_first_token_comes(self, pick: int) -> None:
        _, call_id, attempt = self.one(self.shell.workers.attempts(), pick)
        self.shell.send(FirstToken(call_id, attempt, 0.1))

    @precondition(lambda self: self.shell.workers.attempts())
    @rule(pick=PICK, outcome=st.sampled_from(["finished", "finished", "finished", "failed", "retry", "aborted"]))
    def an_attempt_ends(self, pick: int, outcome: str) -> None:
        self.shell.end(*self.one(self.shell.workers.attempts(), pick), outcome)

    @precondition(lambda self: self.shell.workers.attempts())
    @rule(pick=PICK, shut_s=st.sampled_from([0.25, 1.0, 5.0]))
    def a_server_wants_no_calls_for_a_while(self, pick: int, shut_s: float) -> None:
        self.shell.end(*self.one(self.shell.workers.attempts(), pick), "retry", shut_s)

    @precondition(lambda self: self.shell.workers.attempts())
    @rule(pick=PICK, seconds=st.sampled_from([0.0, 0.25, 0.5]))
    def an_attempt_is_overdue(self, pick: int, seconds: float) -> None:
        self.shell.now += seconds
        _, call_id, attempt = self.one(self.shell.workers.attempts(), pick)
        self.shell.send(Overdue(call_id, attempt))

    @precondition(lambda self: self.shell.moved)
    @rule(pick=PICK)
    def an_attempt_is_given_up(self, pick: int) -> None:
        told = self.one(self.shell.moved, pick)
        self.shell.moved.remove(told)
        if told in self.shell.workers.attempts():  # else it has ended meanwhile
            self.shell.end(*told, "retry")

    # -- bad luck --------------------------------------------------------------------------------

    @rule(pick=PICK)
    def something_unheard_of_is_reported(self, pick: int) -> None:
        self.shell.send(
            self.one(
                [
                    AttemptEnded("nobody", 1, "finished"),
                    FirstToken("nobody", 1, 0.1),
                    Overdue("nobody", 1),
                    CallRunnable("nobody"),
                    CallWithdrawn("nobody"),
                    CallDropped("nobody"),
                    CallRetried("nobody"),
                    Branched("nobody", "s", 0),
                    RunEnded("nobody", "failed"),
                    RunRetried("nobody"),
                    RunDropped("nobody"),
                    ReplicaGone("tcp://nobody"),
                    ReplicaDraining("tcp://nobody"),
                    RunSubmitted(plan("late-body", part_of="nobody")),
                ],
                pick,
            )
        )

    @precondition(lambda self: self.shell.log)
    @rule(pick=PICK)
    def an_old_message_comes_twice(self, pick: int) -> None:
        event = self.one(self.shell.log, pick)[0]
        running = {(call_id, attempt) for _, call_id, attempt in self.shell.workers.attempts()}
        live = self.shell.runs
        match event:
            case AttemptEnded() | FirstToken() | Overdue() if (event.call_id, event.attempt) in running:
                return
            case ReplicaGone() if event.replica_id in self.shell.workers.replicas:
                return
            case RunSubmitted() if event.plan.run_id not in live:
                return
            case RunDropped() | RunEnded() if event.run_id in live:
                return
            case AttemptEnded() | FirstToken() | Overdue() | ReplicaGone() | RunSubmitted() | RunDropped() | RunEnded():
                self.shell.send(event)

    @rule(seconds=st.sampled_from([0.5, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.shell.now += seconds

    def teardown(self) -> None:
        self.shell.finish()
        self.shell.replay()


@pytest.mark.timeout(1200)  # one that strikes in a history looks to Hypothesis like a test that is not reproducible
@pytest.mark.parametrize("histories", [80, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_every_history_keeps_the_contract(policy: str, histories: int) -> None:
    world = type("World", (World,), {"policy": policy})
    run_state_machine_as_test(
        world,
        settings=settings(
            max_examples=histories,
            stateful_step_count=50,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
