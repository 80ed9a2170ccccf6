"""What came of a split: for each model node what it may take and what it takes where, for a workflow whether that fits.

It prints as a table, in a notebook with the drawing of the workflow; how the split is made is in `budgets`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from dask_fmware.profile.assumptions import of_unsized
from dask_fmware.profile.reference import CardLatency
from dask_fmware.spec.columns import in_columns
from dask_fmware.spec.workflow import Workflow

__all__ = ["Budgets", "NodeBudget"]


@dataclass(frozen=True, slots=True)
class NodeBudget:
    """What one model node may take."""

    node: str
    model: str
    answers: bool  # its output is streamed as the answer
    budgets_s: Mapping[str, float]  # by bound of the SLO ("ttft_s", "e2e_s"), for each execution on a path
    latencies_s: Mapping[str, Mapping[str, float]]  # by bound, then by accelerator: what one execution takes
    executions: float  # expected in a run, for cost
    repeats: int  # executions one after the other: rounds of loops, and turns of items beyond all slots
    cards: tuple[CardLatency, ...]
    prompt_tokens: int = 0  # planned with
    output_tokens: int = 0
    first_tokens: frozenset[str] = frozenset()  # bounds that it has kept with its first token

    @property
    def slack_s(self) -> float:
        """What is left of the tightest budget on the quickest card; negative: the budget cannot be met.

        Infinite for a node that no bound of the SLO waits for.
        """
        left = (budget - min(self.latencies_s[bound].values()) for bound, budget in self.budgets_s.items())
        return min(left, default=inf)

    @property
    def within(self) -> tuple[str, ...]:
        """Accelerators on which an idle replica meets every budget."""
        return tuple(
            card.accelerator
            for card in self.cards
            if all(self.latencies_s[bound][card.accelerator] <= s for bound, s in self.budgets_s.items())
        )

    @property
    def card(self) -> CardLatency:
        """The cheapest card within the budget, else the quickest."""
        fitting = [card for card in self.cards if card.accelerator in self.within] or list(self.cards[:1])
        return min(fitting, key=lambda c: (c.price_per_hour is None, c.shared_card_s * (c.price_per_hour or 0.0)))


@dataclass(frozen=True, slots=True)
class Budgets:
    """Budgets of a workflow on a deployment; prints as a table, in a notebook with the drawing."""

    workflow: Workflow
    deadlines_s: Mapping[str, float]  # by bound of the SLO
    quickest_s: Mapping[str, float]  # critical path on the quickest cards, idle
    usual_s: Mapping[str, float]  # critical path on the mean of the deployed replicas, idle
    critical_path: tuple[str, ...]  # model and task nodes on it, for the tightest bound
    nodes: tuple[NodeBudget, ...]
    assumed: tuple[str, ...]
    unsized: tuple[str, ...] = ()  # maps planned with 1 item, as nobody has said how many they have

    @property
    def feasible(self) -> bool:
        """Whether idle cards of the quickest type meet every bound."""
        return all(self.quickest_s[bound] <= deadline_s for bound, deadline_s in self.deadlines_s.items())

    @property
    def verdict(self) -> str:
        """In one line."""
        parts = []
        for bound, deadline_s in self.deadlines_s.items():
            quickest_s, usual_s = self.quickest_s[bound], self.usual_s[bound]
            if quickest_s > deadline_s:
                said = f"not feasible: the quickest cards need {_seconds(quickest_s)} when idle"
            elif usual_s > deadline_s:
                said = (
                    f"feasible on the quickest cards only: {_seconds(quickest_s)}, {_seconds(usual_s)} on the mean of "
                    "the replicas"
                )
            else:
                said = f"feasible: {_seconds(quickest_s)} on the quickest cards, {_seconds(usual_s)} on the mean"
            parts.append(f"{bound}={deadline_s:g} {said}")
        return "; ".join(parts)

    def cost_per_1000_runs(self, *, busy: bool = True) -> float | None:
        """Price of the card time of a thousand runs, each node on `NodeBudget.card`; None if a price is missing.

        Parameters
        ----------
        busy
            Cards are shared by as many calls as they have slots; else each call has a card of its own.
        """
        total = 0.0
        for node in self.nodes:
            card = node.card
            if card.price_per_hour is None:
                return None
            card_s = card.shared_card_s if busy else card.completion_s
            total += 1000 * node.executions * card_s * card.price_per_hour / 3600
        return total

    @property
    def cost(self) -> str:
        """In one line."""
        busy, alone = self.cost_per_1000_runs(), self.cost_per_1000_runs(busy=False)
        if busy is None or alone is None:
            bare = sorted({node.card.accelerator for node in self.nodes if node.card.price_per_hour is None})
            return f"cost unknown: give price_per_hour of {', '.join(bare)} in the deployment"
        return f"1,000 runs cost {busy:.3g} on busy cards, {alone:.3g} with a card for each call"

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """Cells of the table, head first."""
        head = ("node", "model", "executions", *(f"budget {b}" for b in self.deadlines_s), "idle", "slack", "within")
        return [head, *(self._row(node) for node in self.nodes)]

    def _row(self, node: NodeBudget) -> tuple[str, ...]:
        bounds = tuple(_seconds(node.budgets_s[b]) if b in node.budgets_s else "-" for b in self.deadlines_s)
        tightest = next(iter(node.budgets_s), None)
        idle = node.latencies_s[tightest] if tightest is not None else {}
        return (
            node.node,
            node.model,
            f"{node.executions:.3g}",
            *bounds,
            ", ".join(f"{_seconds(s)} {card}" for card, s in idle.items()),
            _seconds(node.slack_s) if node.budgets_s else "-",
            ", ".join(node.within) or "none",
        )

    def __str__(self) -> str:
        assumed = (f"  - {text}" for text in self.assumed)
        head = f"{self.workflow.name}: {self.verdict}"
        return "\n".join([head, *in_columns(self.rows), self.cost, *of_unsized(self.unsized), "assumed:", *assumed])

    __repr__ = __str__

    def notes(self) -> dict[str, str]:
        """What the drawing says below each model node."""
        notes = {}
        for node in self.nodes:
            if node.budgets_s:
                bound, budget_s = min(node.budgets_s.items(), key=lambda item: item[1])
                quickest_s = min(node.latencies_s[bound].values())
                notes[node.node] = f"{_seconds(quickest_s)} of {_seconds(budget_s)}"
        return notes

    def _repr_html_(self) -> str:
        from dask_fmware.profile.budget_table import to_html

        return to_html(self)


def _seconds(value: float) -> str:
    if abs(value) >= 10:
        return f"{value:,.1f} s"
    if abs(value) >= 1:
        return f"{value:.2f} s"
    return f"{1e3 * value:.0f} ms" if abs(value) >= 0.01 else f"{1e3 * value:.2g} ms"
