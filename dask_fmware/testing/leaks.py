"""What is left of runs whose futures were released, in words: nothing, on a sound cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dask_fmware_scheduler.installed import ROUTER

__all__ = ["host_leaks", "scheduler_leaks"]


def scheduler_leaks(scheduler: Any) -> Iterator[str]:
    """Tasks, calls, slots and index entries that are left on a scheduler, and hooks that failed."""
    router = scheduler.plugins[ROUTER]
    machine = router.machine
    if router.failures:
        yield f"hooks of the router failed: {dict(router.failures)}"
    yield from (f"task {task.key} is left in {task.state}" for task in scheduler.tasks.values())
    if router.carrier:
        yield f"{len(router.carrier)} small results are kept for those who need them"
    if machine.held:
        yield f"{machine.held} calls are held"
    yield from (f"call {call_id} is known to the machine" for call_id in machine.runs.calls)
    for state in machine.fleet:
        if state.running or state.waiting:
            yield f"replica {state.replica.name}: slots {list(state.running)}, {state.waiting} waiting"
    tasks = router.run_tasks
    for name, index in (("tasks", tasks.keys), ("outputs", tasks.outputs), ("refused", router.performer.refused)):
        if index:
            yield f"the router knows {name} {list(index)}"


def host_leaks(name: str, host: Any) -> Iterator[str]:
    """Attempts, grants, waiting bodies and requests that are left on a worker."""
    if host.runner.running or host.runner._grants:
        yield f"worker {name}: {host.runner.running} attempts, grants for {list(host.runner._grants)}"
    if host.bodies._waiting:
        yield f"worker {name}: maps or loops wait: {list(host.bodies._waiting)}"
    if host.loaded is not None:
        load = host.loaded.engine.state()
        if load.running or load.waiting:
            yield f"engine of {name}: {load}"
