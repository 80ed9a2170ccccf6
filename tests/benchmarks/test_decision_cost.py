"""What a call that waits takes of the scheduler's memory stays within its bound."""

from __future__ import annotations

import pytest

from benchmarks.decision_cost import held_bytes


@pytest.mark.parametrize("policy", ["slack", "greedy", "power_of_two"])
def test_a_held_call_takes_less_than_two_kilobytes(policy: str) -> None:
    assert held_bytes(policy, 5000) < 2048
