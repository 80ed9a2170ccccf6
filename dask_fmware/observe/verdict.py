"""What is the matter, in one sentence: whether SLOs are met and, if not, which node on which card is to blame."""

from __future__ import annotations

from collections import defaultdict

from dask_fmware.observe.window import ALL, Bucket

__all__ = ["CAUSES", "RECENT_S", "verdict"]

RECENT_S = 300.0  # what numbers and tables are about; series go further back
CAUSES = {
    "wait": "waited for a slot",
    "run": "ran too long",
    "lost": "lost an attempt",
    "between": "lost time in plain code",
    "failed": "failed",
    "rejected": "was rejected as it would be late",
    "refused": "refused",
}


def verdict(recent: Bucket, *, waiting: int, replicas: int) -> dict[str, str]:
    """Say in one sentence whether SLOs are met and, if not, which node on which card is to blame."""
    tally = recent.tallies[ALL]
    minutes = f"the last {RECENT_S / 60:g} minutes"
    share = tally.attainment
    if share is None:
        if not replicas:
            return {"state": "idle", "headline": "No replica is ready yet", "detail": ""}
        ended = f"{tally.ended} runs without an SLO ended" if tally.ended else "no run ended"
        busy = f"; {waiting} calls wait" if waiting else ""
        return {"state": "idle", "headline": "No SLO to judge", "detail": f"In {minutes} {ended}{busy}."}
    counts = f"{tally.met} of {tally.judged} runs were in time in {minutes}"
    if share >= 0.99:
        return {"state": "met", "headline": "SLOs are met", "detail": f"{counts}."}
    state, headline = ("risk", "SLOs are mostly met") if share >= 0.9 else ("missed", "SLOs are missed")
    return {"state": state, "headline": headline, "detail": f"{counts}. {_blamed(recent, tally.judged - tally.met)}"}


def _blamed(recent: Bucket, missed: int) -> str:
    """Name the node that cost most runs their SLO, where, and how."""
    nodes: defaultdict[tuple[str, str], float] = defaultdict(float)
    for culprit, (runs, _) in recent.misses.items():
        nodes[culprit.workflow, culprit.node] += runs
    (workflow, node), total = max(nodes.items(), key=lambda item: (item[1], item[0]))
    if not node:
        return f"To blame: workflow {workflow}, {total:.0f} of {missed} misses."
    cards: defaultdict[str, float] = defaultdict(float)
    own = {c: figures for c, figures in recent.misses.items() if (c.workflow, c.node) == (workflow, node)}
    for culprit, (runs, _) in own.items():
        cards[culprit.card] += runs
    card, there = max(cards.items(), key=lambda item: (item[1], item[0]))
    worst, (runs, lost_s) = max(
        ((c, figures) for c, figures in own.items() if c.card == card), key=lambda item: (item[1][0], item[0])
    )
    where = f", {there:.0f} of them on card {card}" if card else ""
    cost = f" ({lost_s / runs:.2f} s lost each)" if lost_s > 0 else ""
    return (
        f"To blame: node {node} of {workflow}, {total:.0f} of {missed} misses{where}, "
        f"where it mostly {CAUSES.get(worst.cause, worst.cause)}{cost}."
    )
