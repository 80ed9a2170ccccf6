"""What finished calls say about the runs under way: how long the critical path of a run still is after a node, and how
much of the cards its calls will take.

Both follow from what is known of nodes and branches. They are worked out rarely, not for each decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, TypeAlias

from dask_fmware.model.plan import Outline, PlannedNode, RunPlan, outline
from dask_fmware.runtime.learning.branches import Branches, Decided, is_taken
from dask_fmware.runtime.learning.histories import NodeHistory
from dask_fmware.runtime.learning.nodes import Execution, KnownNodes, base_name

__all__ = ["THE_END", "CardTime", "Knowledge", "Shape", "Work"]

CardTime: TypeAlias = Callable[[str, float, float], float]
"""Seconds that a call of a model takes of a fast replica which is full, by prompt and output tokens."""

THE_END = "the end"  # no node has such a name: before it comes the plain code after a run's last call
MOST_NAMES = 10_000  # workflows, switches, and maps and loops, that are remembered
MOST_SHAPES = MOST_DECIDED = 1000
FEWEST, MOST = 20, 50_000  # finished calls of a workflow after which paths are worked out anew: a twentieth of all


class Work(NamedTuple):
    """Expected card time of a run."""

    by_model: Mapping[str, float]
    total_s: float  # one number for all calls that wait
    until: int  # finished calls of the workflow at which it is worked out again


@dataclass(slots=True)
class Shape:
    """The nodes of a workflow, and its critical paths as far as they were asked for."""

    workflow: str
    nodes: tuple[PlannedNode, ...]
    branches: dict[str, int]  # switch -> branches it has, as far as nodes say it
    after: dict[Decided, tuple[int, dict[str, float]]] = field(default_factory=dict)  # with when to look again
    share: tuple[int, dict[str, float]] | None = None  # of the objective, used up when a node has ended; the same
    work: dict[Decided, Work] = field(default_factory=dict)

    def forget(self) -> None:
        """Let all be worked out when it is next asked for."""
        self.after.clear()
        self.work.clear()
        self.share = None


class Knowledge:
    """What is known of all workflows.

    Parameters
    ----------
    execution
        How long calls take on idle replicas of the fastest kind.
    card_s
        How much of a full one they take.
    """

    def __init__(self, execution: Execution, card_s: CardTime) -> None:
        self.nodes = KnownNodes(execution, MOST_NAMES)
        self.branches = Branches(MOST_NAMES)
        self._card_s = card_s
        self._shapes: dict[tuple[str, Outline, bool], Shape] = {}
        self._calls: dict[str, int] = {}  # workflow -> finished calls

    # -- observations that change paths ----------------------------------------------------------

    def observe_call(self, workflow: str, node: str, prompt_tokens: int, output_tokens: int) -> NodeHistory:
        """Take note of a finished call; return the history of its node."""
        known = self._calls.get(workflow)
        if known is None and len(self._calls) >= MOST_NAMES:
            del self._calls[next(iter(self._calls))]
            self._shapes.clear()  # they count by it
        self._calls[workflow] = (known or 0) + 1
        return self.nodes.observe_call(workflow, node, prompt_tokens, output_tokens)

    def observe_body(self, workflow: str, owner: str, nodes: Sequence[PlannedNode]) -> None:
        """Take note of what the body of a map or loop is; a workflow that is defined anew may have another."""
        if self.nodes.observe_body(workflow, owner, nodes):
            for shape in self._shapes.values():
                if shape.workflow == workflow:
                    shape.forget()

    def settle(self) -> None:
        """Take what is known for a long history: from now on, paths are worked out anew as seldom as can be."""
        self._calls = dict.fromkeys(self._calls, 20 * MOST)
        self.forget_paths()

    def forget_paths(self) -> None:
        """Work out all paths again when they are next asked for."""
        for shape in self._shapes.values():
            shape.forget()

    # -- what follows ----------------------------------------------------------------------------

    def shape(self, plan: RunPlan, *, to_end: bool = False) -> Shape:
        """Return the shape of a plan; one that is due `to_end` has no nodes that are done with their first token."""
        key = plan.workflow, outline(plan.nodes), to_end
        shape = self._shapes.get(key)
        if shape is None:
            if len(self._shapes) >= MOST_SHAPES:
                self._shapes.clear()
            branches: dict[str, int] = {}
            for node in plan.nodes:
                for guard in node.guards:
                    branches[guard.switch] = max(branches.get(guard.switch, 1), guard.branch + 1)
            nodes = tuple([replace(node, answers=False) for node in plan.nodes]) if to_end else plan.nodes
            shape = self._shapes[key] = Shape(plan.workflow, nodes, branches)
        return shape

    def after_s(self, shape: Shape, node: str, decided: Decided) -> float:
        """Expected seconds of the critical path after a node, to the answer's first token or to the end of it all."""
        known = shape.after.get(decided)
        if known is None or self._calls.get(shape.workflow, 0) >= known[0]:
            if len(shape.after) > MOST_DECIDED:
                shape.after.clear()
            known = shape.after[decided] = self._until(shape), self._paths(shape, decided)
        return known[1].get(base_name(node), 0.0) + self.nodes.rest_s(shape.workflow, node)

    def paths_quantile_s(self, shape: Shape, decided: Decided, quantile: float) -> dict[str, float]:
        """Seconds within which a share `quantile` of runs is done after each node; at least, as parts are added up."""
        ways = [
            (weight, self._longest(shape, partial(is_taken, taken), quantile))
            for weight, taken in self.branches.outcomes(shape.workflow, shape.branches, decided)
        ]
        return {
            node.name: _quantile([(after[node.name], weight) for weight, after in ways], quantile)
            for node in shape.nodes
        }

    def after_quantile_s(self, shape: Shape, node: str, paths_s: Mapping[str, float], quantile: float) -> float:
        """The same after one node, which may be in the body of a map or loop; `paths_s` are those of its workflow."""
        return paths_s.get(base_name(node), 0.0) + self.nodes.rest_s(shape.workflow, node, quantile)

    def work(self, shape: Shape, decided: Decided) -> Work:
        """Expected card time of all calls of a run, as far as its switches have decided."""
        known = shape.work.get(decided)
        if known is None or self._calls.get(shape.workflow, 0) >= known.until:
            if len(shape.work) > MOST_DECIDED:
                shape.work.clear()
            by_model = self._work_s(shape, decided)
            known = shape.work[decided] = Work(by_model, sum(by_model.values()), self._until(shape))
        return known

    def share(self, shape: Shape, node: str) -> float:
        """Share of the objective that may be used up when a node ends: static budgets, in proportion to latency."""
        known = shape.share
        if known is None or self._calls.get(shape.workflow, 0) >= known[0]:
            known = shape.share = self._until(shape), self._shares(shape)
        return known[1].get(base_name(node), 1.0)

    # -- worked out anew -------------------------------------------------------------------------

    def _until(self, shape: Shape) -> int:
        """Finished calls of a workflow at which what is worked out now is worked out anew."""
        calls = self._calls.get(shape.workflow, 0)
        return calls + min(calls // 20 + FEWEST, MOST)

    def _paths(self, shape: Shape, decided: Decided) -> dict[str, float]:
        """Mean over the outcomes of open switches of the longest path after each node."""
        total: dict[str, float] = {}
        for weight, taken in self.branches.outcomes(shape.workflow, shape.branches, decided):
            for name, seconds in self._longest(shape, partial(is_taken, taken)).items():
                total[name] = total.get(name, 0.0) + weight * seconds
        return total

    def _work_s(self, shape: Shape, decided: Decided) -> dict[str, float]:
        """Mean over the outcomes of open switches of the card time of all nodes that are taken."""
        found: dict[str, float] = {}
        for weight, taken in self.branches.outcomes(shape.workflow, shape.branches, decided):
            for node in shape.nodes:
                if not is_taken(taken, node):
                    continue
                each = [(node, 1)] if node.model is not None else self.nodes.expected_bodies(shape.workflow, node.name)
                for call, count in each:
                    model = call.model or ""
                    took_s = count * self._card_s(model, *self.nodes.lengths(shape.workflow, call))
                    found[model] = found.get(model, 0.0) + weight * took_s
        return found

    def _shares(self, shape: Shape) -> dict[str, float]:
        after = self._longest(shape, lambda _: True)
        before: dict[str, float] = {}
        for one in shape.nodes:
            start = max((before[name] for name in one.after if name in before), default=0.0)
            before[one.name] = start + self.nodes.node_s(shape.workflow, one)
        whole = {name: before_s + after[name] for name, before_s in before.items()}
        return {name: before[name] / whole_s if whole_s > 0 else 1.0 for name, whole_s in whole.items()}

    def _longest(
        self, shape: Shape, taken: Callable[[PlannedNode], bool], quantile: float | None = None
    ) -> dict[str, float]:
        """Longest path after each node over the nodes that are taken, to the first token of an answer."""
        workflow, nodes = shape.workflow, self.nodes
        ends_with_answer = any(node.answers for node in shape.nodes)
        tail_s = 0.0 if ends_with_answer else nodes.pause_s(workflow, THE_END)
        after = dict.fromkeys((node.name for node in shape.nodes), tail_s)
        for node in reversed(shape.nodes):
            if not taken(node):
                continue
            whole = nodes.node_s(workflow, node, quantile)
            if not node.answers:
                whole += after[node.name]
            whole += nodes.pause_s(workflow, node.name)
            for name in node.after:
                if name in after:
                    after[name] = max(after[name], whole)
        return after


def _quantile(weighted: Iterable[tuple[float, float]], quantile: float) -> float:
    """The least value that a share `quantile` of all stays within, by their weights."""
    found = below = 0.0
    for value, weight in sorted(weighted):
        if below < quantile:
            found = value
        below += weight
    return found
