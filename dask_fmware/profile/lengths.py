"""What past runs say about the next: output lengths of nodes, branches taken, rounds of loops.

The nodes of a workflow are narrow distributions, far narrower than all calls of a model, so history is kept by
(workflow, node). Until there is some, `max_tokens` and even odds stand in. Counts only; no text and no clock.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter, deque
from collections.abc import Sequence
from math import ceil

from dask_fmware.errors import SpecError

__all__ = ["BranchFrequencies", "LoopCounts", "OutputLengths"]


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


class BranchFrequencies:
    """Odds of the branches of a switch: observed counts over a Dirichlet prior.

    Examples
    --------
    >>> odds = BranchFrequencies(["order", "chat"])
    >>> odds.observe("chat")
    >>> odds.probabilities
    {'order': 0.25, 'chat': 0.75}
    """

    def __init__(self, branches: Sequence[str], prior: float = 0.5) -> None:
        if not branches or len(set(branches)) != len(branches) or prior <= 0:
            raise SpecError(f"branch odds need distinct branches and a prior above 0, got {list(branches)} and {prior}")
        self._branches = tuple(branches)
        self._prior = prior
        self._counts: Counter[str] = Counter()

    def observe(self, branch: str) -> None:
        """Take note of a branch that was taken."""
        if branch not in self._branches:
            raise SpecError(f"branch {branch!r} is none of {', '.join(map(repr, self._branches))}")
        self._counts[branch] += 1

    @property
    def probabilities(self) -> dict[str, float]:
        """Odds of each branch; they add up to 1 and none is 0."""
        total = self._counts.total() + self._prior * len(self._branches)
        return {branch: (self._counts[branch] + self._prior) / total for branch in self._branches}


class LoopCounts:
    """Rounds of a bounded loop: observed counts over a Dirichlet prior on 1 to `bound` rounds."""

    def __init__(self, bound: int, prior: float = 0.5) -> None:
        if bound < 1 or prior <= 0:
            raise SpecError(f"loop counts need a bound of at least 1 and a prior above 0, got {bound} and {prior}")
        self.bound = bound
        self._prior = prior / bound  # the whole prior weighs `prior` loops, however high the bound
        self._counts: Counter[int] = Counter()

    def observe(self, rounds: int) -> None:
        """Take note of a loop that ended after `rounds`."""
        if not 1 <= rounds <= self.bound:
            raise SpecError(f"a loop bounded by {self.bound} cannot have run {rounds} rounds")
        self._counts[rounds] += 1

    def probability(self, rounds: int, done: int = 0) -> float:
        """Odds that the loop ends after exactly `rounds`, given that `done` rounds did not end it."""
        if not done < rounds <= self.bound:
            return 0.0
        return (self._counts[rounds] + self._prior) / self._mass(done)

    def mean(self, done: int = 0) -> float:
        """Expected rounds in total, given that `done` rounds did not end it."""
        return sum(rounds * self.probability(rounds, done) for rounds in range(done + 1, self.bound + 1))

    def quantile(self, q: float, done: int = 0) -> int:
        """Least number of rounds within which a share `q` of loops ends, given that `done` did not end it."""
        below = 0.0
        for rounds in range(done + 1, self.bound):
            below += self.probability(rounds, done)
            if below >= q:
                return rounds
        return self.bound

    def _mass(self, done: int) -> float:
        return sum(self._counts[rounds] + self._prior for rounds in range(done + 1, self.bound + 1))
