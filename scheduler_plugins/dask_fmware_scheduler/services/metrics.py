"""The runtime's series on the scheduler's own ``/metrics``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from dask_fmware.observe.exposition import Family
from dask_fmware.observe.history import History

__all__ = ["series"]

KIND = ("model", "accelerator")
Kind: TypeAlias = tuple[str, str]  # values of these labels


def series(
    history: History, now: float, failed: Mapping[str, Mapping[str, Any]], kinds: Iterable[Kind] = ()
) -> Iterator[Family]:
    """Return all series.

    Parameters
    ----------
    history
        Of the machine.
    now
        Seconds of the scheduler's clock.
    failed
        What workers said whose replica failed, by address.
    kinds
        Of replicas that there are to be: models and accelerators of the deployment.
    """
    yield from _runs(history, now)
    yield from _calls(history)
    yield from _replicas(history, now, failed, kinds)


def _runs(history: History, now: float) -> Iterator[Family]:
    totals = history.totals
    who = ("workflow", "tenant")
    yield Family("fmware_runs_submitted", "counter", "Runs that were submitted", who).add_all(totals.submitted)
    retried = "Retries of runs that had failed or been refused, each of which ends once more"
    yield Family("fmware_runs_retried", "counter", retried, who).add_all(totals.retried)
    yield Family("fmware_runs_ended", "counter", "Runs that ended, by state", (*who, "state")).add_all(totals.runs)
    yield Family("fmware_runs_judged", "counter", "Runs with an SLO that ended, by verdict", (*who, "verdict")).add_all(
        totals.verdicts
    )
    blamed = Family(
        "fmware_runs_missed",
        "counter",
        "Runs that missed their SLO, by the node and card that cost them most",
        ("workflow", "node", "cause", "accelerator", "card"),
    )
    yield blamed.add_all(totals.misses)
    under_way = Family("fmware_runs_under_way", "gauge", "Runs that were submitted and have not ended")
    under_way.add(history.live_runs)
    yield under_way
    late = history.late(now)
    overdue = Family("fmware_runs_late", "gauge", "Runs under way that are late already", who)
    yield overdue.add_all({known: late[known] for known in totals.submitted})
    first = "Seconds from submission to the first token of the answer, of runs that finished"
    yield Family("fmware_run_time_to_first_token_seconds", "histogram", first, ("workflow",)).add_histograms(
        totals.ttft
    )
    whole = "Seconds from submission to the result, of runs that finished"
    yield Family("fmware_run_duration_seconds", "histogram", whole, ("workflow",)).add_histograms(totals.e2e)


def _calls(history: History) -> Iterator[Family]:
    totals = history.totals
    live = Family("fmware_calls", "gauge", "Calls that wait or run, by node", ("workflow", "node", "state"))
    live.add_all(Counter(_known(history)))
    yield live
    first = "Seconds from the start of an attempt to its first token, as the scheduler sees it"
    yield Family("fmware_call_time_to_first_token_seconds", "histogram", first, KIND).add_histograms(totals.call_ttft)
    whole = "Seconds from the start of an attempt to its end, as the scheduler sees it"
    yield Family("fmware_call_duration_seconds", "histogram", whole, KIND).add_histograms(totals.call_duration)
    expected = "Sum of the durations that were predicted for the attempts in fmware_call_duration_seconds"
    yield Family("fmware_call_predicted_duration_seconds", "counter", expected, KIND).add_all(totals.predicted_s)
    tokens = Family("fmware_tokens", "counter", "Tokens of attempts that finished, by kind", (*KIND, "kind"))
    for kind, counted in (
        ("prompt", totals.prompt_tokens),
        ("cached", totals.cached_tokens),
        ("output", totals.output_tokens),
    ):
        for (model, accelerator), count in counted.items():
            tokens.add(count, model, accelerator, kind)
    yield tokens


def _known(history: History) -> dict[tuple[str, str, str], int]:
    """Live calls, those of workflows beyond the bound together."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for (workflow, node, state), count in history.census.counts.items():
        known = workflow in history.graphs
        counts[(workflow, node, state) if known else ("(others)", "", state)] += count
    return counts


def _replicas(
    history: History, now: float, failed: Mapping[str, Mapping[str, Any]], kinds: Iterable[Kind]
) -> Iterator[Family]:
    seen = [(known.model, known.accelerator) for known in history.replicas.values()]
    slots: Counter[Kind] = Counter(dict.fromkeys([*kinds, *seen], 0))  # none is 0 and not unknown
    states: Counter[tuple[str, str, str]] = Counter({(*kind, "ready"): 0 for kind in slots})
    each = ("replica", *KIND)
    running = Family("fmware_replica_running_calls", "gauge", "Attempts that hold a slot of a replica", each)
    busy = Family("fmware_replica_busy_seconds", "counter", "Seconds that slots of a replica were taken", each)
    for state in history.machine.fleet:
        replica = state.replica
        states[replica.model, replica.accelerator, state.standing.word(now)] += 1
        slots[replica.model, replica.accelerator] += replica.slots
        labels = {"replica": replica.name, "model": replica.model, "accelerator": replica.accelerator}
        running.add_with(labels, state.begun)
        if (known := history.replicas.get(replica.name)) is not None:
            busy.add_with(labels, known.busy_s(now))
    for message in failed.values():
        states[str(message.get("model")), str(message.get("accelerator")), "failed"] += 1
    yield Family("fmware_replicas", "gauge", "Replicas by state", (*KIND, "state")).add_all(states)
    yield Family("fmware_slots", "gauge", "Slots of replicas that serve", KIND).add_all(slots)
    yield running
    yield busy
