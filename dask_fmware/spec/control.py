"""Nodes that decide what runs: a switch over branches, a map over a list, a bounded loop.

Each traces the functions it is given once, into blocks of their own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from dask_fmware.spec.nodes import label_of
from dask_fmware.spec.record import shorten
from dask_fmware.spec.recording import Known, Recording, Value, bind, required
from dask_fmware.spec.workflow import Block, Branch, Constant, LoopNode, MapNode, SwitchNode

__all__ = ["loop", "map_", "switch"]


def switch(
    value: Value,
    branches: Mapping[str, Callable[[], Any]] | None = None,
    /,
    *,
    default: Callable[[], Any] | None = None,
    name: str | None = None,
    **labels: Callable[[], Any],
) -> Value:
    """Run the branch whose label equals the text of `value`; the others cost no engine slot.

    The text of True is ``"True"``, of 3 ``"3"``, and of a member of an `Enum` that of its value.

    Branches are functions without arguments, given as a dictionary (any label) or as keywords. Without
    `default`, a value that matches no label fails the run with an error that names it as unmatched.

    Parameters
    ----------
    value
        Of a node or an input; best of a model node with ``choices=``.
    branches, **labels
        Functions by label. Each is traced once; what it returns is the value of its branch.
    default
        The branch of all other values.
    name
        Of the node; ``"switch"`` with a number by default.

    Returns
    -------
    Value
        The value of the branch that was taken.

    Raises
    ------
    WorkflowError
        If there is no branch, or one does not return the value of a node or an input.
    """
    made = required("fm.switch")
    node = made.name(name, "switch")
    on = _handle(made, value, node, "fm.switch")
    if branches is not None and not isinstance(branches, Mapping):
        raise made.wrong(node, f"branches are a dictionary of label and function, not a {type(branches).__name__}")
    twice = sorted(set(branches or {}) & set(labels))
    if twice:
        raise made.wrong(node, f"two branches have the label '{shorten(twice[0])}'; give each its own")
    table = {**(branches or {}), **labels}
    if not table:
        raise made.wrong(node, "fm.switch needs at least one branch; pass label=function or {label: function}")
    for label in table:
        if not isinstance(label, str):
            raise made.wrong(node, f"the label {shorten(repr(label))} is a {type(label).__name__}; labels are text")
    if isinstance(on, Known):
        return _decided(made, on, table, default, node)
    blocks = {label: _block(made, branch, 0, node, f"branch '{shorten(label)}'") for label, branch in table.items()}
    other = _block(made, default, 0, node, "default") if default is not None else None
    parts = [Branch(label=label, block=block) for label, block in blocks.items()]
    return made.add(node, lambda: SwitchNode(name=node, on=made.refer(on, node), branches=parts, default=other))


def map_(function: Callable[[Any], Any], values: Value, /, *, max_items: int = 1000, name: str | None = None) -> Value:
    """Run `function` (traced once) for each item of a list made at run time; the value is the list of outputs.

    Parameters
    ----------
    function
        Takes the handle of one item.
    values
        The list: value of a node or an input.
    max_items
        A longer list fails the run.
    name
        Of the node.

    Returns
    -------
    Value
        The outputs, in the order of the items.

    Raises
    ------
    WorkflowError
        If `values` is no value of the workflow, or `function` does not return one.
    """
    made = required("fm.map")
    node = made.name(name, "map")
    listed = _handle(made, values, node, "fm.map")
    if isinstance(listed, Known) and not isinstance(listed._held, list | tuple):
        kind = type(listed._held).__name__
        raise made.wrong(node, f"the input '{listed._name}' was given a {kind}, and fm.map runs over a list")
    over = bind(made, listed, f"workflow '{made.workflow}', node '{node}'")
    item = made.name(None, f"{node}_item")
    block = _block(made, function, 1, node, "the mapped function", item)
    return made.add(node, lambda: MapNode(name=node, over=over, item=item, block=block, max_items=max_items))


def loop(
    function: Callable[[Any], Any],
    initial: Any,
    /,
    *,
    max_iterations: int,
    until: Callable[[Any], Any] | None = None,
    name: str | None = None,
) -> Value:
    """Run `function` on its own output until ``until(output)`` is true, at most `max_iterations` times.

    Parameters
    ----------
    function
        Takes the handle of the state and returns that of the next one.
    initial
        The first state: a value of the workflow, or plain data that holds some.
    max_iterations
        Bound of the rounds; that it was reached is no error.
    until
        Takes the handle of the state; the loop ends once its value is true. A text or an object is refused, as both are
        always true.
    name
        Of the node.

    Returns
    -------
    Value
        The last state.

    Raises
    ------
    WorkflowError
        If `function` or `until` does not return the value of a node, or `until` that of a model node which is text or
        an object.
    """
    made = required("fm.loop")
    node = made.name(name, "loop")
    state = made.name(None, f"{node}_state")
    start = bind(made, initial, f"workflow '{made.workflow}', node '{node}', initial state")
    _takes(made, function, 1, node, "the looped function")
    with made.scope() as nodes:
        output = function(made.value(state))
        block = made.close(nodes, output, f"workflow '{made.workflow}', node '{node}', the looped function")
        end = None
        if until is not None:
            _takes(made, until, 1, node, "until")
            stop = until(output)
            if not isinstance(stop, Value):
                raise made.wrong(
                    node,
                    f"until returned {shorten(repr(stop))}, which is known before the loop runs; "
                    "return the value of a node: call a function decorated with @fm.task in it",
                )
            end = made.refer(stop, node)
            block = Block(nodes=nodes, output=block.output)  # with the nodes that until has added
    return made.add(
        node,
        lambda: LoopNode(
            name=node, state=state, initial=start, block=block, until=end, max_iterations=max_iterations
        ),
    )  # fmt: skip


def _handle(made: Recording, value: object, node: str, what: str) -> Value:
    if not isinstance(value, Value):
        raise made.wrong(
            node,
            f"{what} takes the value of a node or an input, not a {type(value).__name__}; "
            "what is known while the workflow is traced is plain Python",
        )
    return value


def _decided(
    made: Recording, on: Known, table: Mapping[str, Callable[[], Any]], default: Callable[[], Any] | None, node: str
) -> Value:
    """Trace the branch that a constant takes, in place of the switch."""
    where = f"workflow '{made.workflow}', node '{node}'"
    held = bind(made, on, where)
    if not isinstance(held, Constant):
        raise made.wrong(node, f"the input '{on._name}' was given several values, and fm.switch reads the text of one")
    label = label_of(held.value)
    branch = table.get(label, default)
    if branch is None:
        raise made.wrong(
            node, f"the input '{on._name}' was given '{shorten(label)}', which is none of its labels "
            f"({shorten(', '.join(table), 200)}); give one of them, or the switch a default",
        )  # fmt: skip
    what = f"branch '{shorten(label)}'" if label in table else "default"
    _takes(made, branch, 0, node, what)
    return made.returned(branch(), f"{where}, {what}")


def _block(
    made: Recording, function: Callable[..., Any], arguments: int, node: str, what: str, bound: str | None = None
) -> Block:
    """Trace a function into a block."""
    _takes(made, function, arguments, node, what)
    with made.scope() as nodes:
        output = function(*([made.value(bound)] if bound is not None else []))
        return made.close(nodes, output, f"workflow '{made.workflow}', node '{node}', {what}")


def _takes(made: Recording, function: object, arguments: int, node: str, what: str) -> None:
    """Refuse what cannot be called with so many arguments, before a TypeError from inside blames the wrong code."""
    count = ("no arguments", "one argument")[arguments]
    if isinstance(function, Value) or not callable(function):
        hint = f"; write lambda: ... around {function!r}" if isinstance(function, Value) else ""
        raise made.wrong(node, f"{what} is a {type(function).__name__}, not a function of {count}{hint}")
    try:
        inspect.signature(function).bind(*[None] * arguments)
    except TypeError:
        raise made.wrong(node, f"{what} must be a function of {count}") from None
    except ValueError:  # builtins without a signature
        raise made.wrong(node, f"{what} has no signature to check; wrap it in a lambda") from None
