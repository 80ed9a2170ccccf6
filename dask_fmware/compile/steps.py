"""What the tasks of a run execute on the workers.

A `Step` is one Dask task: a model call, a chain of plain code, a map or a loop. This module runs plain
code itself, hands model calls to the model host of its worker, and leaves maps and loops to `bodies`.
"""

from __future__ import annotations

import asyncio
import inspect
import pickle
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, Unpack

from dask_fmware.compile.shared import Shared
from dask_fmware.compile.values import Slot, fill, open_values, plain
from dask_fmware.errors import NotInstalledError, RuntimeFaultError, WorkflowError
from dask_fmware.model.call import SKIPPED, ModelCall, Skipped
from dask_fmware.model.carrying import is_small
from dask_fmware.model.plan import SwitchRule

if TYPE_CHECKING:
    from dask_fmware.compile.draft import PlanDraft

__all__ = [
    "HOST",
    "HOST_GIVER",
    "CallStep",
    "Function",
    "Merge",
    "PlainStep",
    "StepGuard",
    "Taken",
    "Told",
    "model_host",
    "opened",
    "passes",
    "run_call",
    "run_plain",
    "run_plain_async",
    "skipped",
    "tell",
]

HOST = "fmware-model-host"  # name of the worker plugin that runs calls
HOST_GIVER = "fmware-hosting"  # name of the one that adds it where there is none
TAKEN = "branches taken"  # beside the values of a step; no node has such a name

Taken: TypeAlias = Mapping[str, int | None]
"""Switch -> the branch that its run keeps to, whatever the value that decides is; None: no branch at all."""
NONE_TAKEN: Taken = {}


class Told(TypedDict, total=False):
    """What the task of a step is called with by name, beside its values; most are told nothing.

    The client sends the plan of a run with its first output, and the router takes it out there. The rest is of the
    router, which writes it into a task before that is sent.
    """

    plan: PlanDraft  # left where there is no router, and of no use to a step
    taken: Taken
    stays: bool  # its value is needed by no other step and awaited by nobody alone; it is fetched if at all


@dataclass(frozen=True, slots=True)
class StepGuard:
    """A step runs only if the value of `source` takes this branch of a switch."""

    source: str
    rule: SwitchRule
    branch: int

    def passes(self, values: Mapping[str, Any]) -> bool:
        """Whether the branch is taken."""
        return values[self.source] is not SKIPPED and _branch(self.rule, self.source, values) == self.branch


@dataclass(frozen=True, slots=True)
class Function:
    """A task node: a Python function and its arguments."""

    name: str
    function: Callable[..., Any] = field(repr=False)
    args: tuple[Slot, ...] = field(repr=False)
    kwargs: Mapping[str, Slot] = field(repr=False)

    def call(self, values: Mapping[str, Any]) -> Any:
        """Call the function with its arguments filled in."""
        return self.function(
            *(fill(slot, values) for slot in self.args), **{k: fill(slot, values) for k, slot in self.kwargs.items()}
        )


@dataclass(frozen=True, slots=True)
class Merge:
    """The value of a switch: the output of the branch that was taken."""

    name: str
    source: str
    rule: SwitchRule
    outputs: tuple[str, ...]

    def call(self, values: Mapping[str, Any]) -> Any:
        """Pick the output; `WorkflowError` if no branch fits, without showing the value."""
        branch = _branch(self.rule, self.source, values)
        if branch is None:
            value = plain(values[self.source])
            raise WorkflowError(
                f"node '{self.name}': a value of {len(str(value))} characters matches none of its labels "
                f"({', '.join(self.rule.labels)}); add a default, or give the node that decides choices=[...]"
            )
        output = values[self.outputs[branch]]
        if output is SKIPPED:  # the router, which has a run keep to its branch, has not heard of the first one
            raise RuntimeFaultError(
                f"node '{self.name}': the value that decides was lost, and computed again it takes a branch that "
                "had been skipped; submit the run again"
            )
        return output


