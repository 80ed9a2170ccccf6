"""From Python to a workflow document: calling models, tasks and control flow while tracing records nodes.

While a workflow function is traced its inputs and every node it makes are `Value` handles. A handle
stands for something that exists only at run time, so asking it for its truth, length or items raises
and says what to write instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import update_wrapper
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError

from dask_fmware.errors import WorkflowError
from dask_fmware.spec.checks import check
from dask_fmware.spec.slo import SLO
from dask_fmware.spec.workflow import (
    Binding,
    Block,
    Branch,
    Constant,
    Dictionary,
    Input,
    LoopNode,
    MapNode,
    ModelNode,
    Node,
    Reference,
    Sequence,
    SwitchNode,
    TaskNode,
    Turn,
    Workflow,
)

__all__ = ["Model", "Task", "Value", "loop", "map_", "switch", "task", "trace"]


class Value:
    """A value that exists only at run time: an input or the output of a node."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"<value of '{self._name}'>"

    def _unknown(self, what: str, instead: str) -> NoReturn:
        raise WorkflowError(f"the value of '{self._name}' has no {what} while the workflow is traced; {instead}")

    def __bool__(self) -> bool:
        self._unknown("truth", "branch with fm.switch(value, {label: branch})")

    def __iter__(self) -> Iterator[Any]:
        self._unknown("items", "use fm.map(function, value), or a function decorated with @fm.task")

    def __len__(self) -> int:
        self._unknown("length", "compute with it inside a function decorated with @fm.task")

    def __eq__(self, other: object) -> bool:
        self._unknown("equality", "branch with fm.switch(value, {label: branch})")

    __hash__ = object.__hash__

    def __format__(self, spec: str) -> str:
        self._unknown("text", "name a field in the prompt instead of an f-string: model('{field}', field=value)")

    def __str__(self) -> str:
        self._unknown("text", "name a field in the prompt and pass the value: model('{field}', field=value)")

    def __getattr__(self, attribute: str) -> NoReturn:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        self._unknown(f"attribute '{attribute}'", "read it inside a function decorated with @fm.task")

    def __getitem__(self, item: object) -> NoReturn:
        self._unknown("items", "pick it inside a function decorated with @fm.task")


@dataclass(slots=True)
class _Trace:
    """One workflow being recorded."""

    taken: set[str]
    counts: dict[str, int] = field(default_factory=dict)
    scopes: list[list[Node]] = field(default_factory=lambda: [[]])
    functions: dict[str, Callable[..., Any]] = field(default_factory=dict)
    schemas: dict[str, type[BaseModel]] = field(default_factory=dict)

    def name(self, wanted: str | None, base: str) -> str:
        if wanted is not None:
            if wanted in self.taken:
                raise WorkflowError(f"node '{wanted}': the name is taken; give each node a name of its own")
            self.taken.add(wanted)
            return wanted
        base = "".join(c if (c.isalnum() and c.isascii()) or c in "_-" else "_" for c in base) or "node"
        base = base if base[0].isalpha() or base[0] == "_" else f"_{base}"
        n = self.counts.get(base, 0) + 1
        while (name := base if n == 1 else f"{base}_{n}") in self.taken:
            n += 1
        self.counts[base] = n
        self.taken.add(name)
        return name

    def add(self, build: Callable[[], Node], name: str) -> Value:
        try:
            node = build()
        except ValidationError as error:
            raise WorkflowError(_explain(name, error)) from None
        self.scopes[-1].append(node)
        return Value(name)

    @contextmanager
    def scope(self) -> Iterator[list[Node]]:
        self.scopes.append([])
        try:
            yield self.scopes[-1]
        finally:
            self.scopes.pop()


_current: ContextVar[_Trace | None] = ContextVar("dask_fmware_trace", default=None)


