"""A workflow as shapes, frames and links: what mermaid draws.

Shapes show names, models and the form or length of answers; a prompt is never shown. How it looks is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from dask_fmware.spec.graph import order
from dask_fmware.spec.record import shorten
from dask_fmware.spec.scopes import Inner, inner, uses
from dask_fmware.spec.workflow import (
    AnyNode,
    Block,
    LoopNode,
    MapNode,
    ModelNode,
    Reference,
    SwitchNode,
    TaskNode,
    Workflow,
)

__all__ = ["Frame", "Link", "Shape", "Sketch", "heading", "lines", "sketch"]

Look: TypeAlias = Literal["model", "task", "switch", "map", "loop", "value"]


@dataclass(frozen=True, slots=True)
class Shape:
    """One thing with text in it."""

    id: str
    look: Look
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """An arrow between two shapes."""

    source: str
    target: str
    label: str = ""


@dataclass(slots=True)
class Frame:
    """Shapes with a border and a title around them."""

    id: str
    title: str
    shapes: list[Shape] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)

    def every_shape(self) -> Iterator[Shape]:
        """Shapes of this frame and of those in it."""
        yield from self.shapes
        for frame in self.frames:
            yield from frame.every_shape()


@dataclass(frozen=True, slots=True)
class Sketch:
    """All of a drawing."""

    frame: Frame
    links: tuple[Link, ...]


def lines(node: AnyNode) -> tuple[str, ...]:
    """What is written in a node: its name, and what it runs."""
    match node:
        case ModelNode():
            return (node.name, f"{node.model} · {_answer(node)}")
        case TaskNode():
            return (node.name, f"{node.function.rpartition(':')[2].rpartition('.')[2]}()")
        case _:
            return (node.name,)


def _answer(node: ModelNode) -> str:
    """What a call may answer: its form, or its length where it has none."""
    if node.embeds:
        return "vectors"
    if node.choices is not None:
        return f"one of {len(node.choices):,} labels" if len(node.choices) > 1 else "one label"
    if node.json_schema is not None:
        title = node.json_schema.get("title")
        return shorten(title) if title and isinstance(title, str) else "JSON"
    return f"{node.max_tokens:,} tokens"


def heading(node: AnyNode) -> str:
    """What is written above the blocks of a switch, map or loop."""
    match node:
        case SwitchNode():
            return f"{node.name}: switch on {node.on.source}"
        case MapNode():
            over = node.over.source if isinstance(node.over, Reference) else "a list"
            return f"{node.name}: for each of {over}, at most {node.max_items:,}"
        case LoopNode():
            until = f" until {node.until.source}" if node.until is not None else ""
            return f"{node.name}: repeat{until}, at most {node.max_iterations:,} times"
        case ModelNode() | TaskNode():
            return node.name


def sketch(workflow: Workflow) -> Sketch:
    """Sketch a workflow that passes `check`."""
    return _Sketcher(workflow).made


class _Sketcher:
    def __init__(self, workflow: Workflow) -> None:
        self.count = 0
        self.shown: dict[str, tuple[str, ...]] = {}  # shapes that stand for the value of a name
        self.parts: dict[str, tuple[str, ...]] = {}  # names whose values are that of a switch, map or loop
        self.links: dict[Link, None] = {}
        self.waiting: list[tuple[str, str]] = []  # (name, shape that uses it), linked when every end is known
        top = Frame(self.id(), workflow.name)
        for item in workflow.inputs:
            top.shapes.append(self.shape("value", (item.name,)))
            self.shown[item.name] = (top.shapes[-1].id,)
        self.block(workflow.block, top)
        top.shapes.append(self.shape("value", ("answer",)))
        self.waiting.append((workflow.block.output.source, top.shapes[-1].id))
        for name in order(workflow):  # so that each value is found from values already found
            self.value(name)
        for name, target in self.waiting:
            self.links.update((Link(source, target), None) for source in self.value(name))
        self.made = Sketch(top, tuple(self.links))

    def id(self) -> str:
        self.count += 1
        return f"n{self.count}"

    def shape(self, look: Look, text: tuple[str, ...]) -> Shape:
        return Shape(self.id(), look, text)

    def value(self, name: str) -> tuple[str, ...]:
        """Shapes that stand for the value of a name."""
        if name not in self.shown:
            self.shown[name] = tuple(dict.fromkeys(shape for part in self.parts[name] for shape in self.value(part)))
        return self.shown[name]

    def block(self, block: Block, frame: Frame) -> None:
        for node in block.nodes:
            match node:
                case SwitchNode():
                    self.switch(node, frame)
                case MapNode() | LoopNode():
                    self.repeated(node, frame)
                case ModelNode() | TaskNode():
                    frame.shapes.append(self.shape(node.kind, lines(node)))
                    self.shown[node.name] = (frame.shapes[-1].id,)
                    self.waiting += [(source, frame.shapes[-1].id) for _, source in uses(node)]

    def switch(self, node: SwitchNode, frame: Frame) -> None:
        decision = self.shape("switch", lines(node))
        frame.shapes.append(decision)
        self.waiting.append((node.on.source, decision.id))
        ends: list[str] = []
        for held in inner(node):
            lane = Frame(self.id(), held.label)
            frame.frames.append(lane)
            self.block(held.block, lane)
            ends += self.close(held, lane)
            for entry in self.entries(held.block, lane):
                self.links[Link(decision.id, entry, held.label)] = None
        self.parts[node.name] = tuple(ends)

    def repeated(self, node: MapNode | LoopNode, frame: Frame) -> None:
        (held,) = inner(node)
        body = Frame(self.id(), heading(node))
        frame.frames.append(body)
        start = self.shape("value", (held.label,))
        body.shapes.append(start)
        self.shown[held.label] = (start.id,)
        self.waiting += [(source, start.id) for _, source in uses(node)]
        self.block(held.block, body)
        self.parts[node.name] = self.close(held, body)

    def close(self, held: Inner, frame: Frame) -> tuple[str, ...]:
        """Names that stand for the end of a block; what it passes on from outside gets a shape of its own."""
        made = {node.name for node in held.block.nodes} | {held.bound}
        if held.block.output.source in made:
            return tuple(dict.fromkeys(held.ends))
        frame.shapes.append(self.shape("value", (held.block.output.source,)))
        self.waiting.append((held.block.output.source, frame.shapes[-1].id))
        passed = f"passed on in {frame.id}"  # no name of a workflow has a space
        self.shown[passed] = (frame.shapes[-1].id,)
        return (passed, *held.ends[1:])

    def entries(self, block: Block, lane: Frame) -> list[str]:
        """Shapes of a branch that wait for nothing else in it."""
        names = {node.name for node in block.nodes}
        direct = [node for node in block.nodes if isinstance(node, ModelNode | TaskNode)]
        free = [self.shown[node.name][0] for node in direct if not names & {source for _, source in uses(node)}]
        return free or [shape.id for shape in list(lane.every_shape())[:1]]
