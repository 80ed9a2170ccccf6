"""The workflow that is being traced: handles for its values, the nodes so far, the names that are taken.

A handle stands for something that exists only at run time, so asking it for its truth, length, text or
items raises and says what to write instead. What kinds of nodes there are is the business of
`dask_fmware.spec.calls` and `dask_fmware.spec.control`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError

from dask_fmware.errors import WorkflowError
from dask_fmware.spec.record import complaint, shorten
from dask_fmware.spec.workflow import AnyNode, Binding, Block, Constant, Dictionary, Reference, Sequence

__all__ = ["Known", "Recording", "Value", "bind", "recorded", "recording", "required"]

MAX_BINDING_DEPTH = 50
MAX_NAME_CHARACTERS = 80

_FIELD = "name a field in the prompt and pass the value: model('... {field}', field=value)"
_TASK = "compute with it inside a function decorated with @fm.task"
_SWITCH = "branch with fm.switch(value, {label: branch}), or decide inside a function decorated with @fm.task"
_SHOWN = re.compile(r"<value of '(.+?)'>")  # the repr of a handle


class Value:
    """A value that exists only at run time: an input or the output of a node."""

    __slots__ = ("_name", "_recording")

    def __init__(self, name: str, recording: Recording | None = None) -> None:
        self._name = name
        self._recording = recording

    def __repr__(self) -> str:
        return f"<value of '{self._name}'>"

    def _refuse(self, what: str, instead: str) -> NoReturn:
        raise WorkflowError(f"the value of '{self._name}' has no {what} while the workflow is traced; {instead}")

    def __bool__(self) -> bool:
        self._refuse("truth", _SWITCH)

    def __eq__(self, other: object) -> bool:
        self._refuse("equality", _SWITCH)

    __hash__ = object.__hash__

    def _compare(self, other: object) -> bool:
        self._refuse("order", _TASK)

    __lt__ = __le__ = __gt__ = __ge__ = _compare

    def __iter__(self) -> Iterator[Any]:
        self._refuse("items", "use fm.map(function, value), or a function decorated with @fm.task")

    def __contains__(self, item: object) -> bool:
        self._refuse("items", _TASK)

    def __getitem__(self, item: object) -> NoReturn:
        self._refuse("items", "pick it inside a function decorated with @fm.task")

    def __len__(self) -> int:
        self._refuse("length", _TASK)

    def __format__(self, spec: str) -> str:
        self._refuse("text", _FIELD + " instead of an f-string")

    def __str__(self) -> str:
        self._refuse("text", _FIELD)

    def _number(self) -> NoReturn:
        self._refuse("number", _TASK)

    __int__ = __float__ = __index__ = __neg__ = _number

    def _combine(self, other: object) -> NoReturn:
        self._refuse("content", f"{_FIELD}, or {_TASK}")

    __add__ = __radd__ = __mul__ = __rmul__ = __mod__ = __rmod__ = __sub__ = __rsub__ = _combine
    __truediv__ = __rtruediv__ = __and__ = __rand__ = __or__ = __ror__ = _combine

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: a value has no methods."""
        self._refuse("methods", _TASK)

    def __getattr__(self, attribute: str) -> NoReturn:
        if attribute.startswith("_"):  # protocols of Python and of notebooks ask for these
            raise AttributeError(attribute)
        self._refuse(f"attribute '{attribute}'", "read it inside a function decorated with @fm.task")


class Known(Value):
    """An input of a workflow that is called in another, and given a constant there.

    Its function gets a handle for each of its inputs, as when it was traced alone.
    """

    __slots__ = ("_held",)

    def __init__(self, name: str, held: Any) -> None:
        super().__init__(name)
        self._held = held