@dataclass(frozen=True, slots=True)
class Identity:
    """The value of another node or of an input, as the result."""

    name: str
    source: str

    def call(self, values: Mapping[str, Any]) -> Any:
        """Return the value."""
        return values[self.source]


Operation: TypeAlias = Function | Merge | Identity


@dataclass(frozen=True, slots=True)
class PlainStep:
    """Plain code: operations in order, the last one's value is the step's."""

    workflow: str
    operations: tuple[Operation, ...]
    sources: tuple[str, ...]
    guards: tuple[StepGuard, ...] = ()
    decides: tuple[SwitchRule, ...] = ()

    @property
    def is_async(self) -> bool:
        """Whether its functions are coroutine functions."""
        return any(isinstance(op, Function) and inspect.iscoroutinefunction(op.function) for op in self.operations)


@dataclass(frozen=True, slots=True)
class CallStep:
    """A model call with the values that its prompt takes."""

    call: ModelCall
    fields: Mapping[str, Slot] = field(repr=False)
    sources: tuple[str, ...]
    guards: tuple[StepGuard, ...] = ()


def opened(sources: tuple[str, ...], values: tuple[Any, ...], told: Told) -> dict[str, Any]:
    """Pair the values that a step takes with their names, beside the branches that its run keeps to."""
    named = open_values(sources, values)
    if "taken" in told:
        named[TAKEN] = told["taken"]
    return named


def _branch(rule: SwitchRule, source: str, values: Mapping[str, Any]) -> int | None:
    """Number of the branch that a run takes: the one that it keeps to, else that of the value that decides."""
    taken: Taken = values.get(TAKEN, NONE_TAKEN)
    return taken[rule.switch] if rule.switch in taken else rule.branch(plain(values[source]))


def passes(guards: tuple[StepGuard, ...], values: Mapping[str, Any]) -> bool:
    """Whether a step is on branches that are taken."""
    return all(guard.passes(values) for guard in guards)


async def run_call(
    shared: Shared[CallStep],
    run_id: str,
    call_id: str,
    /,
    *values: Any,
    **told: Unpack[Told],
) -> Any:
    """Run a model call on the replica of this worker, or skip it."""
    step = shared.value
    named = opened(step.sources, values, told)
    host = model_host()
    is_taken = passes(step.guards, named)
    if host is None:
        if not is_taken:
            return SKIPPED
        raise NotInstalledError(
            f"workflow '{step.call.workflow}', node '{step.call.node}': the dask-fmware runtime is not installed where "
            "this runs; start a cluster with fm.LocalModelCluster(deployment) or call fm.install(client, deployment)"
        )
    if not is_taken:
        host.skip(call_id)
        return skipped(run_id, call_id)
    prompt_values = {k: fill(slot, named) for k, slot in step.fields.items()}
    return await host.call(step.call, run_id, call_id, prompt_values, stays=told.get("stays", False))


def run_plain(
    shared: Shared[PlainStep],
    run_id: str,
    key: str,
    /,
    *values: Any,
    **told: Unpack[Told],
) -> Any:
    """Run plain code in a worker thread."""
    step = shared.value
    named = opened(step.sources, values, told)
    if not passes(step.guards, named):
        return skipped(run_id, key)
    result: Any = None
    for operation in step.operations:
        with _Noted(step, operation):
            result = named[operation.name] = _value(operation.call(named), f"workflow '{step.workflow}'", operation)
    tell(step, run_id, key, result, told)
    return result


async def run_plain_async(
    shared: Shared[PlainStep],
    run_id: str,
    key: str,
    /,
    *values: Any,
    **told: Unpack[Told],
) -> Any:
    """Run coroutine functions on the worker's event loop."""
    step = shared.value
    named = opened(step.sources, values, told)
    if not passes(step.guards, named):
        return skipped(run_id, key)
    result: Any = None
    for operation in step.operations:
        with _Noted(step, operation):
            result = operation.call(named)
            if inspect.isawaitable(result):
                result = await result
            named[operation.name] = _value(result, f"workflow '{step.workflow}'", operation)
    tell(step, run_id, key, result, told)
    return result


