"""From a block of nodes to steps: what can be decided once for a workflow and not for each run.

Switches dissolve into guards on the nodes of their branches and one merge; consecutive plain code is
fused into one step, since a hop between tasks costs milliseconds; maps and loops become one step that
holds the template of its body.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from dask_fmware.compile.fusion import fuse
from dask_fmware.compile.shared import Shared
from dask_fmware.compile.steps import CallStep, Function, Identity, Merge, PlainStep, StepGuard
from dask_fmware.compile.values import Slot, slots
from dask_fmware.errors import WorkflowError
from dask_fmware.model.call import ModelCall, Template
from dask_fmware.model.engine import Sampling
from dask_fmware.model.plan import Guard, PlannedNode, SwitchRule
from dask_fmware.spec.graph import answer_nodes, order
from dask_fmware.spec.prompt import literal_bytes
from dask_fmware.spec.scopes import needs, uses
from dask_fmware.spec.workflow import (
    AnyNode,
    Binding,
    Block,
    MapNode,
    ModelNode,
    SwitchNode,
    TaskNode,
    Workflow,
)

__all__ = ["BlockTemplate", "LoopStep", "MapStep", "Step", "given", "template"]


@dataclass(frozen=True, slots=True)
class MapStep:
    """A block run once for each item of a list."""

    workflow: str
    node: str
    body: BlockTemplate = field(repr=False)
    over: Slot = field(repr=False)
    item: str
    max_items: int
    sources: tuple[str, ...]
    guards: tuple[StepGuard, ...] = ()
    decides: tuple[SwitchRule, ...] = ()


@dataclass(frozen=True, slots=True)
class LoopStep:
    """A block run on its own output."""

    workflow: str
    node: str
    body: BlockTemplate = field(repr=False)
    state: str
    initial: Slot = field(repr=False)
    until: str | None
    max_iterations: int
    sources: tuple[str, ...]
    guards: tuple[StepGuard, ...] = ()
    decides: tuple[SwitchRule, ...] = ()


Payload: TypeAlias = CallStep | PlainStep | MapStep | LoopStep


@dataclass(frozen=True, slots=True)
class Step:
    """One task of a run."""

    name: str  # of its last node
    payload: Payload
    after: tuple[str, ...]  # steps whose values it takes
    model: str | None = None
    max_tokens: int = 0
    prompt_bytes: int = 0  # of the fixed text of its prompt
    inputs_in_prompt: tuple[str, ...] = ()
    answers: bool = False
    embeds: bool = False
    shared: Shared[Payload] = field(init=False, repr=False)  # the payload as it travels

    def __post_init__(self) -> None:
        object.__setattr__(self, "shared", Shared(self.payload, _functions(self.payload)))


@dataclass(frozen=True, slots=True)
class BlockTemplate:
    """Steps in topological order, and where the result comes from."""

    workflow: str
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]  # steps: the result first, then the condition that ends a loop
    inputs: tuple[str, ...]
    switches_on_inputs: tuple[tuple[str, SwitchRule], ...] = ()  # (input, rule)
    keys: Mapping[str, str] = field(init=False, repr=False)  # Dask key of each step, but for the run id
    planned: Shared[tuple[PlannedNode, ...]] = field(init=False, repr=False)  # as the router sees the steps

    def __post_init__(self) -> None:
        keys = {step.name: f"{self.workflow}.{step.name}-" for step in self.steps}
        planned = tuple(
            PlannedNode(
                name=step.name,
                key=keys[step.name],
                after=step.after,
                model=step.model,
                max_tokens=step.max_tokens,
                prompt_bytes=step.prompt_bytes,
                guards=tuple(Guard(guard.rule.switch, guard.branch) for guard in step.payload.guards),
                answers=step.answers,
                embeds=step.embeds,
            )
            for step in self.steps
        )
        object.__setattr__(self, "keys", keys)
        object.__setattr__(self, "planned", Shared(planned))


def _functions(payload: Payload) -> Iterator[Callable[..., Any]]:
    """Return the code in a payload: functions of tasks, and classes that answers are validated by."""
    match payload:
        case PlainStep():
            yield from (made.function for made in payload.operations if isinstance(made, Function))
        case MapStep() | LoopStep():
            for step in payload.body.steps:
                yield from _functions(step.payload)
        case CallStep():
            yield from [payload.call.schema] if payload.call.schema is not None else []


def given(name: str) -> str:
    """Name of what a promised input is computed from; no node has such a name."""
    return f"given {name}"


def template(workflow: Workflow, promised: frozenset[str] = frozenset()) -> BlockTemplate:
    """Return the template of a workflow whose functions are attached.

    Parameters
    ----------
    workflow
        To be compiled.
    promised
        Inputs that are still to be computed when a run is submitted: each that is used gets a step that waits for it.

    Raises
    ------
    WorkflowError
        If the workflow is not sound, or a task node has no function.
    """
    workflow.check()
    for name, node in workflow.nodes.items():
        if isinstance(node, TaskNode) and name not in workflow.functions:
            raise WorkflowError(
                f"workflow '{workflow.name}', node '{name}': its function '{node.function}' was not supplied; "
                "load the document with tasks=[...]"
            )
    compiler = _Compiler(workflow)
    inputs = tuple(i.name for i in workflow.inputs)
    return compiler.block(workflow.block, inputs, answers=answer_nodes(workflow), promised=promised)


class _Compiler:
    """Reads one workflow; holds what all of its blocks share."""

    def __init__(self, workflow: Workflow) -> None:
        self.workflow = workflow
        self.needs = needs(workflow.block)
        self.rank = {name: i for i, name in enumerate(order(workflow))}

    def block(
        self,
        block: Block,
        inputs: tuple[str, ...],
        *,
        answers: frozenset[str] = frozenset(),
        until: str | None = None,
        promised: frozenset[str] = frozenset(),
    ) -> BlockTemplate:
        steps: dict[str, Payload] = {}
        nodes: dict[str, AnyNode] = {}
        self._flatten(block, (), steps, nodes)
        rules = {name: _rule(node) for name, node in nodes.items() if isinstance(node, SwitchNode)}
        outputs = [block.output.source, *([until] if until is not None else [])]
        used = {*outputs, *(source for payload in steps.values() for source in payload.sources)}
        steps |= {  # what nothing uses would be a node of the plan without a task
            name: PlainStep(self.workflow.name, (Identity(name, given(name)),), (given(name),))
            for name in inputs
            if name in promised and name in used
        }
        for i, name in enumerate(outputs):
            if name not in steps:  # an input or an outer value is handed through
                outputs[i] = f"value of {name}"  # no node has such a name
                steps[outputs[i]] = PlainStep(self.workflow.name, (Identity(outputs[i], name),), (name,))
        decides: dict[str, list[SwitchRule]] = {}
        for name, rule in rules.items():
            decides.setdefault(_switch(nodes[name]).on.source, []).append(rule)
        for name, found in decides.items():
            if name in steps:
                steps[name] = _deciding(steps[name], tuple(found))
        fuse(steps, frozenset(outputs))
        rank = {name: self.rank.get(name, len(self.rank)) for name in steps}
        made = [self._step(name, steps, nodes, name in answers) for name in _topological(steps, rank)]
        return BlockTemplate(
            workflow=self.workflow.name,
            steps=tuple(made),
            outputs=tuple(outputs),
            inputs=inputs,
            switches_on_inputs=tuple(
                (name, rule)
                for name, found in decides.items()
                if name not in steps and name in inputs
                for rule in found
            ),
        )

    def _flatten(
        self, block: Block, guards: tuple[StepGuard, ...], steps: dict[str, Payload], nodes: dict[str, AnyNode]
    ) -> None:
        """Make one step for each node, looking into switches but not into maps and loops."""
        for node in block.nodes:
            nodes[node.name] = node
            steps[node.name] = self._payload(node, guards)
            if isinstance(node, SwitchNode):
                rule = _rule(node)
                for number, inner in enumerate(_branches(node)):
                    guard = StepGuard(node.on.source, rule, number)
                    self._flatten(inner, (*guards, guard), steps, nodes)

    def _payload(self, node: AnyNode, guards: tuple[StepGuard, ...]) -> Payload:
        name = self.workflow.name
        sources = list(dict.fromkeys([source for _, source in uses(node)]))
        if isinstance(node, SwitchNode):
            outputs = tuple(block.output.source for block in _branches(node))
            sources = list(dict.fromkeys([node.on.source, *outputs]))
            operation = Merge(node.name, node.on.source, _rule(node), outputs)
            return PlainStep(name, (operation,), _with_guards(sources, guards), guards)
        if isinstance(node, TaskNode):
            function = Function(
                node.name,
                self.workflow.functions[node.name],
                tuple(slots(arg) for arg in node.args),
                {key: slots(arg) for key, arg in node.kwargs.items()},
            )
            return PlainStep(name, (function,), _with_guards(sources, guards), guards)
        if isinstance(node, ModelNode):
            return CallStep(
                _model_call(self.workflow, node),
                {key: slots(binding) for key, binding in _fields(node).items()},
                _with_guards(sources, guards),
                guards,
            )
        captured = sorted(self.needs[node.name] - set(sources))
        sources += captured
        if isinstance(node, MapNode):
            body = self.block(node.block, (node.item, *sorted(self.needs[node.name])))
            return MapStep(
                name,
                node.name,
                body,
                slots(node.over),
                node.item,
                node.max_items,
                _with_guards(sources, guards),
                guards,
            )
        until = node.until.source if node.until is not None else None
        body = self.block(node.block, (node.state, *sorted(self.needs[node.name])), until=until)
        return LoopStep(
            name,
            node.name,
            body,
            node.state,
            slots(node.initial),
            until,
            node.max_iterations,
            _with_guards(sources, guards),
            guards,
        )

    def _step(self, name: str, steps: Mapping[str, Payload], nodes: Mapping[str, AnyNode], answers: bool) -> Step:
        payload, node = steps[name], nodes.get(name)
        after = tuple(source for source in payload.sources if source in steps)
        if not isinstance(payload, CallStep) or not isinstance(node, ModelNode):
            return Step(name, payload, after)
        texts = [node.prompt] if node.prompt is not None else [turn.content for turn in node.messages or ()]
        if answers:
            payload = replace(payload, call=replace(payload.call, answers=True))
        return Step(
            name,
            payload,
            after,
            model=node.model,
            max_tokens=node.most_output_tokens,
            prompt_bytes=sum(literal_bytes(text or "") for text in texts),
            inputs_in_prompt=_in_prompt(node, steps),
            answers=answers,
            embeds=node.embeds,
        )


def _switch(node: AnyNode) -> SwitchNode:
    assert isinstance(node, SwitchNode)
    return node


def _branches(node: SwitchNode) -> list[Block]:
    """Blocks in the order of their numbers; that of all other values is the last."""
    return [*(branch.block for branch in node.branches), *([node.default] if node.default else [])]


def _rule(node: SwitchNode) -> SwitchRule:
    return SwitchRule(node.name, tuple(branch.label for branch in node.branches), node.default is not None)


def _with_guards(sources: list[str], guards: tuple[StepGuard, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*sources, *(guard.source for guard in guards)]))


def _deciding(payload: Payload, rules: tuple[SwitchRule, ...]) -> Payload:
    if isinstance(payload, CallStep):
        return replace(payload, call=replace(payload.call, decides=rules))
    return replace(payload, decides=rules)


def _in_prompt(node: ModelNode, steps: Collection[str]) -> tuple[str, ...]:
    """Inputs that stand in a prompt; of texts that are embedded each has the context to itself."""
    return () if node.embeds else tuple(source for _, source in uses(node) if source not in steps)


def _fields(node: ModelNode) -> Mapping[str, Binding]:
    """What a call takes of its run."""
    return node.fields if node.texts is None else {"texts": node.texts}


def _model_call(workflow: Workflow, node: ModelNode) -> ModelCall:
    turns = tuple(Template(turn.content, turn.role) for turn in node.messages or ())
    return ModelCall(
        workflow=workflow.name,
        node=node.name,
        model=node.model,
        templates=() if node.embeds else turns or (Template(node.prompt or ""),),
        max_tokens=node.most_output_tokens,
        sampling=Sampling(node.temperature, node.top_p, node.top_k, node.seed, tuple(node.stop)),
        choices=tuple(node.choices) if node.choices is not None else None,
        json_schema=node.json_schema,
        schema=workflow.schemas.get(node.name),
        embeds=node.embeds,
    )


def _topological(steps: Mapping[str, Payload], rank: Mapping[str, int]) -> list[str]:
    done: dict[str, Any] = {}

    def visit(name: str) -> None:
        if name not in done:
            for source in steps[name].sources:
                if source in steps:
                    visit(source)
            done[name] = None

    for name in sorted(steps, key=rank.__getitem__):
        visit(name)
    return list(done)
