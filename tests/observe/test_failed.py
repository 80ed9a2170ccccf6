"""Replicas that failed, in words."""

from __future__ import annotations

from typing import Any

from dask_fmware.client.status import RuntimeStatus
from dask_fmware.observe.failed import SENTENCES, failed_in_words


def failed(name: str, error: str = "no such file", *, will_retry: bool = False) -> dict[str, Any]:
    return {"name": name, "model": "small", "error": error, "will_retry": will_retry}


def test_replicas_that_failed_alike_are_told_in_one_sentence() -> None:
    alike = [failed(f"r{i}") for i in range(180)]
    assert failed_in_words([*alike, failed("x", will_retry=True)]) == [
        "replicas r0, r1, r2 and 177 more of model small failed for good: no such file",
        "replica x of model small will be tried again: no such file",
    ]
    assert failed_in_words([]) == []


def test_a_status_with_many_errors_stays_short() -> None:
    each = [failed(f"r{i}", f"error {i}") for i in range(180)]
    state = RuntimeStatus(
        replicas=[], policy="slack", held=0, runs=0, light_workers=0, failures={}, failed_replicas=each
    )
    assert len(list(state.troubles)) == SENTENCES + 1
    assert str(state).endswith(f"{180 - SENTENCES} more replicas failed")
