"""What must hold of a machine after each event and in the end, against the books that `shell.Shell` keeps."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from dask_fmware.observe.blame import node_pattern
from dask_fmware.runtime import CallRunnable, ReplicaGone, ReplicaReady
from dask_fmware.runtime.runs.open_calls import OpenCalls
from dask_fmware.runtime.runs.records import TERMINAL, RunRecord
from tests.runtime.books import OVER

if TYPE_CHECKING:
    from tests.runtime.shell import Shell

__all__ = ["check", "check_ended", "check_forgotten", "check_history", "check_no_replica"]

WAITS_ON_PURPOSE = ("an urgent call is likely", "only a busy replica", "other calls of its model")


def check(shell: Shell) -> None:
    """Hold the machine to its contract, against the books of Dask and of the workers."""
    machine, due = shell.machine, {e.call_id for e in shell._due if isinstance(e, CallRunnable)}
    fleet, queues = machine.fleet, machine.waiting.queues
    # slots: what runs where is what the workers say
    if not any(isinstance(e, ReplicaGone | ReplicaReady) for e in shell._due):
        assert {s.replica.replica_id: sorted(s.running) for s in fleet} == {
            r: sorted(engine) for r, engine in shell.workers.engines.items()
        }
    for state in fleet:
        stays = state.running.values()
        assert [one.began_at is not None for one in stays] == [n < state.begun for n in range(len(stays))]
        assert state.begun == min(len(stays), state.replica.slots)
        assert state.ending == sum(one.is_ending for one in stays)
        assert all(one.began_at is not None for one in stays if one.is_ending)
        assert len(stays) <= 2 * state.replica.slots
        assert state.waiting == 0 or state.free_slots <= 0, "a call waits for a replica that has a free slot"
        assert state.waiting == 0 or not state.standing.is_draining
        assert state.waiting == len(state._expected_s)
        assert state.waiting_s == pytest.approx(sum(state._expected_s.values()), abs=1e-9)
    # places: each call is in one place, and only calls of live runs are anywhere
    places: dict[str, list[str]] = {}
    for model, queue in queues.items():
        assert len(queue) > 0
        for call_id in queue._tickets:
            places.setdefault(call_id, []).append("held")
            assert machine.runs.calls[call_id].node.model == model
    for state in fleet:
        for call_id in state._expected_s:
            places.setdefault(call_id, []).append("queued")
            assert machine.runs.calls[call_id].queued_on == state.replica.replica_id
    apart = machine.waiting.apart
    for model, there in apart._waiting.items():
        for call_id in there:
            places.setdefault(call_id, []).append("held")
            assert machine.runs.calls[call_id].node.model == model
    for state in fleet:
        standing = state.standing
        is_kept = standing.kept_for is not None
        assert is_kept == (state in apart._kept.get(state.replica.model, ()))
        assert not is_kept or state.is_alone or apart.waiting(state.replica.model), "kept for nobody"
        assert not standing.is_on_trial or state.begun <= 1
        assert (state.slots, state.is_single) == (standing.slots(state.replica.slots), standing.is_single)
        assert (state.replica.replica_id in fleet._shut) == bool(standing.opens_at)
    assert machine.waiting.ids == set(places)
    assert machine.held == len(places)
    for call_id, record in machine.runs.calls.items():
        if record.attempt is not None:
            assert fleet.holds(call_id, record.attempt.attempt)
            places.setdefault(call_id, []).append("running")
    assert all(len(where) == 1 for where in places.values()), places
    for call_id, record in machine.runs.calls.items():
        task = shell.tasks.get(call_id)
        if task is None or call_id in due or shell._due:
            continue  # a message is under way
        expected = {"held": ("held", "queued"), "running": ("running",)}.get(task.state, (None,))
        assert places.get(call_id, [None])[0] in expected, (call_id, task.state, places.get(call_id))
        if call_id in places:
            assert record.report.state == places[call_id][0]
    # reports
    for record in machine.runs.calls.values():
        report = record.report
        assert record.tries <= shell.MAX_ATTEMPTS
        assert [a.attempt for a in report.attempts] == sorted({a.attempt for a in report.attempts})
        assert all(a.outcome != "running" and a.ended_at is not None for a in report.attempts[:-1])
        assert all(s is None or s >= 0 for s in (report.queued_s, report.ttft_s, report.latency_s))
    for run in shell.runs.values():
        report = machine.report(run.plan.run_id)
        if run.root and report is not None and report.state != "running":
            end = report.state, report.reason, report.finished_at
            assert run.ended is None or run.ended == end, "a run ended twice"
            run.ended = end
    # open calls of maps and loops: what was written down as they moved is what a look at all finds
    for run in {id(run): run for run in machine.runs._runs.values()}.values():
        assert {base: _where(open_) for base, open_ in run.open_calls.items()} == _open_calls(shell, run)
    # work conservation: what is held could not run anywhere
    for model, queue in queues.items():
        views = fleet.views(model)
        waits = False
        for _, _, call_id in queue._order:
            call = machine.runs.calls[call_id]
            # who is behind one that waits on purpose waits with it, whatever it waited for when it came
            waits = waits or (shell.policy == "slack" and call.report.reason.startswith(WAITS_ON_PURPOSE))
            allowed = [v for v in views if v.replica_id not in call.avoid] or views
            if any(v.has_room for v in allowed):
                assert waits, f"{call_id} is held although a replica has room"
                assert machine.wake_at is not None, f"{call_id} waits beside a replica for what may never happen"
    assert not shell.contract.breaches, "\n".join(map(str, shell.contract.breaches))
    # views: what policies see is what is there
    for model in ("small", "large", "extra"):
        states = [s for s in fleet if s.replica.model == model and s.standing.is_offered]
        views = fleet.views(model)
        assert [v.replica_id for v in views] == [
            r.replica_id for r in sorted((s.replica for s in states), key=lambda r: (r.name, r.replica_id))
        ]
        for view in views:
            state = fleet.get(view.replica_id)
            assert state is not None
            neighbours = [s for s in fleet if s.replica.card == view.card]
            busy = len(state.running) if state.standing.is_on_trial else state.busy
            assert (view.slots, view.running, view.waiting) == (state.slots, busy, state.waiting)
            assert view.card_running == sum(s.busy for s in neighbours)
            assert state.card.ending == sum(s.ending for s in neighbours)
            assert len(state.card.ahead) == sum(len(s.running) - s.begun for s in neighbours)
            assert view.waiting_s == pytest.approx(state.waiting_s, abs=1e-9)
            is_ending = state.free_slots > 0 if not state.standing.is_on_trial else state.busy < state.slots
            ends = [stay.expected_end for stay in state.running.values() if stay.is_ending is is_ending]
            is_open = len(state.running) < state.slots
            assert view.slot_free_at == (0.0 if is_open else min(ends))


def _where(open_: OpenCalls) -> dict[str, str]:
    """Where each call stands, as it was written down."""
    return {call_id: where for where in OpenCalls.__slots__ for call_id in getattr(open_, where)}


def _open_calls(shell: Shell, run: RunRecord) -> dict[str, dict[str, str]]:
    """Where each call of a run's maps and loops stands that is not over, by its report."""
    found: dict[str, dict[str, str]] = {base: {} for base in run.open_calls}
    for call in shell.machine.runs.calls.values():
        state = call.report.state
        if call.run is run and call.plan_id != run.plan.run_id and state not in TERMINAL:
            where = "runnable" if state in ("held", "queued") else state
            found.setdefault(call.node.name.partition("[")[0], {})[call.call_id] = where
    return found


