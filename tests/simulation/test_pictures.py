"""What the pictures of a study show, looked up in their artists, and what its page says first."""

from __future__ import annotations

from typing import Any

import pytest

import dask_fmware as fm
from dask_fmware.simulation.page import page, summary, table
from dask_fmware.simulation.pictures import picture
from dask_fmware.simulation.study import Study
from tests.simulation.test_world import SERIAL

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def study() -> Study:
    """Twelve runs a seed at the highest load, which is not the last."""
    failures = [{"card": "fast-0", "at_s": 1.0, "down_s": 1.0}]
    return fm.simulate({**SERIAL, "failures": failures}, ["slack", "greedy"], [4, 12, 2], seeds=2)


def axes_of(study: Study, name: str) -> Any:
    return picture(study, name).axes[0]


def named(axes: Any) -> set[str]:
    return {text.get_text() for text in axes.get_legend().get_texts()}


def test_goodput_is_drawn_from_the_least_load_to_the_highest(study: Study) -> None:
    axes = axes_of(study, "goodput")
    assert [list(line.get_xdata()) for line in axes.lines] == [[2, 4, 12]] * 2
    assert "runs in 5 s" in axes.get_xlabel()


def test_pictures_of_one_load_are_of_the_highest(study: Study) -> None:
    assert all("load 12" in axes_of(study, name).get_title() for name in ("attainment", "times", "cards", "work"))


def test_a_few_runs_have_a_timeline_too_from_the_first_to_the_last_with_names(study: Study) -> None:
    axes = axes_of(study, "timeline")
    slack, greedy = [line for line in axes.lines if line.get_label() in ("slack", "greedy")]
    assert len(slack.get_xdata()) == len(greedy.get_xdata()) >= 3
    assert slack.get_marker() != "None", "a single point is seen"
    assert axes.get_xlim()[0] == 0.0
    assert slack.get_xdata()[-1] < axes.get_xlim()[1] < 5.1
    assert named(axes) == {"slack", "greedy", "a failure"}


@pytest.mark.parametrize("load", [2, 40])
def test_words_on_bars_stand_on_one_colour(load: int) -> None:
    axes = axes_of(fm.simulate(SERIAL, "greedy", load, seeds=1), "work")
    done, (text,) = axes.patches[0].get_width(), axes.texts
    assert (done > 0.6) == (load == 2)
    assert (text.get_position()[0] <= done) == (text.get_color() == "white") == (load == 2)


def test_one_seed_has_no_intervals_in_the_title() -> None:
    assert "interval" not in axes_of(fm.simulate(SERIAL, "slack", [2, 4], seeds=1), "goodput").get_title()


def test_a_page_first_says_who_is_best_at_the_highest_load_and_what_that_load_is(study: Study) -> None:
    said = summary(study)
    best, other = sorted((study.cell(policy, 12) for policy in ("slack", "greedy")), key=lambda c: -c.goodput.mean)
    assert said.startswith(f"With 12 runs in 5 s, {best.policy} has {best.goodput.mean:.1%} of runs in time, ")
    assert said.endswith(f"{other.policy} follows with {other.goodput.mean:.1%}; 2 seeds of 12 runs each.")


def test_policies_that_are_level_do_not_follow_one_another() -> None:
    poisson = {"kind": "poisson", "rate": 0.2, "duration_s": 30}
    job = {"nodes": SERIAL["workflows"]["chain"]["nodes"]}
    made = {**SERIAL, "arrivals": poisson, "workflows": {**SERIAL["workflows"], "job": job}}
    said = summary(found := fm.simulate(made, ["slack", "greedy"], seeds=1))
    runs, judged = (round(found.rows[0][name]) for name in ("runs", "judged"))
    assert said == (
        "At the rate of the scenario, slack and greedy have 100.0% of runs in time; "
        f"1 seed of {runs} runs, {judged} of them with an objective, which the shares are of."
    )
    assert "1 slot" in page(found, {})
    assert "1 slots" not in page(found, {})


def test_the_table_has_the_intervals_of_differences(study: Study) -> None:
    row = study.rows[-1]
    assert f"<td>{row['below']:+.3f}</td><td>{row['below_low']:+.3f}</td><td>{row['below_high']:+.3f}</td>" in table(
        study
    )
