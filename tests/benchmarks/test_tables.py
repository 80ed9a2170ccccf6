"""Tables are what `--table` makes of the data that is kept beside them, so that no figure is of an older method.

Figures are kept as Python 3.11 made them. From 3.12 on, ``sum`` rounds once and not at every step: the last digits may
differ of what is kept, and the sign of what is shown as 0.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import (
    ablation,
    hedging,
    loss,
    paper_simulated,
    paper_tables,
    prefix_affinity,
    slack_batching,
    slack_fairness,
    slack_overload,
    slack_paper,
)
from benchmarks.support import environment
from benchmarks.support.environment import RESULTS

NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
MADE = (
    (ablation, "", "ablation"),
    (hedging, "", "hedging"),
    (loss, "", "loss"),
    (loss, "--real", "loss_real"),
    (paper_simulated, "", "paper_simulated"),
    (prefix_affinity, "", "prefix_affinity"),
    (slack_batching, "batching2", "slack_batching2"),
    (slack_batching, "batching6", "slack_batching6"),
    (slack_batching, "batching6_end", "slack_batching6_end"),
    (slack_batching, "batching64", "slack_batching64"),
    (slack_fairness, "", "slack_fairness"),
    (slack_overload, "", "slack_overload"),
    (slack_paper, "", "slack_paper_deterministic"),
    (slack_paper, "--lengths drawn", "slack_paper_drawn"),
)


def assert_same(made: str, kept: str) -> None:
    """Hold two texts to the same words and, but for rounding, the same figures."""
    assert NUMBER.sub("#", made) == NUMBER.sub("#", kept)
    figures = [[float(figure) for figure in NUMBER.findall(text)] for text in (made, kept)]
    assert figures[0] == pytest.approx(figures[1], rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("module", "options", "name"), MADE)
def test_a_table_is_made_again_from_what_is_kept(
    module: ModuleType, options: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (RESULTS / f"{name}.json").read_text()
    (tmp_path / f"{name}.json").write_text(data)
    monkeypatch.setattr(environment, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["table", *options.split(), "--table"])
    module.main()
    assert_same((tmp_path / f"{name}.md").read_text(), (RESULTS / f"{name}.md").read_text())
    assert_same((tmp_path / f"{name}.json").read_text(), data)


def test_the_papers_tables_are_made_again_from_what_is_kept() -> None:
    made = paper_tables.make(paper_tables.CELLS, write_results=False, plays=False)
    assert_same(made + "\n", (RESULTS / "paper.md").read_text())


def test_rounding_is_no_difference_and_a_digit_that_is_shown_is() -> None:
    assert_same("+0% of 0.30000000000000004 s", "-0% of 0.3 s")
    for other in ("+1% of 0.3 s", "+0% of 0.31 s", "+0% in 0.3 s"):
        with pytest.raises(AssertionError):
            assert_same("+0% of 0.3 s", other)


def test_a_table_plays_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slack_batching2_cells.jsonl").touch()
    monkeypatch.setattr(slack_batching, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["table", "batching2", "--table"])
    with pytest.raises(SystemExit, match=r"slack_batching2_cells\.jsonl does not have .*'slack'"):
        slack_batching.main()
