"""What a call costs by the prices of a deployment."""

from __future__ import annotations

from typing import Any

import pytest

from dask_fmware.evaluation.costs import Prices
from dask_fmware.model.report import AttemptReport, CallReport
from dask_fmware.spec.documents import load_deployment


@pytest.mark.parametrize(
    ("slots", "replicas", "slots_per_card", "at_once"),
    [(1, 1, None, 1), (4, 2, None, 8), (1, 2, 1, 1), (4, 2, 6, 6), (1, 2, 16, 2)],
)
def test_a_full_card_is_paid_in_full(slots: int, replicas: int, slots_per_card: int | None, at_once: int) -> None:
    card = {"cards": 1, "replicas_per_card": replicas, "slots_per_card": slots_per_card, "price_per_hour": 3600.0}
    model = {"engine": "emulated", "arguments": {"law": {"w0": 0.01}}, "on": {"A": {"slots": slots}}}
    prices = Prices.of(load_deployment({"accelerators": {"A": card}, "models": {"m": model}}))
    assert prices.slot_s["m", "A"] * at_once == pytest.approx(1.0)


def attempt(accelerator: str, **fields: Any) -> AttemptReport:
    return AttemptReport(1, f"m-{accelerator}-0", "tcp://w", accelerator, f"{accelerator}-0", "", 1.0, **fields)


def test_prices_of_tokens_are_those_of_the_accelerator_that_ran_the_call() -> None:
    tokens = {"price_per_million_tokens": {"input": 1.0, "output": 10.0, "cached_input": 0.5}}
    model = {
        "engine": "openai",
        "arguments": {"base_url": "http://127.0.0.1:1", "model": "m"},
        "on": {"api": {"arguments": tokens}, "A": {"slots": 1}},
    }
    cards = {"api": {"cards": 1}, "A": {"cards": 1, "price_per_hour": 3600.0}}
    prices = Prices.of(load_deployment({"accelerators": cards, "models": {"m": model}}))

    def cost(*attempts: AttemptReport) -> float | None:
        return prices.of_call(CallReport("r/m", "m", "m", True, attempts=list(attempts)))

    used = {"prompt_tokens": 2_000_000, "cached_tokens": 1_000_000, "output_tokens": 1_000_000}
    assert cost(attempt("api", **used, cost=7.0)) == 7.0  # what the engine says counts
    assert cost(attempt("api", **used)) == pytest.approx(11.5)
    assert cost(attempt("A", **used, ended_at=3.0)) == pytest.approx(2.0)
    assert cost(attempt("api", **used, cost=7.0), attempt("A", ended_at=2.0)) == pytest.approx(8.0)
    assert cost() is None
