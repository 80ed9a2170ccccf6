"""What is kept of a drain."""

from __future__ import annotations

import pytest

from benchmarks.overload import busy


def test_a_card_is_busy_for_as_long_as_its_calls_last_within_the_time_that_is_looked_at() -> None:
    turns = [
        {"card": "fast", "began": 5.0, "ended": 11.0},  # one second of it in the time
        {"card": "fast", "began": 11.0, "ended": 13.0},
        {"card": "slow", "began": 19.0, "ended": 25.0},
        {"card": "slow", "began": 25.0, "ended": 30.0},
    ]
    assert busy(turns, 10.0, 20.0) == pytest.approx({"fast": 0.3, "slow": 0.1})
