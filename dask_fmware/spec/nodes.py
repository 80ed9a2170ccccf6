"""What a node is: a model call, a task, a switch, a map or a loop, and the block that holds nodes.

This is the form of a document alone; whether nodes fit together, `dask_fmware.spec.checks` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, JsonValue, SerializerFunctionWrapHandler, model_serializer

from dask_fmware.spec.binding import Binding, Name, Reference
from dask_fmware.spec.record import Printable, Record

__all__ = [
    "AnyNode",
    "Block",
    "Branch",
    "LoopNode",
    "MapNode",
    "ModelNode",
    "Node",
    "SwitchNode",
    "TaskNode",
    "Turn",
    "inner_blocks",
    "label_of",
]


class Turn(Record):
    """One message of a chat; `content` is a template like `ModelNode.prompt`."""

    role: Literal["system", "user", "assistant"]
    content: str


class _Node(Record):
    """What every kind of node does when it is written."""

    @model_serializer(mode="wrap")
    def _keep_kind(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Documents leave out defaults, and the kind of a node is one, yet nothing can be read without it.
        kind: str = getattr(self, "kind")  # noqa: B009 - declared by each kind of node as a literal of its own
        return {"kind": kind, **write(self)}


class ModelNode(_Node):
    """A call of a foundation model. Its value is text, a label of `choices`, or an object of `json_schema`.

    Given `texts` instead of a prompt its value is their vectors: one of a text, a list of them for a list.
    """

    kind: Literal["model"] = "model"
    name: Name
    model: Printable = Field(min_length=1, max_length=200)
    prompt: str | None = None
    messages: list[Turn] | None = None
    texts: Binding | None = None
    fields: dict[str, Binding] = Field(default_factory=dict)
    max_tokens: int = Field(default=256, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    seed: int | None = None
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    choices: list[Annotated[str, Field(min_length=1)]] | None = Field(default=None, min_length=1)
    json_schema: dict[str, JsonValue] | None = None

    @property
    def embeds(self) -> bool:
        """Whether its value is vectors."""
        return self.texts is not None

    @property
    def most_output_tokens(self) -> int:
        """Tokens that an answer has at most; vectors are made in one step, as one token would be."""
        return 1 if self.embeds else self.max_tokens


class TaskNode(_Node):
    """A plain Python function, named by `function` and supplied beside the document."""

    kind: Literal["task"] = "task"
    name: Name
    function: str = Field(min_length=1)
    args: list[Binding] = Field(default_factory=list)
    kwargs: dict[str, Binding] = Field(default_factory=dict)


class Branch(Record):
    """What a switch runs for one label."""

    label: str
    block: Block


class SwitchNode(_Node):
    """A choice of one block by the text of a value; its value is the output of the block that was taken."""

    kind: Literal["switch"] = "switch"
    name: Name
    on: Reference
    branches: list[Branch] = Field(min_length=1)
    default: Block | None = None


class MapNode(_Node):
    """A block run once for each item of a list that is known at run time; its value is the list of outputs."""

    kind: Literal["map"] = "map"
    name: Name
    over: Binding
    item: Name
    block: Block
    max_items: int = Field(default=1000, ge=1, le=100_000)


class LoopNode(_Node):
    """A block run on its own output until `until` is true, at most `max_iterations` times."""

    kind: Literal["loop"] = "loop"
    name: Name
    state: Name
    initial: Binding
    block: Block
    until: Reference | None = None
    max_iterations: int = Field(ge=1, le=10_000)


AnyNode: TypeAlias = ModelNode | TaskNode | SwitchNode | MapNode | LoopNode
Node: TypeAlias = Annotated[AnyNode, Field(discriminator="kind")]


class Block(Record):
    """Nodes in any order, and the one whose value is the block's."""

    nodes: list[Node] = Field(default_factory=list)
    output: Reference

    def blocks(self) -> Iterator[Block]:
        """This block and every block inside it."""
        yield self
        for node in self.nodes:
            for inner in inner_blocks(node):
                yield from inner.blocks()

    def walk(self) -> Iterator[AnyNode]:
        """Every node, outer before inner."""
        for block in self.blocks():
            yield from block.nodes


def inner_blocks(node: AnyNode) -> tuple[Block, ...]:
    """Blocks held by a node."""
    match node:
        case SwitchNode():
            return (*(branch.block for branch in node.branches), *((node.default,) if node.default else ()))
        case MapNode() | LoopNode():
            return (node.block,)
        case _:
            return ()


def label_of(value: object) -> str:
    """Text of a value, which names the branch that a switch takes; of a member of an `Enum` that of its value."""
    held = value.value if isinstance(value, Enum) else value
    return str.__str__(held) if isinstance(held, str) else str(held)  # a subclass may write itself in another way
