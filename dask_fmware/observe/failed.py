"""Replicas that failed, in a few sentences however many they are: a file that is missing is missing for all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["failed_in_words"]

NAMED = 3  # replicas of a sentence
SENTENCES = 6


def failed_in_words(failed: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say which replicas failed and why, those that failed alike together.

    Parameters
    ----------
    failed
        ``name``, ``model``, ``error`` and ``will_retry`` of each.

    Examples
    --------
    >>> failed_in_words([{"name": "a", "model": "small", "error": "no such file", "will_retry": False}])
    ['replica a of model small failed for good: no such file']
    """
    alike: defaultdict[tuple[str, bool, str], list[str]] = defaultdict(list)
    for one in failed:
        alike[str(one["model"]), bool(one["will_retry"]), str(one["error"])].append(str(one["name"]))
    said = []
    for (model, will_retry, error), names in list(alike.items())[:SENTENCES]:
        more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
        who = f"replica{'s' if len(names) > 1 else ''} {', '.join(names[:NAMED])}{more}"
        said.append(f"{who} of model {model} {'will be tried again' if will_retry else 'failed for good'}: {error}")
    if rest := sum(len(names) for names in list(alike.values())[SENTENCES:]):
        said.append(f"{rest:,} more replicas failed")
    return said
