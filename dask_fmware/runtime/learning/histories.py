"""What the latest calls of a node were like: means of tokens, pauses and rounds, by which the next ones are foreseen.

The nodes of a workflow are narrow distributions: the mean of a node's own history predicts it far
better than its ``max_tokens``.
"""

from __future__ import annotations

__all__ = ["Mean", "NodeHistories", "NodeHistory", "owners", "plain_name"]

REMEMBERED = 100  # values that a mean is of, about


def plain_name(node: str) -> str:
    """Name of a node without item paths: items of a map and iterations of a loop share their node's history.

    >>> plain_name("summaries[3].small")
    'summaries.small'
    """
    return ".".join([part.partition("[")[0] for part in node.split(".")]) if "[" in node else node


def owners(node: str) -> list[str]:
    """Paths of the maps and loops in whose bodies a node is, the outermost first.

    >>> owners("outer[1].pitches[3].small")
    ['outer', 'outer[1].pitches']
    """
    return [node[:at] for at, letter in enumerate(node) if letter == "["]


class Mean:
    """A mean in which the latest values weigh most; 0 while there are none."""

    __slots__ = ("_count", "value")

    def __init__(self) -> None:
        self._count = 0
        self.value = 0.0

    def add(self, value: float) -> None:
        """Take one more value."""
        if self._count < REMEMBERED:
            self._count += 1
        self.value += (value - self.value) / self._count

    def within(self, bound: float) -> float:
        """Return the mean, at most `bound`, which is also the answer without a history."""
        return min(self.value, bound) if self._count else float(bound)


class NodeHistory:
    """The means of one node, or of one map or loop."""

    __slots__ = ("cached_at_home", "cached_elsewhere", "output", "pause_s", "prompt", "rounds", "width")

    def __init__(self) -> None:
        self.prompt = Mean()  # tokens
        self.output = Mean()
        self.cached_at_home = Mean()  # tokens of a prompt, where its run was served before
        self.cached_elsewhere = Mean()
        self.pause_s = Mean()  # of plain code before it
        self.rounds = Mean()  # bodies that a loop runs one after the other
        self.width = Mean()  # bodies that a map runs at once

    def lengths(self, max_tokens: int) -> tuple[float, float]:
        """Expected prompt and output tokens of a call; a prompt of which nothing is known has 0."""
        return self.prompt.value, self.output.within(max_tokens)

    @property
    def cached_tokens(self) -> float:
        """Expected prompt tokens in the cache of the replica that served a call's run, beyond those in any other's."""
        return max(0.0, self.cached_at_home.value - self.cached_elsewhere.value)


NOTHING = NodeHistory()  # nobody writes into it


class NodeHistories:
    """The histories of (workflow, node); bounded in number: the one that was written to longest ago goes first."""

    def __init__(self, max_nodes: int = 10_000) -> None:
        self._nodes: dict[tuple[str, str], NodeHistory] = {}
        self._max_nodes = max_nodes

    def of(self, workflow: str, node: str) -> NodeHistory:
        """Return the history of a node to read from."""
        return self._nodes.get((workflow, plain_name(node)), NOTHING)

    def grown(self, workflow: str, node: str) -> NodeHistory:
        """Return the history of a node to write into."""
        key = workflow, plain_name(node)
        history = self._nodes.pop(key, None) or NodeHistory()
        self._nodes[key] = history
        if len(self._nodes) > self._max_nodes:
            del self._nodes[next(iter(self._nodes))]
        return history
