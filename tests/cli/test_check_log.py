"""`dask fmware check` of an event log."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from dask_fmware.cli.check import check
from dask_fmware.errors import SpecError
from dask_fmware.policy import POLICIES
from tests.simulation.test_replay import record


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_sound_log_keeps_the_contract_though_a_card_failed(policy: str, tmp_path: Path) -> None:
    record(tmp_path / "a.jsonl", policy, failures=[{"card": "fast-0", "at_s": 1.0, "down_s": 2.0}])
    shown = CliRunner().invoke(check, [str(tmp_path / "a.jsonl")])
    assert shown.exit_code == 0, shown.output
    assert "the contract held" in shown.output
    assert "replicas gone" in shown.output


def test_a_breach_is_named_and_exits_with_1(tmp_path: Path) -> None:
    record(tmp_path / "a.jsonl", "greedy")
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    lost = next(i for i, line in enumerate(lines) if '"AttemptEnded"' in line)
    (tmp_path / "b.jsonl").write_text("".join(lines[:lost] + lines[lost + 1 :]))
    shown = CliRunner().invoke(check, [str(tmp_path / "b.jsonl")])
    assert shown.exit_code == 1
    assert "breach of point 3" in shown.output
    assert "the contract was broken" in shown.output


def test_a_log_that_was_cut_may_be_checked_as_live(tmp_path: Path) -> None:
    record(tmp_path / "a.jsonl", "slack")
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "b.jsonl").write_text("".join(lines[: len(lines) // 2]))
    assert CliRunner().invoke(check, [str(tmp_path / "b.jsonl")]).exit_code == 1
    assert CliRunner().invoke(check, [str(tmp_path / "b.jsonl"), "--live"]).exit_code == 0


def test_a_log_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    said = r"none\.jsonl\.gz cannot be read \(No such file or directory\); give a file that fm\.record wrote"
    with pytest.raises(SpecError, match=said):
        CliRunner().invoke(check, [str(tmp_path / "none.jsonl.gz")], catch_exceptions=False)
