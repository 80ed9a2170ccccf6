"""Tables are what `--table` makes of the data that is kept beside them, so that no figure is of an older method."""

from __future__ import annotations

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


@pytest.mark.parametrize(("module", "options", "name"), MADE)
def test_a_table_is_made_again_from_what_is_kept(
    module: ModuleType, options: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (RESULTS / f"{name}.json").read_bytes()
    (tmp_path / f"{name}.json").write_bytes(data)
    monkeypatch.setattr(environment, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["table", *options.split(), "--table"])
    module.main()
    assert (tmp_path / f"{name}.md").read_text() == (RESULTS / f"{name}.md").read_text()
    assert (tmp_path / f"{name}.json").read_bytes() == data


def test_the_papers_tables_are_made_again_from_what_is_kept() -> None:
    made = paper_tables.make(paper_tables.CELLS, write_results=False, plays=False)
    assert made + "\n" == (RESULTS / "paper.md").read_text()


def test_a_table_plays_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slack_batching2_cells.jsonl").touch()
    monkeypatch.setattr(slack_batching, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["table", "batching2", "--table"])
    with pytest.raises(SystemExit, match=r"slack_batching2_cells\.jsonl does not have .*'slack'"):
        slack_batching.main()
