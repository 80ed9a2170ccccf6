"""What a workflow is: a document of nodes, read and written as JSON or YAML.

A workflow has inputs and a `Block` of nodes with one output. Switches, maps and loops hold blocks of
their own, whose nodes may refer to everything outside (lexical scope). The document is data: the
Python functions of task nodes and the pydantic classes of typed outputs are named in it and travel
beside it (`Workflow.functions`, `Workflow.schemas`), never inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    JsonValue,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
)

from dask_fmware.spec.record import Record
from dask_fmware.spec.slo import SLO

if TYPE_CHECKING:
    import networkx

    from dask_fmware.spec.supply import Tasks

__all__ = [
    "AnyNode",
    "Binding",
    "Block",
    "Branch",
    "Constant",
    "Dictionary",
    "Input",
    "LoopNode",
    "MapNode",
    "ModelNode",
    "Node",
    "Reference",
    "Sequence",
    "SwitchNode",
    "TaskNode",
    "Turn",
    "Workflow",
    "references",
]

NAME = r"^[A-Za-z_][A-Za-z0-9_\-]*$"
Name: TypeAlias = Annotated[str, Field(pattern=NAME, max_length=100)]


class Reference(Record):
    """The value of a node or an input, by name."""

    source: Name = Field(alias="from")


class Constant(Record):
    """A value written into the workflow."""

    value: JsonValue


class Sequence(Record):
    """A list some of whose items are computed."""

    items: list[Binding] = Field(alias="list")


class Dictionary(Record):
    """A dictionary some of whose values are computed."""

    entries: dict[str, Binding] = Field(alias="dict")


def _form(binding: object) -> str | None:
    """Which form of binding a value has, by its one key."""
    if isinstance(binding, Mapping):
        return next((tag for key, tag in _KEYS.items() if key in binding), None)
    return _FORMS.get(type(binding))


_KEYS = {
    "from": "<from>", "source": "<from>", "value": "<value>",
    "list": "<list>", "items": "<list>", "dict": "<dict>", "entries": "<dict>",
}  # fmt: skip
_FORMS: dict[type, str] = {Reference: "<from>", Constant: "<value>", Sequence: "<list>", Dictionary: "<dict>"}

# Tags are in angle brackets so that no key of a document can be mistaken for one in the path of an error.
Binding: TypeAlias = Annotated[
    Annotated[Reference, Tag("<from>")]
    | Annotated[Constant, Tag("<value>")]
    | Annotated[Sequence, Tag("<list>")]
    | Annotated[Dictionary, Tag("<dict>")],
    Discriminator(
        _form,
        custom_error_type="binding",
        custom_error_message="a binding is one of {from: name}, {value: JSON}, {list: [...]} and {dict: {...}}",
    ),
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
    """A call of a foundation model. Its value is text, a label of `choices`, or an object of `json_schema`."""

    kind: Literal["model"] = "model"
    name: Name
    model: str = Field(min_length=1, max_length=200)
    prompt: str | None = None
    messages: list[Turn] | None = None
    fields: dict[str, Binding] = Field(default_factory=dict)
    max_tokens: int = Field(default=256, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    seed: int | None = None
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    choices: list[Annotated[str, Field(min_length=1)]] | None = Field(default=None, min_length=1)
    json_schema: dict[str, JsonValue] | None = None


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
    over: Reference
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


class Input(Record):
    """A named argument of a workflow."""

    name: Name
    required: bool = True
    default: JsonValue = None


class Workflow(Record):
    """A workflow: inputs, nodes, output and default SLO.

    `functions` maps the name of each task node to its Python function and `schemas` the name of each
    typed model node to its pydantic class; both stay behind when the document is written.
    """

    version: Literal[1] = 1
    name: Name
    description: str = ""
    inputs: list[Input] = Field(default_factory=list)
    block: Block
    slo: SLO | None = None

    _functions: dict[str, Callable[..., Any]] = PrivateAttr(default_factory=dict)
    _schemas: dict[str, type[BaseModel]] = PrivateAttr(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        """Two workflows are equal if their documents are; the code beside them is not compared."""
        # Fields live in __dict__ and attached code in __pydantic_private__, which BaseModel.__eq__ compares too.
        return isinstance(other, Workflow) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]

    @property
    def functions(self) -> Mapping[str, Callable[..., Any]]:
        """Python functions by task node name."""
        return self._functions

    @property
    def schemas(self) -> Mapping[str, type[BaseModel]]:
        """pydantic classes by model node name."""
        return self._schemas

    def with_code(
        self, functions: Mapping[str, Callable[..., Any]], schemas: Mapping[str, type[BaseModel]] | None = None
    ) -> Self:
        """Return the same workflow with code attached, by node name."""
        copy = self.model_copy()
        copy._functions = {**self._functions, **functions}
        copy._schemas = {**self._schemas, **(schemas or {})}
        return copy

    def check(self, *, code: bool = False) -> None:
        """Raise `WorkflowError` unless this is a sound graph; see `dask_fmware.spec.graph.check`."""
        from dask_fmware.spec.checks import check

        check(self, code=code)

    def graph(self) -> networkx.DiGraph:
        """Return this workflow as a networkx graph; see `dask_fmware.spec.graph.graph`."""
        from dask_fmware.spec.graph import graph

        return graph(self)

    def critical_path(self, weight: Callable[[AnyNode], float] | None = None) -> tuple[str, ...]:
        """Names of the nodes on the heaviest path; see `dask_fmware.spec.graph.critical_path`."""
        from dask_fmware.spec.graph import critical_path

        return critical_path(self, weight)

    def to_json(self) -> str:
        """Write the document as JSON, without defaults."""
        from dask_fmware.spec.documents import to_json

        return to_json(self)

    def to_yaml(self) -> str:
        """Write the document as YAML, without defaults."""
        from dask_fmware.spec.documents import to_yaml

        return to_yaml(self)

    def to_mermaid(self) -> str:
        """Write this workflow as a mermaid flowchart."""
        from dask_fmware.spec.drawing import to_mermaid

        self.check()
        return to_mermaid(self)

    def to_html(self) -> str:
        """Draw this workflow as an HTML fragment."""
        from dask_fmware.spec.drawing import to_html

        self.check()
        return to_html(self)

    def to_svg(self) -> str:
        """Draw this workflow as SVG with graphviz."""
        from dask_fmware.spec.drawing import to_svg

        self.check()
        return to_svg(self)

    def _repr_html_(self) -> str:
        return self.to_html()

    @classmethod
    def from_json(cls, text: str, *, tasks: Tasks | None = None) -> Workflow:
        """Read a workflow from JSON text; see `dask_fmware.spec.documents.load_workflow`."""
        from dask_fmware.spec.documents import workflow_from_text

        return workflow_from_text(text, "json", tasks=tasks)

    @classmethod
    def from_yaml(cls, text: str, *, tasks: Tasks | None = None) -> Workflow:
        """Read a workflow from YAML text; see `dask_fmware.spec.documents.load_workflow`."""
        from dask_fmware.spec.documents import workflow_from_text

        return workflow_from_text(text, "yaml", tasks=tasks)

    @property
    def nodes(self) -> dict[str, AnyNode]:
        """Every node by name, inner ones included."""
        return {node.name: node for node in self.block.walk()}


def inner_blocks(node: AnyNode) -> tuple[Block, ...]:
    """Blocks held by a node."""
    match node:
        case SwitchNode():
            return (*(branch.block for branch in node.branches), *((node.default,) if node.default else ()))
        case MapNode() | LoopNode():
            return (node.block,)
        case _:
            return ()


def references(binding: Binding) -> Iterator[str]:
    """Names that a binding refers to."""
    match binding:
        case Reference():
            yield binding.source
        case Sequence():
            for item in binding.items:
                yield from references(item)
        case Dictionary():
            for entry in binding.entries.values():
                yield from references(entry)
        case Constant():
            pass
