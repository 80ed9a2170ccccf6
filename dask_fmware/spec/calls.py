"""Nodes that compute: calls of models, and Python functions as tasks.

Both are used like functions. Inside a workflow that is traced they add a node and return its value; a
model can be called nowhere else, since only a run has a cluster.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import update_wrapper
from typing import Any

from pydantic import BaseModel

from dask_fmware.errors import WorkflowError
from dask_fmware.spec.captured import captured
from dask_fmware.spec.checks import GENERATION
from dask_fmware.spec.function_kind import function_kind
from dask_fmware.spec.record import did_you_mean, shorten
from dask_fmware.spec.recording import Value, bind, recorded, required
from dask_fmware.spec.workflow import ModelNode, TaskNode, Turn

__all__ = ["Model", "Task", "task"]


class Model:
    """A foundation model, by the name that the deployment gives it.

    Called inside a workflow it makes a model node whose value is text, or a label if `choices` are
    given, or an object if `schema` is. Other keyword arguments fill the fields of the prompt. One that embeds is asked
    with `embed`.

    Parameters
    ----------
    name
        Name of the model in the deployment.
    **defaults
        Arguments for every call of it: ``max_tokens``, ``temperature``, ``top_p``, ``top_k``, ``seed``,
        ``stop``, ``choices``.

    Examples
    --------
    >>> from dask_fmware.spec.tracing import trace
    >>> small = Model("small")
    >>> def search(question):
    ...     return small("Rewrite as a search query: {question}", question=question, max_tokens=24)
    >>> [node.name for node in trace(search).block.nodes]
    ['small']
    """

    def __init__(self, name: str, **defaults: Any) -> None:
        if not isinstance(name, str) or not name:
            raise WorkflowError(f"a model is named by a text that is not empty, not {shorten(repr(name))}")
        for key in defaults:
            if key not in GENERATION:
                known = ", ".join(GENERATION)
                raise WorkflowError(
                    f"model '{shorten(name)}': unknown default '{key}'{did_you_mean(key, GENERATION)} (known: {known})"
                )
        self.name = name
        self.defaults = defaults

    def __repr__(self) -> str:
        return f"Model({self.name!r})"

    def __call__(self, prompt: str, /, *, name: str | None = None, schema: Any = None, **arguments: Any) -> Value:
        """Add a completion of `prompt`, a template whose ``{fields}`` are keyword arguments.

        Parameters
        ----------
        prompt
            Template; ``{{`` stands for a brace.
        name
            Name of the node; made from the model's by default.
        schema
            A pydantic class, or a JSON schema, that the output is held to.
        **arguments
            Generation arguments as in `Model`, and a value for each field of the prompt.
        """
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
        turns: list[Any] = [{"role": "user", "content": messages}]
        if isinstance(messages, Mapping) or not isinstance(messages, Iterable):
            raise required(f"model '{shorten(self.name)}'").wrong(
                shorten(str(name or self.name)),
                f"messages is a {type(messages).__name__}; give a text or a list of {{'role': 'user', 'content': ...}}",
            )
        if not isinstance(messages, str | Value):
            turns = list(messages)
        if system is not None:
            turns.insert(0, {"role": "system", "content": system})
        return self._node(name, schema, arguments, messages=turns)

    def embed(self, texts: str | Sequence[str] | Value, /, *, name: str | None = None, **arguments: Any) -> Value:
        """Add the embedding of a text, whose value is its vector, or of a list of texts, whose value is a list of them.

        Parameters
        ----------
        texts
            A text, a list of texts, or the value of either. They are taken as they are and are no templates.
        name
            Name of the node; made from the model's by default.
        **arguments
            Refused: vectors are made of the texts alone.
        """
        made = required(f"model '{shorten(self.name)}'")
        node = made.name(name, self.name)
        for key in (*arguments, *self.defaults):
            raise made.wrong(
                node, f"'{shorten(key)}' is given, and an embedding takes the texts alone; leave it out, and put texts "
                "together in a function decorated with @fm.task"
            )  # fmt: skip
        bound = bind(made, texts, f"workflow '{made.workflow}', node '{node}', texts")
        return made.add(node, lambda: ModelNode(name=node, model=self.name, texts=bound))

    def _node(self, name: str | None, schema: Any, arguments: dict[str, Any], **source: Any) -> Value:
        made = required(f"model '{shorten(self.name)}'")
        node = made.name(name, self.name)
        generation = {**self.defaults, **{k: arguments.pop(k) for k in list(arguments) if k in GENERATION}}
        for key, value in generation.items():
            if isinstance(value, Value):
                raise made.wrong(
                    node, f"{key} is an argument of the call and takes a constant, not {value!r}; "
                    "if it is a field of the prompt, give the field another name",
                )  # fmt: skip
        for template in _templates(source):
            if not isinstance(template, str):
                shown = repr(template) if isinstance(template, Value) else f"a {type(template).__name__}"
                raise made.wrong(
                    node, f"the prompt is {shown}; write a template and pass values as fields: ('{{x}}', x=value)"
                )
            made.check_text(template, f"workflow '{made.workflow}', node '{node}', prompt")
        if schema is not None:
            if isinstance(schema, type) and issubclass(schema, BaseModel):
                made.schemas[node] = schema
                schema = schema.model_json_schema()
            if not isinstance(schema, dict):
                raise made.wrong(node, "schema takes a pydantic class or a JSON schema as a dictionary")
            generation["json_schema"] = schema
        where = f"workflow '{made.workflow}', node '{node}'"
        fields = {key: bind(made, value, f"{where}, field '{key}'") for key, value in arguments.items()}
        return made.add(node, lambda: ModelNode(name=node, model=self.name, fields=fields, **source, **generation))


class Task:
    """A plain Python function that may be a node of a workflow; outside a workflow it is just called."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.signature = inspect.signature(function)
        update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Add a task node, or call the function if no workflow is traced."""
        made = recorded()
        if made is None:
            return self.function(*args, **kwargs)
        called = self.function.__name__
        node = made.name(None, called)
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise made.wrong(node, f"{error}; its signature is {called}{self.signature}") from None
        found = captured(self.function)
        if found is not None:
            raise made.wrong(
                node, f"task '{called}' uses the value of '{found._name}' from around it; pass it as an argument"
            )
        made.functions[node] = self.function
        where = f"workflow '{made.workflow}', node '{node}'"
        return made.add(
            node,
            lambda: TaskNode(
                name=node,
                function=f"{getattr(self.function, '__module__', None) or 'builtins'}:{self.function.__qualname__}",
                args=[bind(made, arg, f"{where}, argument {i}") for i, arg in enumerate(args)],
                kwargs={key: bind(made, arg, f"{where}, argument '{key}'") for key, arg in kwargs.items()},
            ),
        )

    def __get__(self, instance: Any, owner: type | None = None) -> Task:
        """Return, of a method, the task of the method of `instance`, which travels with it."""
        binds = getattr(self.function, "__get__", None)
        return self if instance is None or binds is None else Task(binds(instance, owner))


def task(function: Callable[..., Any]) -> Task:
    """Make a Python function (or coroutine function) usable as a workflow node.

    In a workflow a call of it makes a task node, which runs on a light worker; elsewhere it is called. A function runs
    in a thread, a coroutine function on the worker's event loop. A method is a task of its object, which travels too.

    Parameters
    ----------
    function
        Anything with a name and a signature; it and its arguments travel by pickle.

    Returns
    -------
    Task
        Called like the function.

    Raises
    ------
    WorkflowError
        If it is no function with a name and a signature, by which documents and errors speak of it, or a generator
        function.
    """
    if isinstance(function, Task):
        return function
    if not callable(function):
        raise WorkflowError(f"@fm.task decorates a function, not a {type(function).__name__}")
    if not hasattr(function, "__qualname__"):
        raise WorkflowError(
            f"@fm.task decorates a function with a name, not a {type(function).__name__}; wrap it in def"
        )
    kind = function_kind(function)
    if kind == "generator":
        raise WorkflowError(
            f"@fm.task: '{function.__name__}' is a {kind} function, whose value cannot travel; return a list"
        )
    try:
        return Task(function)
    except ValueError:
        raise WorkflowError(
            f"@fm.task: '{function.__name__}' has no signature to check calls by; wrap it in def"
        ) from None


def _templates(source: dict[str, Any]) -> list[Any]:
    if "prompt" in source:
        return [source["prompt"]]
    return [turn.get("content", "") if isinstance(turn, Mapping) else "" for turn in source["messages"]]
