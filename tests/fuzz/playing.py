"""Feeds a target with drawn inputs, counts what came of them, and stops at the first that does harm."""

from __future__ import annotations

import signal
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hypothesis import HealthCheck, given, seed, settings
from hypothesis.errors import HypothesisDeprecationWarning

from tests.fuzz.targets import Target

__all__ = ["Played", "play"]

HANGS_S = 20.0  # of CPU time for one input: no input of these sizes takes a hundredth of it


@dataclass(frozen=True)
class Played:
    """What came of a target."""

    inputs: int
    outcomes: dict[str, int]
    slowest_s: float  # CPU time of one input


class HangError(BaseException):
    """One input has taken more CPU time than any should."""


@contextmanager
def _bounded() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise HangError(f"one input took more than {HANGS_S:g} s of CPU time")

    before = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANGS_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)


def play(target: Target, inputs: int, draw: int) -> Played:
    """Feed so many inputs of seed `draw`; hypothesis makes what fails small and raises it."""
    outcomes: Counter[str] = Counter()
    slowest_s = 0.0
    with target.opened() as feed:

        @seed(draw)
        @settings(
            max_examples=inputs,
            deadline=None,
            database=None,
            print_blob=False,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        @given(target.inputs)
        def fed(value: object) -> None:
            nonlocal slowest_s
            began = time.thread_time()
            with _bounded():
                outcomes[feed(value)] += 1
            slowest_s = max(slowest_s, time.thread_time() - began)

        with warnings.catch_warnings():  # a cluster in another thread draws numbers of its own meanwhile
            warnings.simplefilter("ignore", HypothesisDeprecationWarning)
            fed()
    return Played(outcomes.total(), dict(outcomes), slowest_s)
