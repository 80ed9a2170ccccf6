"""Who may refer to whom in a workflow, and who therefore waits for whom.

Scope is lexical: a node sees the inputs, the nodes beside it, and everything that the nodes around it
see. From outside, a switch, map or loop is one node that needs whatever its inner blocks refer to
outside themselves. This module reads structure only; what is wrong with it, `dask_fmware.spec.checks` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_never

from dask_fmware.spec.workflow import (
    AnyNode,
    Block,
    LoopNode,
    MapNode,
    ModelNode,
    SwitchNode,
    TaskNode,
    Workflow,
    references,
)

__all__ = ["Inner", "Place", "inner", "needs", "places", "uses"]


@dataclass(frozen=True, slots=True)
class Inner:
    """A block held by a node, and what the node adds to it."""

    label: str
    """The label of a branch, ``default``, or the name that the block has for its item or state."""
    block: Block
    bound: str | None = None
    """A name that exists inside only: the item of a map or the state of a loop."""
    until: str | None = None
    """The name whose value ends a loop; it is looked up inside."""

    @property
    def ends(self) -> tuple[str, ...]:
        """Names that the block must have computed when it is done."""
        output = self.block.output.source
        return (output,) if self.until is None else (output, self.until)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node stands."""

    node: AnyNode
    parent: str | None
    """The node whose block holds it; None at the top."""
    label: str | None
    """Which block of the parent."""
    loops: tuple[str, ...]
    """Loops around it, outermost first."""


def inner(node: AnyNode) -> tuple[Inner, ...]:
    """Blocks held by a node, in the order of the document."""
    match node:
        case SwitchNode():
            branches = tuple(Inner(branch.label, branch.block) for branch in node.branches)
            return branches if node.default is None else (*branches, Inner("default", node.default))
        case MapNode():
            return (Inner(node.item, node.block, bound=node.item),)
        case LoopNode():
            until = None if node.until is None else node.until.source
            return (Inner(node.state, node.block, bound=node.state, until=until),)
        case ModelNode() | TaskNode():
            return ()
        case _:
            assert_never(node)


def uses(node: AnyNode) -> Iterator[tuple[str, str]]:
    """What a node itself refers to: (where it is used, name). Inner blocks are not looked into."""
    match node:
        case ModelNode():
            bindings = {f"field '{key}'": binding for key, binding in node.fields.items()}
            bindings |= {"texts": node.texts} if node.texts is not None else {}
        case TaskNode():
            bindings = {f"argument {i}": binding for i, binding in enumerate(node.args)}
            bindings |= {f"argument '{key}'": binding for key, binding in node.kwargs.items()}
        case SwitchNode():
            bindings = {"on": node.on}
        case MapNode():
            bindings = {"over": node.over}
        case LoopNode():
            bindings = {"initial": node.initial}
        case _:
            assert_never(node)
    for where, binding in bindings.items():
        for source in references(binding):
            yield where, source


def places(workflow: Workflow) -> dict[str, Place]:
    """Every node by name with its surroundings, outer before inner, in the order of the document."""
    found: dict[str, Place] = {}

    def enter(block: Block, parent: str | None, label: str | None, loops: tuple[str, ...]) -> None:
        for node in block.nodes:
            found[node.name] = Place(node, parent, label, loops)
            within = (*loops, node.name) if isinstance(node, LoopNode) else loops
            for held in inner(node):
                enter(held.block, node.name, held.label, within)

    enter(workflow.block, None, None, ())
    return found


def needs(block: Block) -> dict[str, frozenset[str]]:
    """What each node of a block and of the blocks inside it needs from outside itself, by node name."""
    found: dict[str, frozenset[str]] = {}

    def enter(block: Block) -> set[str]:
        outside: set[str] = set()
        for node in block.nodes:
            wanted = {source for _, source in uses(node)}
            for held in inner(node):
                wanted |= {*enter(held.block), *held.ends} - {held.bound} - {n.name for n in held.block.nodes}
            found[node.name] = frozenset(wanted)
            outside |= wanted
        return outside

    enter(block)
    return found
