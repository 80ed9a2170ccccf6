"""What a submitted run asks of the runtime, before anything of it has happened.

A plan is made by the compiler, carried to the scheduler inside the run's Dask graph and read by the
runtime machine. It holds names and sizes, never a prompt.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Literal, TypeAlias

from dask_fmware.model.immutable import immutable
from dask_fmware.spec.nodes import label_of

__all__ = ["Guard", "Objective", "Outline", "PlannedNode", "RunPlan", "SwitchRule", "outline"]

ITEM_PATH = re.compile(r"[^\[\]]+(\[[0-9]{1,18}\][^\[\]]*)*")


@immutable
class SwitchRule:
    """How a switch reads its value: the text of the value names the branch."""

    switch: str  # node name of the switch, with item path
    labels: tuple[str, ...]  # branches that have a label
    has_default: bool  # whether every other text takes the branch "default"

    def branch(self, value: object) -> int | None:
        """Index of the branch that `value` takes: ``len(labels)`` is the default, ``None`` no branch at all."""
        text = label_of(value)
        if text in self.labels:
            return self.labels.index(text)
        return len(self.labels) if self.has_default else None


@immutable
class Guard:
    """A node runs only if `switch` takes branch number `branch`."""

    switch: str
    branch: int


@immutable
class Objective:
    """When a run must have done what, relative to its submission unless said otherwise."""

    ttft_s: float | None = None  # seconds to the first token of the answer
    e2e_s: float | None = None  # seconds to the complete answer
    finish_by: float | None = None  # complete answer, as seconds of the scheduler's clock
    on_miss: Literal["finish", "reject"] = "finish"


@immutable
class PlannedNode:
    """One node of a run. A node without a model is plain code."""

    name: str  # node name, with the item path inside maps and loops: "summaries[3].small"
    key: str  # the Dask key of its task; the call id of a model node
    after: tuple[str, ...] = ()  # names of the planned nodes whose values it takes
    model: str | None = None
    max_tokens: int = 0
    prompt_bytes: int = 0  # UTF-8 bytes that its prompt has at least
    guards: tuple[Guard, ...] = ()  # outermost first
    answers: bool = False  # its output is streamed as the answer of the workflow
    embeds: bool = False  # its value is vectors

    def __post_init__(self) -> None:
        if "[" in self.name and ITEM_PATH.fullmatch(self.name) is None:
            raise ValueError(
                f"node {self.name!r}: brackets in a name hold the number of an item, as in 'summaries[3].small'"
            )


Outline: TypeAlias = tuple[Hashable, ...]


def outline(nodes: Iterable[PlannedNode]) -> Outline:
    """What is the same in all runs of a workflow until it is defined anew, which it may be under the same names."""
    return tuple([(n.name, n.model, n.after, n.max_tokens, n.guards, n.answers) for n in nodes])


@immutable
class RunPlan:
    """One run: its nodes in topological order and what it was promised.

    A map or loop submits the plans of its bodies while the run is under way; they name the run in
    `part_of` and add their nodes to it.
    """

    run_id: str
    workflow: str
    nodes: tuple[PlannedNode, ...]
    output: str  # key of the task whose value is the result
    objective: Objective | None = None
    tenant: str = "default"
    priority: int = 0  # higher first
    part_of: str | None = None  # run_id of the run that this plan extends
    decided: tuple[
        tuple[str, int | None], ...
    ] = ()  # branches taken by switches whose value is known: (switch, branch)

    def __post_init__(self) -> None:
        if len({node.key for node in self.nodes}) < len(self.nodes):
            (key, times), *_ = Counter(node.key for node in self.nodes).most_common(1)
            raise ValueError(f"run {self.run_id!r}: {times} of its nodes have the key {key!r}, which names one task")
