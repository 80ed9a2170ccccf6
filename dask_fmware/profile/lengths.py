"""How far output lengths reach: quantiles by (workflow, node), also for calls that have some tokens already.

The nodes of a workflow are narrow distributions, far narrower than all calls of a model. Until something is known,
`max_tokens` stands in. Counts only; no text and no clock.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from math import ceil

from dask_fmware.errors import SpecError

__all__ = ["OutputLengths"]


class OutputLengths:
    """Output tokens of finished calls by (workflow, node).

    Parameters
    ----------
    window
        Calls remembered for each node.
    needed
        Calls without which `max_tokens` is assumed.
    max_nodes
        Nodes remembered; the one that was heard of first is forgotten first.
    """

    def __init__(self, window: int = 500, needed: int = 5, max_nodes: int = 10_000) -> None:
        if not 1 <= needed <= window:
            raise SpecError(f"output lengths need 1 <= needed <= window, got needed={needed}, window={window}")
        self._window = window
        self._needed = needed
        self._max_nodes = max_nodes
        self._history: dict[tuple[str, str], tuple[deque[int], list[int]]] = {}

    def observe(self, workflow: str, node: str, output_tokens: int) -> None:
        """Take note of a finished call."""
        latest, ordered = self._history.setdefault((workflow, node), (deque(), []))
        latest.append(output_tokens)
        insort(ordered, output_tokens)
        if len(latest) > self._window:
            del ordered[bisect_left(ordered, latest.popleft())]
        if len(self._history) > self._max_nodes:
            del self._history[next(iter(self._history))]

    def quantile(self, workflow: str, node: str, q: float, max_tokens: int, generated_tokens: int = 0) -> int:
        """Tokens that a share `q` of calls like this one stays within, at most `max_tokens`.

        Of a call that has generated some, only the longer calls of the past are like it; beyond all
        of them it is taken to go on to `max_tokens`.
        """
        if not 0.0 <= q <= 1.0:
            raise SpecError(f"a quantile must lie in 0..1, got {q}")
        _latest, ordered = self._history.get((workflow, node), ((), []))
        first = bisect_right(ordered, generated_tokens) if generated_tokens else 0
        count = len(ordered) - first
        if len(ordered) < self._needed or not count:
            return max_tokens
        rank = ceil(q * (count + 1))
        if rank > count:  # q is beyond what this few calls can tell
            rank = count
        return min(max(ordered[first + max(rank, 1) - 1], generated_tokens + 1), max_tokens)

    def samples(self, workflow: str, node: str) -> int:
        """Calls remembered of a node."""
        return len(self._history.get((workflow, node), ((), []))[1])
