"""The SLO of a workflow as budgets of its nodes, before a run: is it feasible, and what would it cost?

Section 4 of the paper splits the end-to-end SLO in proportion to profiled latency on the critical path.
Here each node gets ``deadline * latency / longest path through the node``: on the critical path that is
the paper's split, and on no path do budgets add up to more than the deadline, because the longest path
through a node is at least as long as any path it is on. Branches of a switch are alternatives, so a path
takes one of them; a loop counts its bound; items of a map run side by side, in as many turns as it takes to bring those
that are assumed through the slots of all replicas. Latency is that of the mean of the deployed replicas; where a
node would get less than its quickest card needs, it is that of the quickest cards.

It plans with idle cards and reference token counts; what load does to a run, projections know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, prod

import networkx as nx

from dask_fmware.errors import SpecError
from dask_fmware.profile.assumptions import PROMPT_TOKENS, Assumptions
from dask_fmware.profile.node_budgets import Budgets, NodeBudget
from dask_fmware.profile.record import Profile
from dask_fmware.profile.reference import card_latencies
from dask_fmware.spec.deployment import Deployment
from dask_fmware.spec.graph import answer_nodes, graph, output_nodes
from dask_fmware.spec.scopes import Place, inner, places
from dask_fmware.spec.slo import SLO
from dask_fmware.spec.workflow import LoopNode, MapNode, ModelNode, SwitchNode, Workflow

__all__ = ["Budgets", "NodeBudget", "budgets"]

LABEL_BYTES = 3  # of a token, at least, where the output is one of some labels


def budgets(
    workflow: Workflow,
    deployment: Deployment,
    profiles: Sequence[Profile] = (),
    *,
    slo: SLO | None = None,
    assumptions: Assumptions | None = None,
    to_come: bool = False,
) -> Budgets:
    """Split the SLO of a workflow over its nodes.

    Parameters
    ----------
    workflow
        A workflow that passes `check`.
    deployment
        Models, cards and prices.
    profiles
        What was measured; the catalog and the deployment's latency figures stand in for what is missing.
    slo
        Instead of the workflow's own.
    assumptions
        Token counts, odds and counts to plan with.
    to_come
        Replicas are to come, see `card_latencies`.

    Raises
    ------
    SpecError
        The workflow has no SLO in seconds, or nothing is known of a model's speed on a card.
    """
    return _Plan(workflow, deployment, profiles, slo, assumptions or Assumptions(), to_come).made()


class _Plan:
    """One split."""

    def __init__(
        self,
        workflow: Workflow,
        deployment: Deployment,
        profiles: Sequence[Profile],
        slo: SLO | None,
        assumptions: Assumptions,
        to_come: bool,
    ) -> None:
        workflow.check()
        self.workflow, self.assume = workflow, assumptions
        self.found = places(workflow)
        self.graph = graph(workflow)
        self.answers, self.ends = answer_nodes(workflow), output_nodes(workflow)
        self.deadlines_s = _deadlines(workflow, slo or workflow.slo)
        self.cards = {
            name: card_latencies(place.node.model, deployment, profiles, *self.tokens(place.node), to_come=to_come)
            for name, place in self.found.items()
            if isinstance(place.node, ModelNode)
        }

    def tokens(self, node: ModelNode) -> tuple[int, int]:
        """Prompt and output tokens to plan with."""
        given = self.assume.prompt_tokens
        prompt = given.get(node.name, PROMPT_TOKENS) if isinstance(given, Mapping) else given
        usual = node.most_output_tokens
        if node.choices is not None:
            longest = max(len(label.encode()) for label in node.choices)
            usual = min(usual, -(-longest // LABEL_BYTES) + 1)
        return prompt, self.assume.output_tokens.get(node.name, usual)

    def tokens_of(self, name: str) -> tuple[int, int]:
        node = self.found[name].node
        return self.tokens(node) if isinstance(node, ModelNode) else (0, 0)

    def made(self) -> Budgets:
        shares: dict[str, dict[str, float]] = {name: {} for name in self.cards}
        takes: dict[str, dict[str, dict[str, float]]] = {name: {} for name in self.cards}
        quickest_s, usual_s = {}, {}
        critical: tuple[str, ...] = ()
        tightest = 0.0
        for bound, deadline_s in self.deadlines_s.items():
            first = self.first_tokens(bound)
            usual = {name: self.usual_s(name, name in first) for name in self.graph}
            quick = {name: self.quickest_s(name, name in first) for name in self.graph}
            usual_s[bound] = max(_through(self.graph, usual).values(), default=0.0)
            quickest_s[bound] = max(_through(self.graph, quick).values(), default=0.0)
            parts = self.parts(usual)
            if quickest_s[bound] <= deadline_s and any(deadline_s * parts[name] < quick[name] for name in parts):
                parts = self.parts(quick)  # on the mean of the replicas a node would get less than any card needs
            for name in self.graph:
                if name in self.cards:
                    whole_s = deadline_s * parts[name]
                    shares[name][bound] = whole_s / self.repeats(name)
                    takes[name][bound] = {
                        card.accelerator: card.ttft_s if name in first else card.completion_s
                        for card in self.cards[name]
                    }
            if usual_s[bound] / deadline_s > tightest:
                tightest = usual_s[bound] / deadline_s
                path = _critical(self.graph, usual)
                critical = tuple(name for name in path if usual[name] > 0)
        nodes = tuple(
            NodeBudget(
                name, _model(self.found[name]), name in self.answers, shares[name], takes[name],
                self.executions(name), self.repeats(name), cards, *self.tokens_of(name),
                frozenset(bound for bound in self.deadlines_s if name in self.first_tokens(bound)),
            )
            for name, cards in self.cards.items()
        )  # fmt: skip
        return Budgets(
            self.workflow, self.deadlines_s, quickest_s, usual_s, critical, nodes, tuple(self.assumed()),
            self.assume.unsized(self.workflow),
        )  # fmt: skip

    def parts(self, takes_s: Mapping[str, float]) -> dict[str, float]:
        """Share of each model node in the longest path through it."""
        through = _through(self.graph, takes_s)
        return {name: takes_s[name] / through[name] if through[name] > 0 else 0.0 for name in self.cards}

    def first_tokens(self, bound: str) -> frozenset[str]:
        """Nodes of which the first token counts; all others are waited for until they are done.

        Every node contributes to the output, or `check` refuses it. So each is waited for, also one in a branch that
        ends in no call of its own: it streams nothing, so all of it counts.
        """
        return self.answers if bound == "ttft_s" else frozenset()

    def usual_s(self, name: str, first: bool) -> float:
        """All executions of a node one after the other, on the mean of the deployed replicas."""
        cards = self.cards.get(name)
        if cards is None:
            return self.repeats(name) * self.assume.task_s.get(name, 0.0)
        weight = sum(card.replicas for card in cards)
        each = [(card.replicas if weight else 1, card.ttft_s if first else card.completion_s) for card in cards]
        return self.repeats(name) * sum(n * s for n, s in each) / sum(n for n, _s in each)

    def quickest_s(self, name: str, first: bool) -> float:
        """The same on the quickest card."""
        cards = self.cards.get(name)
        if cards is None:
            return self.usual_s(name, first)
        return self.repeats(name) * min(card.ttft_s if first else card.completion_s for card in cards)

    def repeats(self, name: str) -> int:
        loops = (self.found[loop].node for loop in self.found[name].loops)
        return self.turns(name) * prod(loop.max_iterations for loop in loops if isinstance(loop, LoopNode))

    def turns(self, name: str) -> int:
        """Turns in which the items of the maps around a model node get through the slots of its replicas."""
        items, outer = 1.0, self.found[name].parent
        while outer is not None:
            items *= self.assume.items.get(outer, 1.0)
            outer = self.found[outer].parent
        at_once = sum(card.at_once for card in self.cards.get(name, ()))
        return max(ceil(items / at_once), 1) if at_once else 1

    def executions(self, name: str) -> float:
        """Expected executions of a node in a run."""
        count, place = 1.0, self.found[name]
        while place.parent is not None:
            outer = self.found[place.parent]
            match outer.node:
                case SwitchNode() as switch:
                    branches = len(inner(switch))
                    odds = self.assume.odds.get(switch.name)
                    count *= 1.0 / branches if odds is None else odds.get(place.label or "", 0.0)
                case MapNode() as mapped:
                    count *= self.assume.items.get(mapped.name, 1.0)
                case LoopNode() as loop:
                    count *= self.assume.rounds.get(loop.name, float(loop.max_iterations))
                case ModelNode() | _:
                    pass
            place = outer
        return count

    def assumed(self) -> list[str]:
        given = self.assume.prompt_tokens
        prompt = f"{PROMPT_TOKENS} where none are given" if isinstance(given, Mapping) else f"{given}"
        said = [
            f"tokens of a prompt: {prompt}; of an output: max_tokens or the longest label, unless given; idle cards"
        ]
        for name, place in self.found.items():
            match place.node:
                case SwitchNode() if name not in self.assume.odds:
                    said.append(f"switch '{name}': every branch is equally likely (cost), the slowest counts (budget)")
                case MapNode() if name not in self.assume.items:
                    said.append(f"map '{name}': 1 item (cost); items run side by side (budget)")
                case MapNode():
                    said.append(
                        f"map '{name}': {self.assume.items[name]:g} items side by side, in turns where they are more "
                        "than all replicas of a model have slots (budget)"
                    )
                case LoopNode() as loop if name not in self.assume.rounds:
                    said.append(f"loop '{name}': all {loop.max_iterations} rounds")
                case _:
                    pass
        if "ttft_s" in self.deadlines_s and self.answers:
            silent = [name for name in self.found if name in self.ends - self.answers]
            said += [f"'{name}' may end the run and streams nothing: all of it counts (ttft_s)" for name in silent]
        sources = dict.fromkeys(
            f"{_model(self.found[name])} on {card.accelerator}: {card.source}"
            for name, cards in self.cards.items()
            for card in cards
        )
        return [*said, *sources]


def _model(place: Place) -> str:
    assert isinstance(place.node, ModelNode)
    return place.node.model


def _deadlines(workflow: Workflow, slo: SLO | None) -> dict[str, float]:
    bounds = {"ttft_s": slo.ttft_s, "e2e_s": slo.e2e_s} if slo is not None else {}
    found = {name: float(value) for name, value in bounds.items() if value is not None}
    if not found:
        why = "has no SLO" if slo is None else "has only finish_by, which is a time of day"
        raise SpecError(
            f"workflow '{workflow.name}' {why}: there is nothing to split; give slo=fm.SLO(ttft_s=...) or e2e_s"
        )
    return found


def _through(part: nx.DiGraph, weights: Mapping[str, float]) -> dict[str, float]:
    """Length of the longest path through each node."""
    order = list(nx.topological_sort(part))
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    for name in order:
        before[name] = weights[name] + max((before[n] for n in part.predecessors(name)), default=0.0)
    for name in reversed(order):
        after[name] = weights[name] + max((after[n] for n in part.successors(name)), default=0.0)
    return {name: before[name] + after[name] - weights[name] for name in order}


def _critical(part: nx.DiGraph, weights: Mapping[str, float]) -> list[str]:
    """Nodes on the longest path, in order."""
    total: dict[str, float] = {}
    best: dict[str, str | None] = {}
    for name in nx.topological_sort(part):
        best[name] = max(part.predecessors(name), key=total.__getitem__, default=None)
        earlier = best[name]
        total[name] = weights[name] + (total[earlier] if earlier is not None else 0.0)
    path: list[str] = []
    step = max(total, key=total.__getitem__, default=None)
    while step is not None:
        path.append(step)
        step = best[step]
    return path[::-1]
