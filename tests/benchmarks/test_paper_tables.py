"""Tables of the paper's experiment, and the README that quotes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import paper
from benchmarks.paper import is_stalled
from benchmarks.paper_tables import CELLS, HEADLINE, README, headline, other_settings, out_of_turn, readme_with
from benchmarks.support.curves import Curves, kept, saturation


def cell(system: str, count: int, seed: int, goodput: float, ttft_s: float = 1.0) -> dict[str, Any]:
    return {
        "system": system, "workflow": "rag", "count": count, "seed": seed, "lengths": "deterministic", "plus_s": 1.0,
        "goodput": goodput, "ttft_mean_s": ttft_s, "latency_mean_s": 2 * ttft_s, "fast_share": 0.5,
    }  # fmt: skip


CELLS_OF_TWO = [
    cell(system, count, seed, goodput, ttft_s)
    for seed in (1, 2)
    for system, curve, ttft_s in (("ray", (0.8, 0.4), 2.0), ("slack", (1.0, 0.5), 1.0))
    for count, goodput in zip((5, 15), curve, strict=True)
]


def test_curves_compare_seed_by_seed() -> None:
    curves = Curves(CELLS_OF_TWO, ("ray", "slack"))
    assert curves.largest_n("ray", "rag") == pytest.approx(7.5)
    assert curves.largest_n("slack", "rag") == pytest.approx(11.0)
    assert curves.n_ratio("slack", "ray", "rag")[0] == pytest.approx(11.0 / 7.5)
    assert curves.ratio("slack", "ray", "rag", "ttft_mean_s", 10) == (0.5, 0.5, 0.5)
    assert curves.average("slack", "rag", "goodput") == [0.75, 0.75]


def test_a_seed_that_one_system_has_not_finished_is_left_out() -> None:
    curves = Curves([*CELLS_OF_TWO, cell("ray", 5, 3, 0.0), cell("slack", 5, 3, 0.0)], ("ray", "slack"))
    assert curves.seeds == {"rag": [1, 2]}
    assert Curves(CELLS_OF_TWO[:3], ("ray", "slack")).workflows == ["rag"]
    assert Curves([], ("ray", "slack")).workflows == []


def test_a_load_that_is_never_carried_counts_as_the_least() -> None:
    never = [cell("ray", count, 1, 0.1) for count in (5, 15)]
    assert Curves(never, ("ray",)).largest_n("ray", "rag") == 5


def test_discarded_cells_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    lines = [{"environment": {}}, cell("ray", 5, 1, 0.5), {**cell("ray", 5, 2, 0.1), "discarded": "stalled"}]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert kept(path, "deterministic", 1.0) == [lines[1]]
    assert kept(path, "drawn") == []
    assert kept(tmp_path / "none") == []


def test_systems_that_did_not_take_turns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    where = {"environment": {}}
    ray, greedy, slack = (cell(system, 5, 1, 0.5) for system in ("ray", "greedy", "slack"))
    path.write_text("\n".join(map(json.dumps, [where, ray, greedy, where, {**slack, "discarded": "stalled"}, slack])))
    assert out_of_turn(path) == "Not played in turns: first `ray` and `greedy`; in a later run `slack`."
    path.write_text("\n".join(map(json.dumps, [where, ray, slack, where, ray, slack])))
    assert out_of_turn(path) == ""


def test_ray_is_also_compared_in_its_best_setting(tmp_path: Path) -> None:
    path, goodput = tmp_path / "cells.jsonl", {"ray": 0.5, "greedy": 0.6, "slack": 0.9, "ray local": 0.45}
    cells = [cell(system, count, 1, share) for system, share in goodput.items() for count in (5, 15)]
    path.write_text("\n".join(map(json.dumps, [{"environment": {}}, *cells])))
    told = "\n".join(other_settings(cells, path))
    assert "`ray` with 0.500 in time over N, `slack` +80 % beside it" in told
    cells = [{**one, "goodput": 0.75} if one["system"] == "ray local" else one for one in cells]
    assert "`ray local` with 0.750 in time over N, `slack` +20 % beside it" in "\n".join(other_settings(cells, path))
    assert other_settings([one for one in cells if one["system"] != "ray local"], path) == []


@pytest.mark.parametrize(("late_s", "stall_s", "stalled"), [(0.001, 0.01, False), (0.1, 0.01, True), (0.0, 0.5, True)])
def test_a_cell_is_discarded_when_engines_or_machine_stalled(late_s: float, stall_s: float, stalled: bool) -> None:
    assert bool(is_stalled({"late_p95_s": late_s, "machine_stall_s": stall_s})) is stalled


def test_saturation_is_what_both_cards_do() -> None:
    assert 12 < saturation("rag") < 15
    assert 11 < saturation("shopping") < 14


def test_the_headline_of_the_readme_is_that_of_the_results() -> None:
    text = README.read_text(encoding="utf-8")
    table = headline(Curves(kept(CELLS, "deterministic", 1.0), HEADLINE), out_of_turn(CELLS))
    assert readme_with(text, table) == text, "run: python -m benchmarks.paper_tables --readme"


def test_a_readme_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="no place"):
        readme_with("# nothing", "table")


def test_the_quick_form_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(asked: Any, path: Path, where: dict[str, Any]) -> None:
        with open(path, "w", encoding="utf-8") as file:  # noqa: ASYNC230
            file.write(json.dumps({"environment": where}) + "\n")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paper, "work", work)
    monkeypatch.setattr(paper.signal, "signal", lambda *_: None)
    paper.main(["--quick"])
    assert list(tmp_path.iterdir()) == []