def check_history(shell: Shell) -> None:
    """What is counted as it changes is what a look at everything finds."""
    machine, history = shell.machine, shell.history
    seen: Counter[tuple[str, str, str]] = Counter()
    ahead = {key for state in machine.fleet for key, stay in state.running.items() if stay.began_at is None}
    for call in machine.runs.calls.values():
        if (state := call.report.state) in ("held", "queued", "running"):
            is_running = state == "running" and (call.node.key, call.report.attempts[-1].attempt) not in ahead
            name = node_pattern(call.node.name)
            seen[call.run.plan.workflow, name, "running" if is_running else "waiting"] += 1
    if not any(isinstance(e, ReplicaGone | ReplicaReady) for e in shell._due):
        assert history.census.counts == seen
        running = {s.replica.name: len(s.running) for s in machine.fleet}
        assert {name: r.running for name, r in history.replicas.items() if r.running} == {
            name: count for name, count in running.items() if count
        }
    ended = sum(history.totals.runs.values())
    begun = sum(history.totals.submitted.values()) + sum(history.totals.retried.values())
    assert begun == ended + history.live_runs
    assert history.late(shell.now).total() <= history.live_runs


def check_ended(shell: Shell) -> None:
    """All work has been served: every run has ended, with a reason unless it is finished."""
    assert shell.machine.held == 0
    for run in shell.runs.values():
        assert {t.state for t in run.tasks.values()} <= {*OVER, "waiting"}
        assert any(t.state == "erred" for t in run.tasks.values()) or all(t.state == "done" for t in run.tasks.values())
        if run.root:
            report = shell.machine.report(run.plan.run_id)
            assert report is not None
            assert report.state in ("finished", "failed", "rejected", "refused", "cancelled")
            assert report.state == "finished" or report.reason


def check_forgotten(shell: Shell) -> None:
    """Everybody has let go of everything: nothing of it is left but reports."""
    machine = shell.machine
    assert not machine.waiting.queues
    assert not machine.waiting.ids
    assert not machine.runs.calls
    assert len(machine.runs) == 0
    assert not machine.runs._runs
    assert not machine.fleet._slots
    assert not shell.contract.finish(), "\n".join(map(str, shell.contract.breaches))
    assert not shell.history.census.counts
    assert not shell.history.live_runs
    assert not shell.history.late(shell.now)
    assert not any(replica.running for replica in shell.history.replicas.values())
    for report in machine.runs.reports():
        assert report.state != "running"
        assert not {c.state for c in report.calls} & {"held", "queued", "running", "planned"}


def check_no_replica(shell: Shell) -> None:
    """All replicas are gone: the machine knows none."""
    fleet = shell.machine.fleet
    assert len(fleet) == 0
    for index in vars(fleet).values():
        assert not isinstance(index, dict) or not any(index.values())
