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


def verdict(recent: Bucket, *, late: int, waiting: int, serving: int) -> dict[str, str]:
    """Say in one sentence whether SLOs are met and, if not, which node on which card is to blame.

    Parameters
    ----------
    recent
        What happened lately.
    late, waiting, serving
        Runs under way that are late already, calls that wait, and replicas that take calls.
    """
    tally = recent.tallies[ALL]
    minutes = f"the last {RECENT_S / 60:g} minutes"
    share = tally.goodput(late)
    counts = f"{tally.met} of {tally.judged + late} runs were in time in {minutes}"
    counts += f"; {late} under way {'is' if late == 1 else 'are'} late already." if late else "."
    if waiting and not serving:
        state, detail = "missed" if late else "risk", "" if share is None else counts
        return {"state": state, "headline": f"No replica serves, {_calls(waiting)}", "detail": detail}
    if share is None:
        if not serving:
            return {"state": "idle", "headline": "No replica is ready yet", "detail": ""}
        ended = f"{tally.ended} runs without an SLO ended" if tally.ended else "no run ended"
        busy = f"; {_calls(waiting)}" if waiting else ""
        return {"state": "idle", "headline": "No SLO to judge", "detail": f"In {minutes} {ended}{busy}."}
    if share >= 0.99:
        return {"state": "met", "headline": "SLOs are met", "detail": counts}
    state, headline = ("risk", "SLOs are mostly met") if share >= 0.9 else ("missed", "SLOs are missed")
    blamed = f" {_blamed(recent, tally.judged - tally.met)}" if recent.misses else ""  # none of what has not ended
    return {"state": state, "headline": headline, "detail": counts + blamed}


def _calls(waiting: int) -> str:
    return "1 call waits" if waiting == 1 else f"{waiting} calls wait"


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
