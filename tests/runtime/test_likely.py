"""The runs that may come are taken to be like those that ended last, at the rate of late."""

from __future__ import annotations

import pytest

from dask_fmware.model.plan import Guard, Objective
from dask_fmware.runtime import Branched, RunEnded
from tests.runtime.builders import Driver, node, plan, replica

OBJECTIVE = Objective(e2e_s=10.0)


def play(driver: Driver, run: str, at: float, branch: int) -> None:
    """A run whose first call decides between two others, to its end, with half a second of plain code."""
    nodes = (
        node(f"{run}/which"),
        node(f"{run}/left", after=("which",), guards=(Guard("switch", 0),), answers=True),
        node(f"{run}/right", after=("which",), guards=(Guard("switch", 1),), answers=True, max_tokens=20),
    )
    driver.tell(at=at)
    driver.submit(plan(run, nodes, objective=OBJECTIVE))
    driver.runnable(f"{run}/which")
    driver.now += 0.2
    driver.tell(Branched(run, "switch", branch))
    driver.end(f"{run}/which", output_tokens=5)
    driver.now += 0.5
    taken, other = (f"{run}/left", f"{run}/right") if branch == 0 else (f"{run}/right", f"{run}/left")
    driver.runnable(taken, other)
    driver.now += 0.2
    driver.end(taken, output_tokens=8)
    driver.tell(RunEnded(run, "finished", ""))


@pytest.fixture
def driver() -> Driver:
    made = Driver("slack")
    made.ready(replica("a"))
    return made


def test_nothing_is_expected_until_some_runs_have_come(driver: Driver) -> None:
    assert driver.machine.to_come.expected(0.0) == ()
    play(driver, "r0", 0.0, 0)
    play(driver, "r1", 2.0, 0)
    assert driver.machine.to_come.expected(driver.now) == ()
    play(driver, "r2", 4.0, 0)
    assert driver.machine.to_come.expected(driver.now)


def test_runs_are_expected_at_the_rate_of_late_and_on_the_paths_that_were_taken(driver: Driver) -> None:
    for number in range(4):
        play(driver, f"r{number}", 2.0 * number, number % 2)
    expected = driver.machine.to_come.expected(now := driver.now)
    assert [job.submitted for job in expected[:3]] == pytest.approx([now, now + 2.0, now + 4.0])
    assert [len(job.steps) for job in expected] == [2] * len(expected)  # the call that decides, and the branch taken
    first, second = expected[0].steps
    assert (first.after, second.after) == ((), (0,))
    assert second.pause_s == pytest.approx(0.5)
    assert second.due == pytest.approx(now + 10.0)
    assert first.due < second.due


def test_a_pause_ends_a_burst(driver: Driver) -> None:
    for number in range(4):
        play(driver, f"r{number}", 1.0 * number, 0)
    expected = driver.machine.to_come.expected(60.0)
    assert expected[1].submitted - expected[0].submitted > 10.0


def test_runs_without_a_deadline_are_not_expected(driver: Driver) -> None:
    for number in range(4):
        driver.tell(at=float(number))
        driver.start(f"r{number}")
        driver.end(f"r{number}")
        driver.tell(RunEnded(f"r{number}", "finished", ""))
    assert driver.machine.to_come.expected(5.0) == ()
