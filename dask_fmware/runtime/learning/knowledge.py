"""What finished calls say about the runs under way: lengths of nodes, odds of branches, rounds of loops, pauses.

From these and the speed of each model on its fastest replicas it tells how long the critical path of a run
still is after a node. All is kept by (workflow, node), bounded, and forgets slowly; no text and no clock. Paths
are worked out rarely, not for each decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from math import ceil, prod
from typing import NamedTuple, TypeAlias

from dask_fmware.model.plan import Outline, PlannedNode, RunPlan, outline
from dask_fmware.profile.lengths import OutputLengths
from dask_fmware.runtime.learning.bodies import Bodies
from dask_fmware.runtime.learning.histories import NodeHistories, NodeHistory, owners, plain_name

__all__ = ["THE_END", "Decided", "Execution", "Knowledge", "Shape", "base_name"]

Execution: TypeAlias = Callable[[str, float, float], tuple[float, float]]
"""First token and completion of a call of a model, by prompt and output tokens, on an idle fast replica, in seconds."""

CardTime: TypeAlias = Callable[[str, float, float], float]
"""Seconds that such a call takes of a fast replica which is full."""

Decided: TypeAlias = frozenset[tuple[str, int | None]]
THE_END = "the end"  # no node has such a name: before it comes the plain code after a run's last call
MOST_OUTCOMES = 256  # combinations of branches that are told apart
MOST_NAMES = 10_000  # workflows, switches, and maps and loops, that are remembered
FEWEST, MOST = 20, 50_000  # finished calls of a workflow after which paths are worked out anew: a twentieth of all


def base_name(node: str) -> str:
    """Name of the map or loop in whose body a node is, else of the node itself.

    >>> base_name("pitches[3].small")
    'pitches'
    """
    return node.partition("[")[0] if "[" in node else node


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
    branches: dict[str, int]  # switch -> branches it has
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
        self.nodes = NodeHistories()
        self._lengths = OutputLengths(window=200)
        self._execution = execution
        self._card_s = card_s
        self._branches: dict[tuple[str, str], dict[int | None, float]] = {}
        self._bodies = Bodies(MOST_NAMES)
        self._shapes: dict[tuple[str, Outline, bool], Shape] = {}
        self._calls: dict[str, int] = {}  # workflow -> finished calls

    # -- observations ----------------------------------------------------------------------------

    def observe_call(self, workflow: str, node: str, prompt_tokens: int, output_tokens: int) -> NodeHistory:
        """Take note of a finished call; return the history of its node."""
        known = self._calls.get(workflow)
        if known is None and len(self._calls) >= MOST_NAMES:
            del self._calls[next(iter(self._calls))]
            self._shapes.clear()  # they count by it
        self._calls[workflow] = (known or 0) + 1
        history = self.nodes.grown(workflow, node)
        history.output.add(output_tokens)
        self._lengths.observe(workflow, plain_name(node), output_tokens)
        if prompt_tokens:
            history.prompt.add(prompt_tokens)
        return history

    def observe_branch(self, workflow: str, switch: str, branch: int | None) -> None:
        """Take note of a branch that was taken."""
        if (workflow, switch) not in self._branches and len(self._branches) >= MOST_NAMES:
            del self._branches[next(iter(self._branches))]
        counts = self._branches.setdefault((workflow, switch), {})
        counts[branch] = counts.get(branch, 0.0) + 1.0
        if sum(counts.values()) > 1000.0:
            for known in counts:
                counts[known] /= 2

    def observe_pause(self, workflow: str, node: str, pause_s: float) -> None:
        """Take note of what plain code took between the last call before a node and the node."""
        self.nodes.grown(workflow, node).pause_s.add(pause_s)

    def observe_body(self, workflow: str, owner: str, nodes: Sequence[PlannedNode]) -> None:
        """Take note of what the body of a map or loop is; a workflow that is defined anew may have another."""
        if self._bodies.observe(workflow, owner, nodes):
            for shape in self._shapes.values():
                if shape.workflow == workflow:
                    shape.forget()

    def observe_rounds(self, workflow: str, owner: str, rounds: int, width: float = 1.0) -> None:
        """Take note of how many bodies of a map or loop ran one after the other, and how many at once in each round."""
        history = self.nodes.grown(workflow, owner)
        history.rounds.add(rounds)
        history.width.add(width)
        self._lengths.observe(workflow, f"rounds of {plain_name(owner)}", rounds)

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
            if len(self._shapes) >= 1000:
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
        base = base_name(node)
        known = shape.after.get(decided)
        if known is None or self._calls.get(shape.workflow, 0) >= known[0]:
            if len(shape.after) > 1000:
                shape.after.clear()
            known = shape.after[decided] = self._until(shape), self._paths(shape, decided)
        after_s = known[1].get(base, 0.0)
        if base != node:
            done = _number(node, base)
            rounds = self.nodes.of(shape.workflow, base).rounds.value or 1.0
            if rounds > 1.0:
                after_s += max(rounds - done - 1, 0.0) * self._body_s(shape.workflow, base)
            after_s += self._rest_of_body_s(shape.workflow, node)
        return after_s

    def work(self, shape: Shape, decided: Decided) -> Work:
        """Expected card time of all calls of a run, as far as its switches have decided."""
        known = shape.work.get(decided)
        if known is None or self._calls.get(shape.workflow, 0) >= known.until:
            if len(shape.work) > 1000:
                shape.work.clear()
            by_model = self._work_s(shape, decided)
            known = shape.work[decided] = Work(by_model, sum(by_model.values()), self._until(shape))
        return known

    def paths_quantile_s(self, shape: Shape, decided: Decided, quantile: float) -> dict[str, float]:
        """Seconds within which a share `quantile` of runs is done after each node; at least, as parts are added up."""
        ways = [
            (weight, self._longest(shape, partial(_is_taken, taken), quantile))
            for weight, taken in self._outcomes(shape, decided)
        ]
        return {
            node.name: _quantile([(after[node.name], weight) for weight, after in ways], quantile)
            for node in shape.nodes
        }

    def after_quantile_s(self, shape: Shape, node: str, paths_s: Mapping[str, float], quantile: float) -> float:
        """The same after one node, which may be in the body of a map or loop; `paths_s` are those of its workflow."""
        base = base_name(node)
        after_s = paths_s.get(base, 0.0)
        if base != node:
            done = _number(node, base) + 1
            usual = round(self.nodes.of(shape.workflow, base).rounds.value or 1.0)
            if usual > 1:  # a loop, not a map
                left = self._lengths.quantile(shape.workflow, f"rounds of {base}", quantile, usual, done) - done
                after_s += max(left, 0) * self._body_s(shape.workflow, base, quantile)
            after_s += self._rest_of_body_s(shape.workflow, node, quantile)
        return after_s

    def call_quantile_s(self, workflow: str, node: PlannedNode, quantile: float) -> float:
        """Seconds within which a share `quantile` of calls of a node does what its node is for, on an idle replica."""
        assert node.model is not None
        prompt = self.nodes.of(workflow, node.name).prompt.value
        output = self.length(workflow, node, quantile)
        return self._execution(node.model, prompt, output)[0 if node.answers else 1]

    def length(self, workflow: str, node: PlannedNode, quantile: float, generated: int = 0) -> int:
        """Output tokens that a share `quantile` of calls that have `generated` of them stays within."""
        return self._lengths.quantile(workflow, plain_name(node.name), quantile, node.max_tokens, generated)

    def pause_s(self, workflow: str, node: str) -> float:
        """Expected seconds of plain code right before the calls of a node; 0 while nothing is known."""
        return self.nodes.of(workflow, node).pause_s.value

    def lengths(self, workflow: str, node: PlannedNode) -> tuple[float, float]:
        """Expected prompt and output tokens of a call; a prompt of which nothing is known has 0."""
        return self.nodes.of(workflow, node.name).lengths(node.max_tokens)

    def call_s(self, workflow: str, node: PlannedNode) -> float:
        """Expected seconds of a call until it has done what its node is for."""
        assert node.model is not None
        prompt, output = self.lengths(workflow, node)
        return self._execution(node.model, prompt, output)[0 if node.answers else 1]

    def in_turn(self, workflow: str, base: str) -> bool:
        """Whether the bodies of a map or loop, or the calls of one body, run one after the other."""
        calls = self._bodies.calls(workflow, base)
        return (
            self.nodes.of(workflow, base).rounds.value > 1.0
            or len(calls) > 1
            or any(self._rounds_within(workflow, call) > 1.0 for call in calls)
        )

    def expected_bodies(self, workflow: str, base: str) -> list[tuple[PlannedNode, int]]:
        """Nodes in the bodies of a map or loop, each with how many calls of it are to be expected."""
        return [(node, self._expected_calls(workflow, node)) for node in self._bodies.calls(workflow, base)]

    def _expected_calls(self, workflow: str, node: PlannedNode) -> int:
        histories = [self.nodes.of(workflow, owner) for owner in owners(node.name)]
        return max(round(prod((known.rounds.value or 1.0) * (known.width.value or 1.0) for known in histories)), 1)

    def _rounds_within(self, workflow: str, node: PlannedNode, depth: int = 1) -> float:
        """How many calls of a node run one after the other in one body of the map or loop that is so deep around it."""
        return prod([self.nodes.of(workflow, owner).rounds.value or 1.0 for owner in owners(node.name)[depth:]])

    def share(self, shape: Shape, node: str) -> float:
        """Share of the objective that may be used up when a node ends: static budgets, in proportion to latency."""
        known = shape.share
        if known is None or self._calls.get(shape.workflow, 0) >= known[0]:
            known = shape.share = self._until(shape), self._shares(shape)
        return known[1].get(base_name(node), 1.0)

    def _until(self, shape: Shape) -> int:
        """Finished calls of a workflow at which what is worked out now is worked out anew."""
        calls = self._calls.get(shape.workflow, 0)
        return calls + min(calls // 20 + FEWEST, MOST)

    def _shares(self, shape: Shape) -> dict[str, float]:
        after = self._longest(shape, lambda _: True)
        before: dict[str, float] = {}
        for one in shape.nodes:
            start = max((before[name] for name in one.after if name in before), default=0.0)
            before[one.name] = start + self._node_s(shape.workflow, one)
        whole = {name: before_s + after[name] for name, before_s in before.items()}
        return {name: before[name] / whole_s if whole_s > 0 else 1.0 for name, whole_s in whole.items()}

    def _node_s(self, workflow: str, node: PlannedNode, quantile: float | None = None) -> float:
        if node.model is not None:
            return self._one_s(workflow, node, quantile)
        rounds = self.nodes.of(workflow, node.name).rounds.value or 1.0
        if quantile is not None and rounds > 1.0:
            rounds = self._lengths.quantile(workflow, f"rounds of {node.name}", quantile, ceil(rounds))
        return self._body_s(workflow, node.name, quantile) * rounds

    def _one_s(self, workflow: str, node: PlannedNode, quantile: float | None) -> float:
        return self.call_s(workflow, node) if quantile is None else self.call_quantile_s(workflow, node, quantile)

    def _body_s(self, workflow: str, base: str, quantile: float | None = None) -> float:
        return sum(self._calls_s(workflow, node, quantile) for node in self._bodies.calls(workflow, base))

    def _calls_s(self, workflow: str, node: PlannedNode, quantile: float | None, depth: int = 1) -> float:
        """Seconds of these, where one call takes as long as a share `quantile` of them, or as is expected."""
        return self._one_s(workflow, node, quantile) * self._rounds_within(workflow, node, depth)

    def _rest_of_body_s(self, workflow: str, node: str, quantile: float | None = None) -> float:
        """What follows a call in the body of its map or loop: calls of one body run one after the other.

        In one of a loop within that body these are later calls of both, and the rounds that are left of the loop.
        """
        calls, around = self._bodies.calls(workflow, base_name(node)), owners(node)
        names = [plain_name(call.name) for call in calls]
        if (mine := plain_name(node)) not in names:
            return 0.0
        shared = [plain_name(owner) for owner in around]
        rest_s = 0.0
        for call in calls[names.index(mine) + 1 :]:
            depth = sum(plain_name(owner) in shared for owner in owners(call.name))
            rest_s += self._calls_s(workflow, call, quantile, depth)
        for depth, owner in enumerate(around[1:], 2):
            left = (self.nodes.of(workflow, owner).rounds.value or 1.0) - _number(node, owner) - 1
            inside = [call for call, name in zip(calls, names, strict=True) if name.startswith(f"{plain_name(owner)}.")]
            rest_s += max(left, 0.0) * sum(self._calls_s(workflow, call, quantile, depth) for call in inside)
        return rest_s

    def _paths(self, shape: Shape, decided: Decided) -> dict[str, float]:
        """Mean over the outcomes of open switches of the longest path after each node."""
        total: dict[str, float] = {}
        for weight, taken in self._outcomes(shape, decided):
            for name, seconds in self._longest(shape, partial(_is_taken, taken)).items():
                total[name] = total.get(name, 0.0) + weight * seconds
        return total

    def _work_s(self, shape: Shape, decided: Decided) -> dict[str, float]:
        """Mean over the outcomes of open switches of the card time of all nodes that are taken."""
        found: dict[str, float] = {}
        for weight, taken in self._outcomes(shape, decided):
            for node in shape.nodes:
                if not _is_taken(taken, node):
                    continue
                each = [(node, 1)] if node.model is not None else self.expected_bodies(shape.workflow, node.name)
                for call, count in each:
                    model = call.model or ""
                    took_s = count * self._card_s(model, *self.lengths(shape.workflow, call))
                    found[model] = found.get(model, 0.0) + weight * took_s
        return found

    def _outcomes(self, shape: Shape, decided: Decided) -> Iterator[tuple[float, Mapping[str, int | None]]]:
        """Probability and branches of each way in which the open switches may go."""
        known = dict(decided)
        open_ = [switch for switch in shape.branches if switch not in known]
        if prod(shape.branches[switch] for switch in open_) > MOST_OUTCOMES:
            open_ = []
        odds = [self._odds(shape, switch) for switch in open_]
        for outcome in product(*[range(shape.branches[switch]) for switch in open_]):
            weight = prod(chances[branch] for chances, branch in zip(odds, outcome, strict=True))
            yield weight, known | dict(zip(open_, outcome, strict=True))

    def _odds(self, shape: Shape, switch: str) -> list[float]:
        counts = self._branches.get((shape.workflow, switch), {})
        weights = [counts.get(branch, 0.0) + 0.5 for branch in range(shape.branches[switch])]
        return [weight / sum(weights) for weight in weights]

    def _longest(
        self, shape: Shape, is_taken: Callable[[PlannedNode], bool], quantile: float | None = None
    ) -> dict[str, float]:
        """Longest path after each node over the nodes that are taken, to the first token of an answer."""
        ends_with_answer = any(node.answers for node in shape.nodes)
        tail_s = 0.0 if ends_with_answer else self.pause_s(shape.workflow, THE_END)
        after = dict.fromkeys((node.name for node in shape.nodes), tail_s)
        for node in reversed(shape.nodes):
            if not is_taken(node):
                continue
            whole = self._node_s(shape.workflow, node, quantile)
            if not node.answers:
                whole += after[node.name]
            whole += self.pause_s(shape.workflow, node.name)
            for name in node.after:
                if name in after:
                    after[name] = max(after[name], whole)
        return after


def _number(node: str, owner: str) -> int:
    """Which body of a map or loop around it a node is in."""
    return int(node[len(owner) + 1 :].partition("]")[0])


def _quantile(weighted: Iterable[tuple[float, float]], quantile: float) -> float:
    """The least value that a share `quantile` of all stays within, by their weights."""
    found = below = 0.0
    for value, weight in sorted(weighted):
        if below < quantile:
            found = value
        below += weight
    return found


def _is_taken(taken: Mapping[str, int | None], node: PlannedNode) -> bool:
    """Whether a node is on no branch that was not taken."""
    return all(taken.get(guard.switch, guard.branch) == guard.branch for guard in node.guards)