def _value(result: Any, where: str, operation: Operation) -> Any:
    """Refuse what a function gives instead of a value, where only its call can tell."""
    if inspect.iscoroutine(result):
        result.close()
        step = "decorate the async def itself, or wait for it inside the function"
    elif inspect.isgenerator(result) or inspect.isasyncgen(result):
        step = "return a list"
    else:
        return result
    raise WorkflowError(f"{where}, node '{operation.name}': its function returned a {type(result).__name__}; {step}")


class _Noted:
    """Adds the node's name to an exception that leaves its code.

    What is no `Exception` becomes one: an exit would end the worker, time and again, and Dask would take a cancellation
    for that of the run by its user.
    """

    __slots__ = ("operation", "step")

    def __init__(self, step: PlainStep, operation: Operation) -> None:
        self.step, self.operation = step, operation

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception):
            error.add_note(f"in workflow '{self.step.workflow}', node '{self.operation.name}'")
        elif error is not None and not _is_from_outside(error):
            what = (
                "called sys.exit, which would end its worker and the work of others there"
                if isinstance(error, SystemExit)
                else f"raised {type(error).__name__}, by which Python stops what runs"
            )
            raise WorkflowError(
                f"workflow '{self.step.workflow}', node '{self.operation.name}': its function {what}; raise an "
                "exception instead"
            ) from None


def _is_from_outside(error: BaseException) -> bool:
    """Whether an exception that is no error comes of who runs the code, and not of the code."""
    if isinstance(error, KeyboardInterrupt):
        return threading.current_thread() is threading.main_thread()
    if not isinstance(error, asyncio.CancelledError):
        return isinstance(error, GeneratorExit)
    try:
        task = asyncio.current_task()
    except RuntimeError:  # a thread, which nobody cancels
        return False
    return task is not None and task.cancelling() > 0


def tell(step: Any, run_id: str, key: str, value: Any, told: Told) -> None:
    """Tell the router of a step, before its result arrives there: which branches are taken, and the value."""
    if (host := model_host()) is not None:
        if not is_small(value):
            _check_sent(step, value)
        host.made(run_id, key, step.decides, value, stays=told.get("stays", False))


def _check_sent(step: Any, value: Any) -> None:
    """Refuse a value that cannot leave its worker: whoever needs it elsewhere would wait for it without end.

    Dask asks for it again and again (dask/distributed#6705), and logs it, whatever is in it. Arrays are not copied.
    """
    import cloudpickle
    from distributed.protocol.serialize import dask_serialize

    try:
        try:
            pickle.dumps(value, protocol=5, buffer_callback=_leave)
        except Exception:
            cloudpickle.dumps(value, protocol=5, buffer_callback=_leave)
    except Exception as error:
        try:
            dask_serialize.dispatch(type(value))  # Dask has a way of its own for it
            return
        except TypeError:
            pass
        node, kind = step.operations[-1].name if isinstance(step, PlainStep) else step.node, type(value).__name__
        raise WorkflowError(
            f"workflow '{step.workflow}', node '{node}': its value (a {kind}) cannot be sent to another "
            f"worker: {error}; return plain data, and make what cannot travel (locks, connections) inside the function"
        ) from None


def _leave(buffer: pickle.PickleBuffer) -> None:
    """Leave the content of an array where it is."""


def skipped(run_id: str, key: str) -> Skipped:
    """Return the value of a step on a branch that was not taken; the router knows by then what was decided."""
    if (host := model_host()) is not None:
        host.made(run_id, key, (), SKIPPED)
    return SKIPPED


def model_host() -> Any:
    """Return the model host of the worker that this runs on, or None."""
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:
        return None
    return worker.plugins.get(HOST)


def greet_host(version: int, dask_worker: Any) -> None:
    """Tell the model host of a worker that a router has come; it may have none yet, or never have one."""
    if (host := dask_worker.plugins.get(HOST)) is not None:
        host.greeted(version)
