"""Logs of clusters, which bring no scenario, as something to simulate: replicas, limits and options as they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dask_fmware.simulate.recorded import Recorded, read_recorded
from dask_fmware.simulate.whatif import what_if
from tests.simulate.test_replay import record

Line = dict[str, Any]


def of_cluster(
    folder: Path,
    change: Callable[[Line], None] = lambda line: None,
    head: Line | None = None,
    more: list[Line] | None = None,
    **changes: Any,
) -> Recorded:
    """What is read of a log as a cluster writes it: of a simulation, without its scenario.

    `change` changes lines, `head` the first one; those of `more` are added.
    """
    record(folder / "simulated.jsonl", **changes)
    first, *lines = map(json.loads, (folder / "simulated.jsonl").read_text().splitlines())
    first |= {"scenario": None, **(head or {})}
    for line in lines:
        change(line)
    lines = sorted([*lines, *(more or [])], key=lambda line: line["at"])
    path = folder / "cluster.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [first, *lines]))
    return read_recorded(path)


def test_prompts_that_were_served_are_not_refused_as_bytes_were_taken_for_tokens(tmp_path: Path) -> None:
    """100,000 bytes are at least 6,250 tokens where the longest has 16 bytes, which the context of 32,768 holds."""

    def change(line: Line) -> None:
        if line["event"] == "ReplicaReady":
            line["is"]["replica"]["longest_token_bytes"] = 16 if "-slow-" in line["is"]["replica"]["name"] else 8
        elif line["event"] == "RunSubmitted" and line["is"]["plan"]["run_id"] == "r0":
            for node in line["is"]["plan"]["nodes"]:
                node["prompt_bytes"] = 100_000

    recorded = of_cluster(tmp_path, change, policy="greedy")
    assert {model.longest_token_bytes for model in recorded.fleet.models.values()} == {16}
    assert [answer.measured.never_ended for answer in what_if(recorded, ["slack"])] == [0, 0, 0]
