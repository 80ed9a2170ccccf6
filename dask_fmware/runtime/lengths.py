"""How many tokens a node generates, learnt from its finished calls.

The nodes of a workflow are narrow distributions: the mean of a node's own history predicts it far
better than its ``max_tokens``.
"""

from __future__ import annotations

__all__ = ["OutputLengths", "plain_name"]


def plain_name(node: str) -> str:
    """Name of a node without item paths: items of a map and iterations of a loop share their node's history.

    >>> plain_name("summaries[3].small")
    'summaries.small'
    """
    return ".".join([part.partition("[")[0] for part in node.split(".")]) if "[" in node else node


class OutputLengths:
    """Mean output tokens for each (workflow, node); bounded in size."""

    def __init__(self, max_nodes: int = 10_000) -> None:
        self._means: dict[tuple[str, str], tuple[int, float]] = {}
        self._max_nodes = max_nodes

    def observe(self, workflow: str, node: str, output_tokens: float) -> None:
        """Add a finished call."""
        self.add((workflow, plain_name(node)), output_tokens)

    def add(self, key: tuple[str, str], output_tokens: float) -> None:
        """Add a finished call of (workflow, plain name of a node)."""
        n, mean = self._means.pop(key, (0, 0.0))
        if n < 100:  # forgets: the last hundred calls weigh most
            n += 1
        self._means[key] = (n, mean + (output_tokens - mean) / n)
        if len(self._means) > self._max_nodes:
            del self._means[next(iter(self._means))]

    def expected(self, workflow: str, node: str, max_tokens: int) -> float:
        """Expected output tokens of a call, at most `max_tokens`, which is also the answer without a history."""
        known = self._means.get((workflow, plain_name(node)))
        return min(known[1], max_tokens) if known else float(max_tokens)

    def mean(self, key: tuple[str, str], otherwise: float) -> float:
        """Mean of the history of (workflow, plain name of a node), `otherwise` without one."""
        known = self._means.get(key)
        return known[1] if known is not None else otherwise

    def known(self, workflow: str, node: str) -> float | None:
        """Mean of a node's history, or None without one."""
        known = self._means.get((workflow, plain_name(node)))
        return known[1] if known else None
