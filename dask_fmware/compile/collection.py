"""The collection that users submit: a workflow with its inputs, as Dask sees it."""

from __future__ import annotations

import functools
import inspect
import pickle
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, overload

from dask.base import DaskMethodsMixin
from dask.delayed import single_key
from dask.threaded import get as threaded_get

from dask_fmware.compile.dask_internals import AsDelayed
from dask_fmware.compile.graph import Graph, instantiate, new_run_id
from dask_fmware.compile.promises import Awaited, awaited, is_promise
from dask_fmware.compile.template import BlockTemplate, template
from dask_fmware.errors import WorkflowError
from dask_fmware.model.plan import Objective
from dask_fmware.spec.record import checked, did_you_mean, shorten
from dask_fmware.spec.recording import Known, Recording, Value, recorded
from dask_fmware.spec.slo import SLO, RunOptions, checked_slo
from dask_fmware.spec.tracing import trace
from dask_fmware.spec.workflow import Workflow

if TYPE_CHECKING:
    from dask_fmware.profile.budgets import Budgets

__all__ = ["BoundWorkflow", "WorkflowFunction", "workflow"]

_OWN: Any = object()  # an option that is left as it is
_picklable: weakref.WeakSet[Any] = weakref.WeakSet()


class BoundWorkflow(DaskMethodsMixin):  # type: ignore[misc]
    """One run to be: a workflow, its inputs and its options. A Dask collection.

    ``client.compute(bound)`` returns a `distributed.Future` of the result, which is a `Completion` if
    the workflow ends in a model node and whatever its last function returns otherwise. Computing one
    bound workflow twice gives the same run; bind again for another. Calling a workflow makes it.

    Attributes
    ----------
    workflow
        Its document (`Workflow`).
    run_id
        32 hex digits, by which reports, logs and traces speak of the run.
    run_options
        SLO, tenant and priority; `options` changes them.
    """

    def __init__(
        self,
        workflow: Workflow,
        template: BlockTemplate,
        inputs: Mapping[str, Any],
        options: RunOptions,
        run_id: str | None = None,
    ) -> None:
        self.workflow = workflow
        self.run_options = options
        self.run_id = run_id or new_run_id()
        self._template = template
        self._inputs = inputs
        self._graph: Graph | None = None
        self._keys: list[str] = []
        self._is_persisted = False

    def __repr__(self) -> str:
        return f"<{self.workflow.name} run {self.run_id[:8]}, inputs: {', '.join(self._inputs) or 'none'}>"

    def options(
        self, *, slo: SLO | None = _OWN, tenant: str | None = None, priority: int | None = None
    ) -> BoundWorkflow:
        """Return another run of the same workflow and inputs with other options.

        Parameters
        ----------
        slo
            Replaces the workflow's objective; with None the run has none.
        tenant
            Who is accounted and weighted.
        priority
            -1000 to 1000; higher runs first.

        Raises
        ------
        WorkflowError
            If one of them is out of its bounds.
        """
        given = {"tenant": tenant, "priority": priority}
        wanted = {**dict(self.run_options), **{name: value for name, value in given.items() if value is not None}}
        if slo is not _OWN:
            wanted["slo"] = checked_slo(slo, WorkflowError)
        merged = checked(RunOptions, wanted, WorkflowError, f"workflow '{self.workflow.name}'")
        return BoundWorkflow(self.workflow, self._template, self._inputs, merged)

    @property
    def waits(self) -> bool:
        """Whether an input of it is still to be computed."""
        return any(isinstance(value, Awaited) for value in self._inputs.values())

    @property
    def is_plain(self) -> bool:
        """Whether its graph has its own tasks alone: no other collection to compute, and no future."""
        return not self.waits and not self._is_persisted

    def _made(self) -> Graph:
        if self._graph is None:
            self._graph, keys = instantiate(
                self._template,
                self._inputs,
                self.run_id,
                objective=_objective(self.run_options.slo),
                tenant=self.run_options.tenant,
                priority=self.run_options.priority,
            )
            self._keys = keys[:1]
        return self._graph

    # -- the Dask collection interface -----------------------------------------------------------

    def __dask_graph__(self) -> Graph:
        return self._made()

    def __dask_keys__(self) -> list[str]:
        self._made()
        return self._keys

    def __dask_layers__(self) -> tuple[str, ...]:
        return (self.__dask_keys__()[0],)

    def __dask_tokenize__(self) -> str:
        return self.run_id

    __dask_optimize__ = AsDelayed()  # nothing to fuse or cull: the compiler has done it
    __dask_scheduler__ = staticmethod(threaded_get)

    def __dask_postcompute__(self) -> tuple[Callable[..., Any], tuple[()]]:
        # The pair that Delayed has: Dask then adds no finalize task, and the Future carries our own key.
        return single_key, ()

    def __dask_postpersist__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _persisted, (self,)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.workflow)