def _explain(name: str, error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    shown = repr(first.get("input"))
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return f"node '{name}': {where}={shown}: {first['msg']}"


def _tracing(what: str) -> _Trace:
    trace_ = _current.get()
    if trace_ is None:
        raise WorkflowError(f"{what} was called outside a workflow; call it in a function decorated with @fm.workflow")
    return trace_


def _bind(value: Any, where: str) -> Binding:
    """Turn an argument into a binding: handles become references, the rest must be JSON."""
    match value:
        case Value():
            return Reference(source=value._name)
        case list() | tuple() if any(_holds_value(item) for item in value):
            return Sequence(items=[_bind(item, where) for item in value])
        case dict() if any(_holds_value(item) for item in value.values()):
            return Dictionary(entries={str(key): _bind(item, where) for key, item in value.items()})
        case _:
            try:
                return Constant(value=list(value) if isinstance(value, tuple) else value)
            except ValidationError:
                raise WorkflowError(
                    f"{where}: a {type(value).__name__} cannot be written into a workflow; pass JSON values "
                    "(text, numbers, lists, dictionaries), or make it inside a function decorated with @fm.task"
                ) from None


def _holds_value(value: Any) -> bool:
    match value:
        case Value():
            return True
        case list() | tuple():
            return any(_holds_value(item) for item in value)
        case dict():
            return any(_holds_value(item) for item in value.values())
        case _:
            return False


class Model:
    """A foundation model, by the name that the deployment gives it.

    Called inside a workflow it makes a model node whose value is text, or a label if `choices` are
    given, or an object if `schema` is. Other keyword arguments fill the fields of the prompt.

    Examples
    --------
    >>> small = Model("small")
    >>> def search(question):
    ...     return small("Rewrite as a search query: {question}", question=question, max_tokens=24)
    >>> [node.name for node in trace(search).block.nodes]
    ['small']
    """

    def __init__(self, name: str, **defaults: Any) -> None:
        if not isinstance(name, str) or not name:
            raise WorkflowError(f"a model is named by a non-empty string, not {name!r}")
        unknown = sorted(set(defaults) - _GENERATION)
        if unknown:
            raise WorkflowError(
                f"model '{name}': unknown default {unknown[0]!r} (known: {', '.join(sorted(_GENERATION))})"
            )
        self.name = name
        self.defaults = defaults

    def __repr__(self) -> str:
        return f"Model({self.name!r})"

    def __call__(self, prompt: str, /, *, name: str | None = None, schema: Any = None, **arguments: Any) -> Value:
        """Add a completion of `prompt`, a template whose ``{fields}`` are keyword arguments."""
        return self._node(name, schema, arguments, prompt=prompt)

    def chat(
        self,
        messages: str | list[Mapping[str, str]] | list[Turn],
        /,
        *,
        system: str | None = None,
        name: str | None = None,
        schema: Any = None,
        **arguments: Any,
    ) -> Value:
        """Add a chat turn through the model's chat template; `messages` is text or a list of role and content."""
        turns: list[Any] = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        if system is not None:
            turns.insert(0, {"role": "system", "content": system})
        return self._node(name, schema, arguments, messages=turns)

    def _node(self, name: str | None, schema: Any, arguments: dict[str, Any], **source: Any) -> Value:
        trace_ = _tracing(f"model '{self.name}'")
        node_name = trace_.name(name, self.name)
        generation = {**self.defaults, **{k: arguments.pop(k) for k in list(arguments) if k in _GENERATION}}
        if isinstance(source.get("prompt"), Value) or not isinstance(source.get("prompt", ""), str):
            raise WorkflowError(
                f"node '{node_name}': the prompt is a template; pass values as fields: model('{{x}}', x=value)"
            )
        if schema is not None:
            if isinstance(schema, type) and issubclass(schema, BaseModel):
                trace_.schemas[node_name] = schema
                schema = schema.model_json_schema()
            generation["json_schema"] = schema
        fields = {key: _bind(value, f"node '{node_name}', field '{key}'") for key, value in arguments.items()}
        return trace_.add(
            lambda: ModelNode(name=node_name, model=self.name, fields=fields, **source, **generation), node_name
        )


_GENERATION = {"max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "choices"}


class Task:
    """A plain Python function that may be a node of a workflow; outside a workflow it is just called."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.signature = inspect.signature(function)
        update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Add a task node, or call the function if no workflow is traced."""
        trace_ = _current.get()
        if trace_ is None:
            return self.function(*args, **kwargs)
        name = trace_.name(None, self.function.__name__)
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise WorkflowError(
                f"node '{name}': {error}; its signature is {self.function.__name__}{self.signature}"
            ) from None
        trace_.functions[name] = self.function
        return trace_.add(
            lambda: TaskNode(
                name=name,
                function=f"{self.function.__module__}:{self.function.__qualname__}",
                args=[_bind(arg, f"node '{name}', argument {i}") for i, arg in enumerate(args)],
                kwargs={key: _bind(arg, f"node '{name}', argument '{key}'") for key, arg in kwargs.items()},
            ),
            name,
        )


def task(function: Callable[..., Any]) -> Task:
    """Make a Python function (or coroutine function) usable as a workflow node."""
    if not callable(function):
        raise WorkflowError(f"@fm.task decorates a function, not a {type(function).__name__}")
    return Task(function)


def _block(trace_: _Trace, nodes: list[Node], output: Any, where: str) -> Block:
    """Close a scope; an output that is not a node (a constant or an outer value) is passed through as it is."""
    if not isinstance(output, Value):
        raise WorkflowError(f"{where} returned {type(output).__name__} instead of the value of a node or an input")
    return Block(nodes=nodes, output=Reference(source=output._name))


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

    Branches are functions without arguments, given as a dictionary (any label) or as keywords. Without
    `default`, a value that matches no label fails the run with an error that names it as unmatched.
    """
    trace_ = _tracing("fm.switch")
    node_name = trace_.name(name, "switch")
    if not isinstance(value, Value):
        raise WorkflowError(f"node '{node_name}': fm.switch takes the value of a node or an input, not {value!r}")
    table = {**(branches or {}), **labels}
    if not table:
        raise WorkflowError(f"node '{node_name}': fm.switch needs at least one branch")

    def enter(label: str, branch: Callable[[], Any]) -> Block:
        if not callable(branch):
            raise WorkflowError(f"node '{node_name}', branch '{label}': a branch is a function without arguments")
        with trace_.scope() as nodes:
            return _block(trace_, nodes, branch(), f"node '{node_name}', branch '{label}'")

    made = [Branch(label=str(label), block=enter(str(label), branch)) for label, branch in table.items()]
    other = enter("default", default) if default is not None else None
    on = Reference(source=value._name)
    return trace_.add(lambda: SwitchNode(name=node_name, on=on, branches=made, default=other), node_name)


def map_(function: Callable[[Any], Any], values: Value, /, *, max_items: int = 1000, name: str | None = None) -> Value:
    """Run `function` (traced once) for each item of a list made at run time; the value is the list of outputs."""
    trace_ = _tracing("fm.map")
    node_name = trace_.name(name, "map")
    if not isinstance(values, Value):
        raise WorkflowError(
            f"node '{node_name}': fm.map takes the value of a node or an input, not {type(values).__name__}"
        )
    item = trace_.name(None, f"{node_name}_item")
    with trace_.scope() as nodes:
        block = _block(trace_, nodes, function(Value(item)), f"node '{node_name}'")
    over = Reference(source=values._name)
    return trace_.add(
        lambda: MapNode(name=node_name, over=over, item=item, block=block, max_items=max_items), node_name
    )


def loop(
    function: Callable[[Any], Any],
    initial: Any,
    /,
    *,
    max_iterations: int,
    until: Callable[[Any], Any] | None = None,
    name: str | None = None,
) -> Value:
    """Run `function` on its own output until ``until(output)`` is true, at most `max_iterations` times."""
    trace_ = _tracing("fm.loop")
    node_name = trace_.name(name, "loop")
    state = trace_.name(None, f"{node_name}_state")
    start = _bind(initial, f"node '{node_name}', initial state")
    with trace_.scope() as nodes:
        output = function(Value(state))
        stop = until(output) if until is not None else None
        if stop is not None and not isinstance(stop, Value):
            raise WorkflowError(
                f"node '{node_name}': until must return the value of a node; use a function decorated with @fm.task"
            )
        block = _block(trace_, nodes, output, f"node '{node_name}'")
    end = Reference(source=stop._name) if stop is not None else None
    return trace_.add(
        lambda: LoopNode(
            name=node_name, state=state, initial=start, block=block, until=end, max_iterations=max_iterations
        ),
        node_name,
    )


def trace(function: Callable[..., Any], *, name: str | None = None, slo: SLO | None = None) -> Workflow:
    """Call a workflow function with handles for its arguments and return the workflow it describes.

    Raises
    ------
    WorkflowError
        If the function uses ``*args`` or ``**kwargs``, or does not return the value of a node.
    """
    inputs: list[Input] = []
    where = f"workflow '{name or function.__name__}'"
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise WorkflowError(f"{where}: inputs have names; '{parameter}' has none")
        if parameter.default is parameter.empty:
            inputs.append(Input(name=parameter.name))
        else:
            try:
                inputs.append(Input(name=parameter.name, required=False, default=parameter.default))
            except ValidationError:
                raise WorkflowError(f"{where}: the default of '{parameter.name}' is not a JSON value") from None
    trace_ = _Trace(taken={item.name for item in inputs})
    token = _current.set(trace_)
    try:
        output = function(**{item.name: Value(item.name) for item in inputs})
    finally:
        _current.reset(token)
    block = _block(trace_, trace_.scopes[0], output, where)
    try:
        made = Workflow(
            name=name or function.__name__,
            description=inspect.getdoc(function) or "",
            inputs=inputs,
            block=block,
            slo=slo,
        )
    except ValidationError as error:
        raise WorkflowError(f"{where}: {error.errors(include_url=False)[0]['msg']}") from None
    check(made)
    return made.with_code(trace_.functions, trace_.schemas)
