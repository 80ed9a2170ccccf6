"""Damaged inputs do no harm: documents, data files, event logs, messages, HTTP routes."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import strategies as st

from dask_fmware.errors import DeploymentError, VersionMismatchError, WorkflowError
from dask_fmware.evaluation.sources import DataError, open_source
from dask_fmware.model.messages import AttemptEnded, ReplicaReady
from dask_fmware.spec.documents import load_deployment, workflow_from_text
from tests.fuzz.__main__ import main
from tests.fuzz.live import LIVE_TARGETS
from tests.fuzz.playing import play
from tests.fuzz.targets import SOUND, TARGETS, Target, _log

ORDINARY, NIGHTLY = 120, 10_000


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_are_taken_or_refused_by_name(name: str) -> None:
    played = play(TARGETS[name], ORDINARY, 1)
    assert played.inputs >= ORDINARY / 2
    assert played.outcomes["refused"] > 0


@pytest.mark.parametrize("name", LIVE_TARGETS)
def test_a_running_scheduler_bears_damaged_messages_and_requests(name: str) -> None:
    assert play(LIVE_TARGETS[name], ORDINARY, 1).inputs >= ORDINARY / 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [*TARGETS, *LIVE_TARGETS])
def test_many_damaged_inputs_do_no_harm(name: str) -> None:
    play({**TARGETS, **LIVE_TARGETS}[name], NIGHTLY, 2)


def test_what_does_harm_is_found() -> None:
    @contextmanager
    def opened() -> Any:
        yield lambda text: str(1 // (len(text) - 3))

    with pytest.raises(ZeroDivisionError):
        play(Target(st.text(max_size=6), opened), 500, 0)


def test_half_of_a_character_in_a_document_is_refused_by_name() -> None:
    """Found by fuzzing: pydantic could not put the key into words."""
    text = json.dumps({"name": "w", "block": {"nodes": [], "output": {"from": "x"}}, "max\ud800": 1})
    with pytest.raises(WorkflowError, match="half of a character"):
        workflow_from_text(text, "json")
    with pytest.raises(DeploymentError, match="unknown key"):
        load_deployment({"accelerators": {"a": {"cards": 1}}, "models": {"m": {"on": {"a": {}}}}, "x\ud800": 1})


@pytest.mark.parametrize(
    "change",
    [
        {"call_id": ["k"]},  # found by fuzzing: no key of a dictionary
        {"attempt": -1},
        {"outcome": "?"},
        {"ttft_s": float("nan")},  # found by fuzzing: no JSON for the page
        {"prompt_tokens": "4"},
    ],
)
def test_a_message_whose_values_are_of_another_kind_is_refused_by_name(change: dict[str, Any]) -> None:
    (name,) = change
    with pytest.raises(VersionMismatchError, match=f"message 'fmware-ended': {name} is "):
        AttemptEnded.from_wire({**SOUND["fmware-ended"], **change})


def test_a_batch_file_whose_messages_are_no_list_is_refused_by_name(tmp_path: Path) -> None:
    """Found by fuzzing: a number cannot be read backwards."""
    path = tmp_path / "batch.jsonl"
    path.write_text('{"custom_id": "1", "body": {"messages": 7}}')
    with pytest.raises(DataError, match=r"batch.jsonl, line 1: messages is a int and no list"):
        open_source(path, compute=lambda part: part)


def test_a_log_whose_time_is_no_time_is_refused_by_name() -> None:
    """Found by fuzzing: an integer of four hundred digits is no float."""
    with TARGETS["event logs"].opened() as feed:
        head, first, *_ = _log().split(b"\n")
        assert (
            feed((head + b"\n" + re.sub(rb'"at": [0-9.]+', b'"at": ' + b"9" * 400, first) + b"\n", False)) == "refused"
        )


def test_a_replica_without_a_speed_is_refused_by_name() -> None:
    with pytest.raises(VersionMismatchError, match="'fmware-ready': latency is a dict"):
        ReplicaReady.from_wire({**SOUND["fmware-ready"], "latency": {}}).replica("tcp://r")


@pytest.mark.parametrize("name", ["slots", "context_tokens", "longest_token_bytes"])
def test_a_replica_of_nothing_is_refused_by_name(name: str) -> None:
    with pytest.raises(VersionMismatchError, match=f"'fmware-ready': {name} is 0"):
        ReplicaReady.from_wire({**SOUND["fmware-ready"], name: 0}).replica("tcp://r")


@pytest.mark.parametrize("name", ["slots", "longest_token_bytes"])
def test_a_log_with_a_replica_of_nothing_is_refused_by_name(name: str) -> None:
    with TARGETS["event logs"].opened() as feed:
        assert feed((re.sub(f'"{name}": ?[0-9]+'.encode(), f'"{name}": 0'.encode(), _log()), False)) == "refused"


def test_a_log_whose_head_knows_tokens_of_no_bytes_is_refused_by_name() -> None:
    head, _, rest = _log().partition(b"\n")
    told = json.loads(head)
    told["models"] = {name: [4096, 0] for name in told["models"]}
    with TARGETS["event logs"].opened() as feed:
        assert feed((json.dumps(told).encode() + b"\n" + rest, False)) == "refused"


def test_the_command_says_what_came_of_each_target() -> None:
    ran = CliRunner().invoke(main, ["--inputs", "50", "--target", "messages"])
    assert ran.exit_code == 0, ran.output
    assert "0 of 1 targets were harmed" in ran.output
