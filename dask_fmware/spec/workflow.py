"""What a workflow is: a document of nodes, read and written as JSON or YAML.

A workflow has inputs and a `Block` of nodes with one output. Switches, maps and loops hold blocks of
their own, whose nodes may refer to everything outside (lexical scope). The document is data: the
Python functions of task nodes and the pydantic classes of typed outputs are named in it and travel
beside it (`Workflow.functions`, `Workflow.schemas`), never inside it. Nodes and bindings can be
imported from here too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, Field, JsonValue, PrivateAttr

from dask_fmware.spec.binding import Binding, Constant, Dictionary, Name, Reference, Sequence, references
from dask_fmware.spec.nodes import (
    AnyNode,
    Block,
    Branch,
    LoopNode,
    MapNode,
    ModelNode,
    Node,
    SwitchNode,
    TaskNode,
    Turn,
)
from dask_fmware.spec.record import Record
from dask_fmware.spec.slo import SLO

if TYPE_CHECKING:
    import networkx

    from dask_fmware.spec.deployment import Deployment
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


class Input(Record):
    """A named argument of a workflow."""

    name: Name
    required: bool = True
    default: JsonValue = None


class Workflow(Record):
    """A workflow: inputs, nodes, output and default SLO.

    `fm.workflow` makes one from a function, `from_yaml` and `from_json` read one. Python functions of task nodes
    (`functions`) and pydantic classes of typed model nodes (`schemas`) go beside it, by node name; they stay behind
    when the document is written.
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

    def check_models(self, deployment: Deployment) -> None:
        """Raise an error unless a deployment has all models that it calls; see `dask_fmware.spec.checks`."""
        from dask_fmware.spec.checks import check_models

        check_models(self, deployment.models, deployment.embedders)

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
        """Draw this workflow as an SVG file."""
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
