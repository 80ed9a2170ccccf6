"""What makes a workflow sound; the first thing that does not is raised with its place and the next step.

Only the document is judged: whether a deployment hosts its models and whether its prompts fit their
context, the submission finds out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import networkx as nx

from dask_fmware.errors import UnknownModelError, WorkflowError
from dask_fmware.spec.embedding import embedding_fault, wrong_use
from dask_fmware.spec.json_schema import schema_fault
from dask_fmware.spec.prompt import template_fields
from dask_fmware.spec.record import Record, did_you_mean, shorten
from dask_fmware.spec.scopes import Inner, inner, needs, places, uses
from dask_fmware.spec.workflow import (
    AnyNode,
    Block,
    LoopNode,
    MapNode,
    ModelNode,
    SwitchNode,
    TaskNode,
    Workflow,
)

__all__ = ["GENERATION", "MAX_DEPTH", "MAX_NODES", "check", "check_models"]

MAX_NODES = 10_000
MAX_DEPTH = 50
_HELD = {"block", "default", "branches"}
"""Keys under which blocks stand; their nodes are looked at by themselves."""
GENERATION = ("max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "choices")
"""Arguments of a model call that are no fields of its prompt."""


def check(workflow: Workflow, *, code: bool = False) -> None:
    """Check that a workflow is a sound graph whose nodes are complete.

    Parameters
    ----------
    workflow
        What to check.
    code
        Also require the Python function of every task node.

    Raises
    ------
    WorkflowError
        For the first thing found wrong; the message names workflow, node, value and next step.
    """
    _Check(workflow).run(code)


def check_models(workflow: Workflow, deployed: Collection[str], embedders: Collection[str]) -> None:
    """Raise an error unless all models that a workflow calls are deployed, and those that embed are `embedders`.

    Raises
    ------
    UnknownModelError
        If one is not deployed.
    WorkflowError
        If one that embeds is asked for text, or one that writes text for vectors.
    """
    for node in sorted((n for n in workflow.nodes.values() if isinstance(n, ModelNode)), key=lambda n: n.model):
        if node.model not in deployed:
            raise UnknownModelError(
                f"workflow '{workflow.name}' calls model '{node.model}', which is not deployed"
                f"{did_you_mean(node.model, deployed)} (deployed: {', '.join(deployed) or 'none'}); add it to the "
                "deployment"
            )
        if node.embeds != (node.model in embedders):
            where = f"workflow '{workflow.name}', node '{node.name}'"
            raise WorkflowError(f"{where}: {wrong_use(node.model, node.embeds)}")


class _Check:
    """One check of one workflow; later steps rely on what earlier ones have established."""

    def __init__(self, workflow: Workflow) -> None:
        self.workflow = workflow

    def run(self, code: bool) -> None:
        self.size()
        self.names()
        self.found = places(self.workflow)
        self.text()
        self.references()
        self.cycles()
        for place in self.found.values():
            match place.node:
                case ModelNode() as node:
                    self.model(node)
                case SwitchNode() as node:
                    self.switch(node)
                case LoopNode() as node:
                    self.loop(node)
                case TaskNode() | MapNode():
                    pass
        self.contributions()
        if code:
            self.code()

    def wrong(self, node: str | None, what: str) -> WorkflowError:
        where = f"workflow '{self.workflow.name}'" + (f", node '{node}'" if node is not None else "")
        return WorkflowError(f"{where}: {what}")

    def size(self) -> None:
        # Walked without recursion, so that a document made to be deep cannot exhaust the stack.
        waiting: list[tuple[Block, int, str | None]] = [(self.workflow.block, 0, None)]
        count = 0
        while waiting:
            block, depth, holder = waiting.pop()
            if depth > MAX_DEPTH:
                raise self.wrong(holder, f"blocks are nested deeper than {MAX_DEPTH}; split the workflow")
            count += len(block.nodes)
            if count > MAX_NODES:
                raise self.wrong(None, f"more than {MAX_NODES:,} nodes; split the workflow, or use a map")
            for node in block.nodes:
                waiting.extend((held.block, depth + 1, node.name) for held in inner(node))

    def names(self) -> None:
        for name, kinds in _meanings(self.workflow).items():
            if len(kinds) > 1:
                node = name if any(kind.endswith("node") for kind in kinds) else None
                what = (
                    f"the name '{name}' is given {len(kinds)} times ({', '.join(kinds)}); give each a name of its own"
                )
                raise self.wrong(node, what)

    def text(self) -> None:
        parts: list[tuple[str | None, Record]] = [(None, self.workflow)]
        parts += [(name, place.node) for name, place in self.found.items()]
        for name, part in parts:
            try:
                json.dumps(part.model_dump(mode="json", exclude=_HELD), ensure_ascii=False).encode()
            except ValueError:  # UnicodeEncodeError is one, and so is what pydantic makes of it
                raise self.wrong(
                    name,
                    "a text in it has half of a character (a lone surrogate), which UTF-8 cannot write; "
                    "decode such text with errors='replace'",
                ) from None

    def references(self) -> None:
        inputs = {item.name: None for item in self.workflow.inputs}
        self._enter(self.workflow.block, inputs, None)

    def _enter(self, block: Block, outer: Mapping[str, None], holder: tuple[str, Inner] | None) -> None:
        visible = {**outer, **{node.name: None for node in block.nodes}}
        for node in block.nodes:
            for where, source in uses(node):
                self._visible(source, visible, node.name, where)
            for held in inner(node):
                bound = {held.bound: None} if held.bound is not None else {}
                self._enter(held.block, {**visible, **bound}, (node.name, held))
        name, where = (None, "output") if holder is None else (holder[0], f"output of '{holder[1].label}'")
        self._visible(block.output.source, visible, name, where)
        if holder is not None and holder[1].until is not None:
            self._visible(holder[1].until, visible, name, "until")

    def _visible(self, source: str, visible: Mapping[str, None], node: str | None, where: str) -> None:
        if source in visible:
            return
        home = self._home(source)
        if home is None:
            known = ", ".join(list(visible)[:20]) or "nothing"
            hint = did_you_mean(source, visible)
            raise self.wrong(node, f"{where} refers to '{source}', which does not exist{hint} (in reach: {known})")
        outside, what = home
        raise self.wrong(
            node,
            f"{where} refers to '{source}', which exists only inside {what}; "
            f"make it the output there and use the value of '{outside}'",
        )

    def _home(self, name: str) -> tuple[str, str] | None:
        """The switch, map or loop that a name is inside of, and that in words."""
        for outer, place in self.found.items():
            for held in inner(place.node):
                if name == held.bound or any(node.name == name for node in held.block.nodes):
                    branch = f"branch '{held.label}' of " if isinstance(place.node, SwitchNode) else ""
                    return outer, f"{branch}{place.node.kind} '{outer}'"
        return None

    def cycles(self) -> None:
        wanted = needs(self.workflow.block)
        for block in self.workflow.block.blocks():
            names = {node.name for node in block.nodes}
            waits = nx.DiGraph((name, source) for name in sorted(names) for source in wanted[name] if source in names)
            # find_cycle walks the graph once for each node: only a graph that has a cycle is worth it.
            if nx.is_directed_acyclic_graph(waits):
                continue
            cycle = nx.find_cycle(waits)
            beside = {node.name: node for node in block.nodes}
            links = ", ".join(f"{_user(beside[user], source)} uses '{source}'" for user, source, *_ in cycle)
            raise self.wrong(cycle[0][0], f"nodes wait for each other in a cycle: {links}; take one of these away")

    def model(self, node: ModelNode) -> None:
        where = f"workflow '{self.workflow.name}', node '{node.name}'"
        given = [name for name in ("prompt", "messages", "texts") if getattr(node, name) is not None]
        if len(given) != 1:
            what = f"both {' and '.join(given[:2])}" if given else "neither prompt nor messages nor texts"
            raise self.wrong(node.name, f"{what} given; give one of them")
        if node.embeds:
            if (fault := embedding_fault(node)) is not None:
                raise self.wrong(node.name, fault)
            return
        if node.messages is not None and not node.messages:
            raise self.wrong(node.name, "messages is empty; give at least one message")
        templates = [node.prompt] if node.prompt is not None else [turn.content for turn in node.messages or ()]
        asked = dict.fromkeys(field for template in templates for field in template_fields(template, where))
        missing = [field for field in asked if field not in node.fields]
        unused = [field for field in node.fields if field not in asked]
        if unused:
            hint = did_you_mean(unused[0], [*missing, *GENERATION])
            raise self.wrong(
                node.name,
                f"field '{shorten(unused[0])}' is given but the prompt does not use it{hint} "
                f"(fields of the prompt: {_listed(asked)}); use it in the prompt or remove it",
            )
        if missing:
            raise self.wrong(
                node.name,
                f"the prompt has the field '{shorten(missing[0])}' but no value is given for it "
                f"(given: {_listed(node.fields)}); pass {shorten(missing[0])}=..., or write {{{{ for a literal brace",
            )
        if node.choices is not None:
            if node.json_schema is not None:
                raise self.wrong(node.name, "both choices and json_schema given; an output has one form: remove one")
            twice = _first_repeated(node.choices)
            if twice is not None:
                raise self.wrong(node.name, f"choices has the label '{shorten(twice)}' twice; remove one")
        if node.json_schema is not None and node.name not in self.workflow.schemas:  # a class is asked, not its schema
            fault = schema_fault(node.json_schema)
            if fault is not None:
                raise self.wrong(node.name, f"json_schema is no sound JSON schema: {fault}; correct it")

    def switch(self, node: SwitchNode) -> None:
        labels = [branch.label for branch in node.branches]
        twice = _first_repeated(labels)
        if twice is not None:
            raise self.wrong(node.name, f"two branches have the label '{shorten(twice)}'; give each its own")
        place = self.found.get(node.on.source)
        choices = place.node.choices if place is not None and isinstance(place.node, ModelNode) else None
        if choices is None:
            return
        for label in labels:
            if label not in choices:
                raise self.wrong(
                    node.name,
                    f"no choice of '{node.on.source}' is '{shorten(label)}'{did_you_mean(label, choices)} "
                    f"(choices: {_listed(choices)}); remove the branch or add the choice",
                )
        for choice in choices:
            if choice not in labels and node.default is None:
                raise self.wrong(
                    node.name,
                    f"no branch for '{shorten(choice)}', a choice of '{node.on.source}' "
                    f"(branches: {_listed(labels)}); add the branch or a default",
                )

    def loop(self, node: LoopNode) -> None:
        # With until, a loop that ignores its state is "try again until it is good"; without, it is a mistake.
        if node.until is None and node.state not in _mentioned(node.block):
            raise self.wrong(
                node.name,
                f"the block never uses the state '{node.state}', so each iteration repeats the first; "
                "use the state, add until, or run the block once without a loop",
            )
        place = self.found.get(node.until.source) if node.until is not None else None
        if place is None or not isinstance(place.node, ModelNode):
            return
        schema = place.node.json_schema
        if schema is None or place.node.name in self.workflow.schemas or not _may_be_false(schema):
            kind = "a vector" if place.node.embeds else "text" if schema is None else "an object"
            raise self.wrong(
                node.name,
                f"until is the output of model node '{place.node.name}': its value is {kind}, which is always true; "
                "compare it in a function decorated with @fm.task",
            )

    def contributions(self) -> None:
        wanted = needs(self.workflow.block)

        def judge(block: Block, ends: Iterable[str], aim: str) -> None:
            beside = {node.name: node for node in block.nodes}
            useful: set[str] = set()
            waiting = list(ends)
            while waiting:
                name = waiting.pop()
                if name in beside and name not in useful:
                    useful.add(name)
                    waiting.extend(wanted[name])
            for name, node in beside.items():
                if name not in useful:
                    raise self.wrong(
                        name, f"its value does not contribute to {aim}; use it there, return it, or remove the node"
                    )
                for held in inner(node):
                    judge(held.block, held.ends, f"the output of '{held.label}' in node '{name}'")

        judge(self.workflow.block, [self.workflow.block.output.source], "the output of the workflow")

    def code(self) -> None:
        for name, place in self.found.items():
            if isinstance(place.node, TaskNode) and name not in self.workflow.functions:
                raise self.wrong(
                    name,
                    f"its function '{shorten(place.node.function)}' was not supplied; "
                    "load the workflow with tasks=[...] that holds it",
                )


def _meanings(workflow: Workflow) -> dict[str, list[str]]:
    """What each name stands for: one entry for each time it is given."""
    given: dict[str, list[str]] = {}
    for item in workflow.inputs:
        given.setdefault(item.name, []).append("input")
    for node in workflow.block.walk():
        given.setdefault(node.name, []).append(f"{node.kind} node")
        for held in inner(node):
            if held.bound is not None:
                given.setdefault(held.bound, []).append(f"{'item' if node.kind == 'map' else 'state'} of '{node.name}'")
    return given


def _user(node: AnyNode, source: str) -> str:
    """The node that refers to `source`, itself or inside, in words."""
    if any(name == source for _, name in uses(node)):
        return f"'{node.name}'"
    for held in inner(node):
        for deep in held.block.walk():
            if any(name == source for _, name in uses(deep)):
                return f"'{deep.name}' inside '{node.name}'"
    return f"the output inside '{node.name}'"


def _may_be_false(schema: Mapping[str, Any]) -> bool:
    """Whether values of a JSON schema are truth values or numbers, by its type."""
    kinds = schema.get("type")
    listed = kinds if isinstance(kinds, list) else [kinds]
    return bool(listed) and all(kind in ("boolean", "integer", "number", "null") for kind in listed)


def _mentioned(block: Block) -> set[str]:
    """Names that a block refers to, at any depth."""
    names = {source for node in block.walk() for _, source in uses(node)}
    return names | {inside.output.source for inside in block.blocks()}


def _first_repeated(labels: Iterable[str]) -> str | None:
    return next((label for label, count in Counter(labels).items() if count > 1), None)


def _listed(names: Iterable[str]) -> str:
    return shorten(", ".join(names), 200) or "none"