def _persisted(
    graph: Mapping[str, Any], bound: BoundWorkflow, *, rename: Mapping[str, str] | None = None
) -> BoundWorkflow:
    """Rebuild a bound workflow around the futures of its result."""
    made = BoundWorkflow(bound.workflow, bound._template, bound._inputs, bound.run_options, bound.run_id)
    key = bound.__dask_keys__()[0]
    made._keys = [(rename or {}).get(key, key)]
    made._graph, made._is_persisted = dict(graph), True
    return made


class WorkflowFunction:
    """A workflow that is bound by calling it, as `workflow` returns it."""

    def __init__(self, spec: Workflow, function: Callable[..., Any] | None = None) -> None:
        self.workflow = spec
        self._function = function
        if function is not None:
            functools.update_wrapper(self, function)
        self._templates: dict[tuple[str, ...], BlockTemplate] = {(): template(spec)}  # by promised inputs
        for name, code in spec.functions.items():
            _check_picklable(code, f"workflow '{spec.name}', node '{name}': function '{spec.nodes[name].function}'")  # type: ignore[union-attr]

    def __repr__(self) -> str:
        inputs = ", ".join(i.name if i.required else f"{i.name}={i.default!r}" for i in self.workflow.inputs)
        return f"<workflow {self.workflow.name}({inputs})>"

    def _repr_html_(self) -> str:
        return self.workflow._repr_html_()

    def budgets(self, deployment: Any, profiles: Any = None, *, slo: SLO | None = None, **assumed: Any) -> Budgets:
        """Split the SLO over the nodes, before any run: budgets, feasible or not, and cost per thousand runs.

        Parameters
        ----------
        deployment
            A `Deployment`, the path of its document, or a dictionary.
        profiles
            Where profiles are kept, or profiles; by default where ``dask fmware profile`` keeps them.
        slo
            Instead of the workflow's own.
        **assumed
            By node: ``prompt_tokens``, ``output_tokens``, ``task_s``, ``odds``, ``rounds`` and ``items``, of a map that
            has another number than 1 as a rule; see `dask_fmware.profile.assumptions.Assumptions`.

        Returns
        -------
        Budgets
            Seconds for each node, slack on each card, and the price of a thousand runs; prints as a table. The split is
            that of section 4 of the paper on the critical path.

        Raises
        ------
        SpecError
            The workflow has no SLO in seconds, nothing is known of a model's speed on a card, or there is no such
            assumption, node or branch.
        """
        from dask_fmware.compile.budgeting import workflow_budgets

        return workflow_budgets(self.workflow, deployment, profiles, slo, **assumed)

    def __call__(self, *args: Any, **kwargs: Any) -> BoundWorkflow:
        """Bind inputs, by name or position, to one run.

        An input may be or hold a `distributed.Future`, a `dask.delayed` value, another Dask collection or a bound
        workflow. What needs it then waits until it is computed, while the run's clock goes from its submission.

        In a workflow that is traced its nodes become nodes of that one, whose SLO counts, and its value is returned. A
        switch on an input that is a constant there is decided at once.

        Raises
        ------
        WorkflowError
            If an input is missing, unknown, given twice, or cannot be sent to a worker.
        """
        outer = recorded()
        if outer is not None:
            value: BoundWorkflow = self._traced_into(outer, args, kwargs)  # a handle, as of every call there
            return value
        values, promised = self._named(args, kwargs), []
        for name, value in values.items():
            if not isinstance(value, (str, int, float, bool, type(None))):
                what = f"workflow '{self.workflow.name}': input '{name}' (a {type(value).__name__})"
                if is_promise(value):
                    values[name] = awaited(value, what, _check_sent)
                    promised.append(name)
                else:
                    _check_sent(value, what)
        return self._bound(tuple(promised), values)

    def bind_plain(self, inputs: Mapping[str, Any]) -> BoundWorkflow:
        """Bind inputs by name that are plain data, as JSON has it.

        They are neither searched for futures nor tried whether they can be sent, which takes seconds for some MiB.

        Raises
        ------
        WorkflowError
            If an input is missing or unknown.
        """
        return self._bound((), self._named((), inputs))

    def _bound(self, promised: tuple[str, ...], inputs: Mapping[str, Any]) -> BoundWorkflow:
        options = RunOptions(slo=self.workflow.slo)
        return BoundWorkflow(self.workflow, self._template_with(promised), inputs, options)

    def _named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return all inputs by name, with defaults for those that are not given."""
        spec, where = self.workflow, f"workflow '{self.workflow.name}'"
        names = [item.name for item in spec.inputs]
        listed = ", ".join(names) or "none"
        if len(args) > len(names):
            raise WorkflowError(f"{where}: {len(args)} inputs given, it has {len(names)} (inputs: {listed})")
        values = dict(zip(names, args, strict=False))
        for name, value in kwargs.items():
            if name not in names:
                hint = did_you_mean(name, names)
                raise WorkflowError(f"{where}: unknown input '{shorten(name)}'{hint} (inputs: {listed})")
            if name in values:
                raise WorkflowError(f"{where}: input '{name}' is given twice, by position and by name")
            values[name] = value
        for item in spec.inputs:
            if item.name not in values:
                if item.required:
                    raise WorkflowError(f"{where}: input '{item.name}' is missing (inputs: {listed})")
                values[item.name] = item.default
        return values

    def _traced_into(self, outer: Recording, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        where = f"workflow '{outer.workflow}' calls workflow '{self.workflow.name}'"
        if self._function is None:
            raise WorkflowError(
                f"{where}, which was loaded from a document; give its result as an input of the run instead, or write "
                "both with a plain function that they share"
            )
        try:
            given = inspect.signature(self._function).bind(*args, **kwargs)
        except TypeError as error:
            listed = ", ".join(item.name for item in self.workflow.inputs) or "none"
            raise WorkflowError(f"{where}: {error} (inputs: {listed})") from None
        given.apply_defaults()
        handles = {n: v if isinstance(v, Value) else Known(n, v) for n, v in given.arguments.items()}
        with outer.calling():
            return self._function(**handles)

    def _template_with(self, promised: tuple[str, ...]) -> BlockTemplate:
        if promised not in self._templates:
            self._templates[promised] = template(self.workflow, frozenset(promised))
        return self._templates[promised]


@overload
def workflow(
    definition: Callable[..., Any] | Workflow, /, *, slo: SLO | None = ..., name: str | None = ...
) -> WorkflowFunction: ...
@overload
def workflow(*, slo: SLO | None = ..., name: str | None = ...) -> Callable[[Callable[..., Any]], WorkflowFunction]: ...
def workflow(
    definition: Callable[..., Any] | Workflow | None = None, /, *, slo: SLO | None = None, name: str | None = None
) -> WorkflowFunction | Callable[[Callable[..., Any]], WorkflowFunction]:
    """Make a workflow from a Python function (as a decorator) or from a loaded `Workflow`.

    The function is called once, at decoration, with handles for its inputs; the models, tasks, switches,
    maps and loops that it calls become nodes.

    Parameters
    ----------
    definition
        A function, a `Workflow` whose functions are attached, or what this has returned.
    slo
        Default objective of its runs, instead of a loaded workflow's own; `BoundWorkflow.options` overrides it.
    name
        Instead of the function's or the loaded workflow's name.

    Returns
    -------
    WorkflowFunction
        Call it with inputs to make a `BoundWorkflow`; ``.workflow`` is its document, ``.budgets(deployment)`` plans it.

    Raises
    ------
    WorkflowError
        If the function does something that cannot be traced, or what it describes is no sound graph; the message names
        workflow, node and what to write instead.

    Examples
    --------
    >>> from dask_fmware.spec.tracing import Model
    >>> small = Model("small")
    >>> @workflow(slo=SLO(ttft_s=2.0))
    ... def greet(person):
    ...     return small("Say hello to {person}", person=person, max_tokens=16)
    >>> greet
    <workflow greet(person)>
    """
    slo = checked_slo(slo, WorkflowError)
    if definition is None:
        return lambda function: workflow(function, slo=slo, name=name)
    if isinstance(definition, Workflow):
        return WorkflowFunction(_with_options(definition, name=name, slo=slo))
    if isinstance(definition, WorkflowFunction):
        return WorkflowFunction(_with_options(definition.workflow, name=name, slo=slo), definition._function)
    return WorkflowFunction(trace(definition, name=name, slo=slo), definition)


def _with_options(loaded: Workflow, **options: Any) -> Workflow:
    """Return a workflow with another name or SLO where one is given, and with its code."""
    given = {key: value for key, value in options.items() if value is not None}
    made = checked(Workflow, {**dict(loaded), **given}, WorkflowError, f"workflow '{loaded.name}'")
    return made.with_code(loaded.functions, loaded.schemas)


def _objective(slo: SLO | None) -> Objective | None:
    if slo is None:
        return None
    return Objective(slo.ttft_s, slo.e2e_s, slo.finish_by.timestamp() if slo.finish_by else None, slo.on_miss)


def _check_sent(value: Any, what: str) -> None:
    _check_picklable(value, what, remember=False)


def _check_picklable(value: Any, what: str, *, remember: bool = True) -> None:
    """Raise a WorkflowError that names what cannot be sent to a worker."""
    import cloudpickle

    if remember and inspect.isfunction(value) and value in _picklable:
        return
    try:
        cloudpickle.dumps(value)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, RecursionError, NotImplementedError) as error:
        raise WorkflowError(
            f"{what} cannot be sent to a worker: {error}; make what it refers to (files, locks, connections) "
            "inside the function"
        ) from None
    if remember and inspect.isfunction(value):
        _picklable.add(value)
