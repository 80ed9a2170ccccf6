"""What the fleet makes of the steps that replicas report."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from dask_fmware.model.messages import StepsTimed
from dask_fmware.model.replica import Replica
from dask_fmware.model.report import AttemptReport
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.record import LawRecord, LiveProfile, fingerprint
from dask_fmware.runtime import Event, ReplicaGone, ReplicaReady, eventlog
from dask_fmware.runtime.learning.corrections import Pace, Prediction
from tests.runtime.builders import Driver, plan, replica

LAW = StepLaw.plain(0.010, 1e-4, 1e-3, 1e-6)
PROFILE = LiveProfile(law=LawRecord.of(LAW)).to_wire()
OTHER = LiveProfile(law=LawRecord.of(LAW.scaled(3.0, 3.0))).to_wire()


def profiled(name: str, profile: str | None = PROFILE, **options: object) -> Replica:
    return replace(replica(name, slots=4, **options), profile=profile)  # type: ignore[arg-type]


def steps(name: str, slower: float, count: int = 30, profile: str = PROFILE) -> StepsTimed:
    """Steps of a replica that runs `slower` times its profile; every fourth report holds a prompt."""
    told = [(0.1, 0.3 if n % 4 == 0 else 0.0) for n in range(count)]
    return StepsTimed(f"tcp://{name}", fingerprint(profile), tuple((d, p, slower * (d + p), 8.0) for d, p in told))


def seen(driver: Driver, name: str):
    return next(view for view in driver.machine.fleet.views("small") if view.name == name)


def test_policies_see_a_slowed_replica_as_it_runs_and_the_others_as_they_are() -> None:
    driver = Driver()
    driver.ready(profiled("a"), profiled("b"))
    driver.tell(steps("a", 1.6, count=200), steps("b", 1.0))
    slow, sound = seen(driver, "a"), seen(driver, "b")
    assert slow.law.step_s(0, 4, 100) == pytest.approx(1.6 * LAW.step_s(0, 4, 100), rel=0.02)
    assert slow.law.prefill_s(200) == pytest.approx(1.6 * LAW.prefill_s(200), rel=0.02)
    assert slow.latency.output_token_s == pytest.approx(1.6 * sound.latency.output_token_s, rel=0.02)
    assert sound.law.step_s(0, 4, 100) == pytest.approx(LAW.step_s(0, 4, 100), rel=0.02)


def test_one_slow_replica_is_not_the_speed_of_its_kind() -> None:
    driver = Driver()
    three = [profiled(name) for name in "abc"]
    driver.ready(*three)
    driver.tell(steps("a", 3.0, count=200))
    corrections = driver.machine.fleet.corrections
    assert corrections.usual(three) == LAW
    assert corrections.usual(three[:1]).step_s(0, 4, 100) == pytest.approx(3 * LAW.step_s(0, 4, 100), rel=0.02)
    assert corrections.usual([]) is None
    assert corrections.usual([replica("d", "another")]) is None


def test_a_slowed_replica_is_of_another_kind_so_that_policies_look_at_both() -> None:
    driver = Driver("greedy")
    driver.ready(profiled("a"), profiled("b"))
    assert len(driver.machine.fleet.views("small").leaders) == 1
    driver.tell(steps("a", 1.6))
    assert {view.name for view in driver.machine.fleet.views("small").leaders} == {"a", "b"}
    driver.submit(plan("run"))
    (assigned,) = driver.runnable("run")
    assert assigned.replica_id == "tcp://b"
    driver.tell(steps("a", 1.0, count=200))
    assert len(driver.machine.fleet.views("small").leaders) == 1


def test_a_lasting_drift_is_dated_to_when_it_began() -> None:
    driver = Driver()
    driver.ready(profiled("a"))
    corrections = driver.machine.fleet.corrections
    driver.tell(steps("a", 1.0), at=100.0)
    assert corrections.drift("tcp://a") is None
    for second in range(200, 210):
        driver.tell(steps("a", 1.6, count=3), at=float(second))
    drift = corrections.drift("tcp://a")
    assert drift is not None
    assert (round(drift.ratio, 1), drift.since_s) == (1.6, 200.0)
    driver.tell(steps("a", 1.0), at=300.0)
    assert corrections.drift("tcp://a") is None


@pytest.mark.parametrize("slower", [2.5, 0.4])
def test_a_change_of_speed_is_learnt_within_ten_reports_however_long_it_was_another(slower: float) -> None:
    driver = Driver()
    driver.ready(profiled("a"))
    driver.tell(steps("a", 1.0, count=200), steps("a", slower, count=10))
    assert seen(driver, "a").law.step_s(0, 4, 100) == pytest.approx(slower * LAW.step_s(0, 4, 100), rel=0.2)


def finished(first_s: float, rest_s: float, told: Prediction) -> AttemptReport:
    """An attempt on which `told` was predicted."""
    return AttemptReport(
        1, "a", "tcp://a", "card", "card-0", "", 0.0, told.ttft_s, told.latency_s, told.first_by_law_s, told.by_law_s,
        told.bound_s, told.band, first_token_at=first_s, ended_at=first_s + rest_s, output_tokens=20,
    )  # fmt: skip


def test_what_followers_do_to_tokens_is_not_laid_on_the_first_one() -> None:
    pace = Pace()
    for _ in range(20):
        pace.observe(finished(0.1, 3.0, pace.predict(2, 0.1, 1.0)))
    long, short = pace.predict(2, 0.1, 2.0), pace.predict(2, 0.1, 0.1)
    assert (long.ttft_s, long.latency_s) == (pytest.approx(0.1), pytest.approx(6.1))
    assert short.latency_s == pytest.approx(0.4)
    assert long.bound_s >= long.latency_s


def test_what_a_model_thinks_before_it_says_a_word_is_a_part_of_its_tokens() -> None:
    pace = Pace()
    for _ in range(20):
        pace.observe(finished(2.1, 1.0, pace.predict(2, 0.1, 3.0)), hidden_s=2.0)
    told = pace.predict(2, 0.1, 3.0)
    assert (told.ttft_s, told.latency_s) == (pytest.approx(0.1), pytest.approx(3.1))


def test_steps_beside_another_profile_teach_nothing() -> None:
    driver = Driver()
    driver.ready(profiled("a"))
    driver.tell(steps("a", 1.6, profile=OTHER))
    assert seen(driver, "a").law == LAW
    driver.tell(StepsTimed("tcp://nobody", fingerprint(PROFILE), ((0.1, 0.0, 0.3, 8.0),)))


def test_a_new_profile_starts_without_what_was_learned_beside_the_old_one() -> None:
    driver = Driver()
    driver.ready(profiled("a"))
    driver.submit(plan("run"))
    driver.runnable("run")
    driver.tell(steps("a", 1.6))
    driver.tell(ReplicaReady(profiled("a", OTHER)))
    assert seen(driver, "a").law == LAW.scaled(3.0, 3.0)
    assert seen(driver, "a").running == 1, "a replica that was profiled keeps its calls"
    driver.tell(steps("a", 1.6))  # were under way when the profile changed
    assert seen(driver, "a").law == LAW.scaled(3.0, 3.0)


def test_a_latency_figure_that_came_with_a_profile_is_used_and_costs_no_call() -> None:
    driver = Driver()
    driver.ready(profiled("a", None))
    driver.submit(plan("run"))
    driver.runnable("run")
    figure = LiveProfile.from_wire(PROFILE).latency()
    driver.tell(ReplicaReady(replace(profiled("a"), latency=figure)))
    assert (seen(driver, "a").latency, seen(driver, "a").running) == (figure, 1)


def test_a_new_replica_starts_with_the_median_of_its_kind() -> None:
    driver = Driver()
    driver.ready(profiled("a"), profiled("b"), profiled("c"))
    driver.tell(steps("a", 1.2), steps("b", 1.2), steps("c", 4.0))
    driver.ready(profiled("d"))
    assert seen(driver, "d").law.step_s(0, 1, 1) == pytest.approx(1.2 * LAW.step_s(0, 1, 1), rel=0.02)


def test_what_the_last_replica_of_a_kind_was_like_stays_known() -> None:
    driver = Driver()
    driver.ready(profiled("a"))
    driver.tell(steps("a", 1.4), ReplicaGone("tcp://a"))
    driver.ready(profiled("b"))
    assert seen(driver, "b").law.step_s(0, 1, 1) == pytest.approx(1.4 * LAW.step_s(0, 1, 1), rel=0.02)


def test_a_profile_serves_replicas_of_exactly_its_kind() -> None:
    driver = Driver()
    driver.ready(profiled("a"), profiled("same", None), replace(profiled("newer", None), engine_version="2"))
    assert seen(driver, "same").law == LAW
    assert seen(driver, "newer").law is None


def test_tokens_of_attempts_are_noted() -> None:
    driver = Driver()
    driver.ready(profiled("a"))
    driver.submit(plan("run"))
    driver.runnable("run")
    driver.tell(StepsTimed("tcp://a", tokens=(("run", 1, 7), ("gone", 1, 3))), at=5.0)
    (stay,) = driver.machine.fleet.get("tcp://a").running.values()  # type: ignore[union-attr]
    assert (stay.tokens, stay.seen_at) == (7, 5.0)


def test_event_logs_know_every_event() -> None:
    assert set(eventlog._EVENTS) == {kind.__name__ for kind in get_args(Event)}
