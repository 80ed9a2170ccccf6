"""What a call costs by the prices of a deployment."""

from __future__ import annotations

import pytest

from dask_fmware.evaluation.costs import Prices
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
