"""The state of a runtime as it is printed, by `fm.status` and by the command alike."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from click.testing import CliRunner

from dask_fmware.cli import fmware
from dask_fmware.client.status import MOST_ROWS, RuntimeStatus

DRIFT = "replica small-d on L4 runs 1.6 times its profile since 14:02"


def replica(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "model": "small", "accelerator": "L4", "card": "L4-0", "engine": "emulated", "slots": 8,
        "running": 3, "waiting": 1, "state": "ready", "paused": False, "drift": None, "engine_state": None,
        "latency": {"output_token_s": 0.02}, **more,
    }  # fmt: skip


def state_of(*replicas: dict[str, Any]) -> RuntimeStatus:
    return RuntimeStatus(
        replicas=list(replicas), policy="slack", held=5, runs=7, light_workers=1, failures={}, failed_replicas=[]
    )


@pytest.fixture
def mixed() -> RuntimeStatus:
    return state_of(
        replica("small-a", engine_state={"kv_used": 0.25, "prefix_queried_tokens": 80, "prefix_hit_tokens": 20}),
        replica("small-b", state="draining"),
        replica("small-c", state="draining", paused=True),
        replica("small-d", drift=DRIFT, engine_state={"kv_used": None, "prefix_queried_tokens": 0}),
        replica("small-e", state="shut"),
        replica("small-f", state="on trial"),
    )


def test_each_replica_has_its_state_and_what_its_engine_says(mixed: RuntimeStatus) -> None:
    first, names, *rows = mixed.lines
    assert first == "runtime: 3 of 6 replicas ready · policy slack · 7 runs under way · 5 calls held · 1 light worker"
    assert names.endswith("running  waiting  KV cache  prefix hits  ms/token")
    assert [[cell.strip() for cell in row.split("  ") if cell.strip()][4:] for row in rows] == [
        ["ready", "3 of 8", "1", "25%", "25%", "20.00"],
        ["draining", "3 of 8", "1", "-", "-", "20.00"],
        ["paused", "3 of 8", "1", "-", "-", "20.00"],
        ["off profile", "3 of 8", "1", "-", "-", "20.00"],
        ["shut", "3 of 8", "1", "-", "-", "20.00"],
        ["on trial", "3 of 8", "1", "-", "-", "20.00"],
    ]
    paused, drift = mixed.troubles
    assert paused.startswith("Dask has paused small-c: ")
    assert drift == DRIFT
    assert "25%" in mixed._repr_html_()


def test_what_no_engine_says_has_no_column() -> None:
    said = str(state_of(replica("small-a")))
    assert "KV cache" not in said
    assert "prefix hits" not in said


def test_many_replicas_are_summed_up_with_their_states() -> None:
    many = [replica(f"r{n:02}", drift=f"r{n:02} is slow" if n < 5 else None) for n in range(MOST_ROWS + 1)]
    state = state_of(*many[:-1], {**many[-1], "state": "draining"})
    assert state.lines[0].startswith("runtime: 24 of 25 replicas ready")
    assert "19 ready, 5 off profile, 1 draining" in state.lines[2]
    assert list(state.troubles) == ["r00 is slow; r01 is slow; r02 is slow and 2 more"]


def test_the_command_prints_the_same(mixed: RuntimeStatus, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fetched(address: str, timeout_s: float) -> RuntimeStatus:
        return mixed

    command = import_module("dask_fmware.cli.status")  # the package has the command by that name, not its module
    monkeypatch.setattr(command, "_fetch", fetched)
    assert CliRunner().invoke(fmware, ["status", "tcp://127.0.0.1:8786"]).output == f"{mixed}\n"