@dataclass(slots=True, eq=False)
class Recording:
    """One workflow while it is traced."""

    workflow: str
    """Its name."""
    taken: set[str]
    """Names of inputs, nodes, items and states."""
    scopes: list[list[AnyNode]] = field(default_factory=lambda: [[]])
    """Nodes of the block that is traced, innermost last."""
    functions: dict[str, Callable[..., Any]] = field(default_factory=dict)
    schemas: dict[str, type[BaseModel]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    """How often a base of names has been used."""
    called: int = 0
    """How many workflows are traced that it calls, one in another; their nodes may be named as others are."""

    def wrong(self, node: str, what: str) -> WorkflowError:
        """Make an error about a node."""
        return WorkflowError(f"workflow '{self.workflow}', node '{node}': {what}")

    def name(self, wanted: object, base: str) -> str:
        """Take the name that was asked for, or one made from `base`; those of a called workflow are counted on."""
        if isinstance(wanted, Value):
            raise WorkflowError(
                f"workflow '{self.workflow}': name=... names the node and takes text, not {wanted!r}; "
                "give the field of the prompt another name"
            )
        if wanted is None:
            base = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in base)[:MAX_NAME_CHARACTERS]
            base = base if base and (base[0].isalpha() or base[0] == "_") else f"_{base}"
        else:
            if not isinstance(wanted, str):
                raise WorkflowError(f"workflow '{self.workflow}': a node is named by text, not {shorten(repr(wanted))}")
            if wanted in self.taken and not self.called:
                raise self.wrong(shorten(wanted), "the name is taken; give each node a name of its own")
            base = wanted
        # Counting on from the last use keeps ten thousand calls of one model linear.
        n = self.counts.get(base, 0) + 1
        while (name := base if n == 1 else f"{base}_{n}") in self.taken:
            n += 1
        self.counts[base] = n
        self.taken.add(name)
        return name

    def add(self, name: str, build: Callable[[], AnyNode]) -> Value:
        """Build a node into the block that is traced and return its value."""
        try:
            node = build()
        except ValidationError as error:
            raise self.wrong(shorten(name), str(complaint(error))) from None
        self.scopes[-1].append(node)
        return Value(name, self)

    def value(self, name: str) -> Value:
        """Return a handle for an input, item or state."""
        return Value(name, self)

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Trace a workflow that this one calls, perhaps not for the first time."""
        self.called += 1
        try:
            yield
        finally:
            self.called -= 1

    @contextmanager
    def scope(self) -> Iterator[list[AnyNode]]:
        """Trace into a block of its own."""
        self.scopes.append([])
        try:
            yield self.scopes[-1]
        finally:
            self.scopes.pop()

    def refer(self, value: Value, where: str) -> Reference:
        """Refer to a value of this workflow."""
        if isinstance(value, Known):
            raise WorkflowError(
                f"{where}: the input '{value._name}' was given a constant where the value of a node is needed; "
                "return it from a function decorated with @fm.task"
            )
        if value._recording is not self:
            raise WorkflowError(
                f"{where}: {value!r} belongs to another workflow; pass values between workflows as inputs of their runs"
            )
        return Reference(source=value._name)

    def check_text(self, text: str, where: str) -> None:
        """Refuse a text that shows a handle, as ``f"{value!r}"`` does: no run fills it in."""
        for name in _SHOWN.findall(text):
            if name in self.taken:
                raise WorkflowError(
                    f"{where}: the text shows a placeholder, the repr of the value of '{name}', which no run fills in; "
                    f"{_FIELD}"
                )

    def close(self, nodes: list[AnyNode], output: Any, where: str) -> Block:
        """Close a block whose output is a value made in it or around it."""
        return Block(nodes=nodes, output=self.refer(self.returned(output, where), where))

    def returned(self, output: Any, where: str) -> Value:
        """Return what a traced function has returned, if it is a value."""
        if not isinstance(output, Value):
            raise WorkflowError(
                f"{where} returned {_described(output)} instead of the value of a node or an input; "
                "return what a model call, a task, fm.switch, fm.map or fm.loop gave"
            )
        return output


_current: ContextVar[Recording | None] = ContextVar("dask_fmware_recording", default=None)


def recorded() -> Recording | None:
    """Return the workflow that is being traced, if any."""
    return _current.get()


@contextmanager
def recording(made: Recording) -> Iterator[None]:
    """Trace into `made` until the end of the with statement."""
    token = _current.set(made)
    try:
        yield
    finally:
        _current.reset(token)


def required(what: str) -> Recording:
    """Return the workflow that is being traced; `what` needs one."""
    found = _current.get()
    if found is None:
        raise WorkflowError(f"{what} was called outside a workflow; call it in a function decorated with @fm.workflow")
    return found


def bind(made: Recording, value: Any, where: str, depth: int = 0) -> Binding:
    """Turn an argument into a binding: handles become references, tuples lists, and the rest must be JSON."""
    if depth > MAX_BINDING_DEPTH:
        raise WorkflowError(f"{where}: values are nested deeper than {MAX_BINDING_DEPTH}; flatten them")
    match value:
        case Known():
            return bind(made, value._held, where, depth)
        case Value():
            return made.refer(value, where)
        case list() | tuple():
            items = [bind(made, item, where, depth + 1) for item in value]
            if all(isinstance(item, Constant) for item in items):
                return Constant(value=[item.value for item in items if isinstance(item, Constant)])
            return Sequence(items=items)
        case dict():
            for key in value:
                if not isinstance(key, str):
                    raise WorkflowError(f"{where}: a dictionary has a key of type {type(key).__name__}; keys are text")
            entries = {key: bind(made, item, where, depth + 1) for key, item in value.items()}
            if all(isinstance(item, Constant) for item in entries.values()):
                return Constant(value={key: item.value for key, item in entries.items() if isinstance(item, Constant)})
            return Dictionary(entries=entries)
        case _:
            if isinstance(value, str):
                made.check_text(value, where)
            try:
                return Constant(value=value)
            except ValidationError:
                raise WorkflowError(
                    f"{where}: {_described(value)} cannot be written into a workflow; pass JSON values "
                    "(text, finite numbers, lists, dictionaries), or make it inside a function decorated with @fm.task"
                ) from None


def _described(value: object) -> str:
    if isinstance(value, float):
        return f"the number {value}"
    if isinstance(value, Mapping | list | tuple | set | frozenset) and any(isinstance(item, Value) for item in value):
        return f"a {type(value).__name__} of values"
    return "nothing" if value is None else f"a {type(value).__name__}"
