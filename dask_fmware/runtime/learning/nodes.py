"""What is known of the nodes of workflows, and how long they take: calls by the speed of their models, maps and loops
by their bodies and rounds, plain code by the pauses that it made.

All is kept by (workflow, node), bounded, and forgets slowly; no text and no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, prod
from typing import TypeAlias

from dask_fmware.model.plan import PlannedNode
from dask_fmware.profile.lengths import OutputLengths
from dask_fmware.runtime.learning.bodies import Bodies
from dask_fmware.runtime.learning.histories import NodeHistories, NodeHistory, owners, plain_name

__all__ = ["Execution", "KnownNodes", "base_name"]

Execution: TypeAlias = Callable[[str, float, float], tuple[float, float]]
"""First token and completion of a call of a model, by prompt and output tokens, on an idle fast replica, in seconds."""

LENGTHS = 200  # of answers of a node, and of rounds of a loop, that quantiles are of


def base_name(node: str) -> str:
    """Name of the map or loop in whose body a node is, else of the node itself.

    >>> base_name("pitches[3].small")
    'pitches'
    """
    return node.partition("[")[0] if "[" in node else node


class KnownNodes(NodeHistories):
    """Histories of nodes, and what follows from them for one call, one body and one node.

    Where a quantile is given, a time is one within which that share of them is done, else what is expected.

    Parameters
    ----------
    execution
        How long calls take on idle replicas of the fastest kind.
    most_bodies
        Maps and loops whose bodies are remembered.
    """

    def __init__(self, execution: Execution, most_bodies: int) -> None:
        super().__init__()
        self._execution = execution
        self._quantiles = OutputLengths(window=LENGTHS)
        self._bodies = Bodies(most_bodies)

    # -- observations ----------------------------------------------------------------------------

    def observe_call(self, workflow: str, node: str, prompt_tokens: int, output_tokens: int) -> NodeHistory:
        """Take note of a finished call; return the history of its node."""
        history = self.grown(workflow, node)
        history.output.add(output_tokens)
        self._quantiles.observe(workflow, plain_name(node), output_tokens)
        if prompt_tokens:
            history.prompt.add(prompt_tokens)
        return history

    def observe_pause(self, workflow: str, node: str, pause_s: float) -> None:
        """Take note of what plain code took between the last call before a node and the node."""
        self.grown(workflow, node).pause_s.add(pause_s)

    def observe_body(self, workflow: str, owner: str, nodes: Sequence[PlannedNode]) -> bool:
        """Take note of what the body of a map or loop is; True if it is another than before."""
        return self._bodies.observe(workflow, owner, nodes)

    def observe_rounds(self, workflow: str, owner: str, rounds: int, width: float = 1.0) -> None:
        """Take note of how many bodies of a map or loop ran one after the other, and how many at once in each round."""
        history = self.grown(workflow, owner)
        history.rounds.add(rounds)
        history.width.add(width)
        self._quantiles.observe(workflow, f"rounds of {plain_name(owner)}", rounds)

    # -- one call --------------------------------------------------------------------------------

    def lengths(self, workflow: str, node: PlannedNode) -> tuple[float, float]:
        """Expected prompt and output tokens of a call; a prompt of which nothing is known has 0."""
        return self.of(workflow, node.name).lengths(node.max_tokens)

    def length(self, workflow: str, node: PlannedNode, quantile: float, generated: int = 0) -> int:
        """Output tokens that a share `quantile` of calls that have `generated` of them stays within."""
        return self._quantiles.quantile(workflow, plain_name(node.name), quantile, node.max_tokens, generated)

    def pause_s(self, workflow: str, node: str) -> float:
        """Expected seconds of plain code right before the calls of a node; 0 while nothing is known."""
        return self.of(workflow, node).pause_s.value

    def call_s(self, workflow: str, node: PlannedNode, quantile: float | None = None) -> float:
        """Seconds of a call on an idle replica until it has done what its node is for."""
        assert node.model is not None
        prompt, output = self.lengths(workflow, node)
        if quantile is not None:
            output = self.length(workflow, node, quantile)
        return self._execution(node.model, prompt, output)[0 if node.answers else 1]

    # -- maps and loops --------------------------------------------------------------------------

    def in_turn(self, workflow: str, base: str) -> bool:
        """Whether the bodies of a map or loop, or the calls of one body, run one after the other."""
        calls = self._bodies.calls(workflow, base)
        return (
            self.of(workflow, base).rounds.value > 1.0
            or len(calls) > 1
            or any(self._rounds_within(workflow, call) > 1.0 for call in calls)
        )

    def expected_bodies(self, workflow: str, base: str) -> list[tuple[PlannedNode, int]]:
        """Nodes in the bodies of a map or loop, each with how many calls of it are to be expected."""
        return [(node, self._expected_calls(workflow, node)) for node in self._bodies.calls(workflow, base)]

    def node_s(self, workflow: str, node: PlannedNode, quantile: float | None = None) -> float:
        """Seconds of a call, or of all bodies of a map or loop; 0 for plain code, which counts as pauses."""
        if node.model is not None:
            return self.call_s(workflow, node, quantile)
        rounds = self.of(workflow, node.name).rounds.value or 1.0
        if quantile is not None and rounds > 1.0:
            rounds = self._quantiles.quantile(workflow, f"rounds of {node.name}", quantile, ceil(rounds))
        return self._body_s(workflow, node.name, quantile) * rounds

    def rest_s(self, workflow: str, node: str, quantile: float | None = None) -> float:
        """Seconds of what follows a call in the map or loop around it: its own body, and the rounds that are left."""
        base = base_name(node)
        if base == node:
            return 0.0
        left = self._rounds_left(workflow, base, _number(node, base) + 1, quantile)
        rest_s = left * self._body_s(workflow, base, quantile) if left else 0.0
        return rest_s + self._rest_of_body_s(workflow, node, quantile)

    def _rounds_left(self, workflow: str, base: str, done: int, quantile: float | None) -> float:
        """Rounds after so many; a map has one."""
        rounds = self.of(workflow, base).rounds.value or 1.0
        if quantile is None:
            return max(rounds - done, 0.0) if rounds > 1.0 else 0.0
        usual = round(rounds)
        if usual <= 1:
            return 0.0
        return max(self._quantiles.quantile(workflow, f"rounds of {base}", quantile, usual, done) - done, 0)

    def _expected_calls(self, workflow: str, node: PlannedNode) -> int:
        histories = [self.of(workflow, owner) for owner in owners(node.name)]
        return max(round(prod((known.rounds.value or 1.0) * (known.width.value or 1.0) for known in histories)), 1)

    def _rounds_within(self, workflow: str, node: PlannedNode, depth: int = 1) -> float:
        """How many calls of a node run one after the other in one body of the map or loop that is so deep around it."""
        return prod([self.of(workflow, owner).rounds.value or 1.0 for owner in owners(node.name)[depth:]])

    def _body_s(self, workflow: str, base: str, quantile: float | None) -> float:
        return sum(self._calls_s(workflow, node, quantile) for node in self._bodies.calls(workflow, base))

    def _calls_s(self, workflow: str, node: PlannedNode, quantile: float | None, depth: int = 1) -> float:
        """Seconds of the calls of a node in one body of the map or loop that is so deep around it."""
        return self.call_s(workflow, node, quantile) * self._rounds_within(workflow, node, depth)

    def _rest_of_body_s(self, workflow: str, node: str, quantile: float | None) -> float:
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
            left = (self.of(workflow, owner).rounds.value or 1.0) - _number(node, owner) - 1
            inside = [call for call, name in zip(calls, names, strict=True) if name.startswith(f"{plain_name(owner)}.")]
            rest_s += max(left, 0.0) * sum(self._calls_s(workflow, call, quantile, depth) for call in inside)
        return rest_s


def _number(node: str, owner: str) -> int:
    """Which body of a map or loop around it a node is in."""
    return int(node[len(owner) + 1 :].partition("]")[0])
