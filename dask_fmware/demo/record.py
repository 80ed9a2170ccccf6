"""The demo's record: every run and call as plain data, with what is needed to run it again. No text of any run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dask_fmware.demo.drive import DrivenRun
from dask_fmware.demo.summary import Summary

__all__ = ["record", "write"]

FORMAT = 1


def record(facts: dict[str, Any], summary: Summary, runs: Sequence[DrivenRun]) -> dict[str, Any]:
    """Return the record of a load.

    Parameters
    ----------
    facts
        Command, seed, versions, hardware, deployment and the like.
    summary
        Its figures.
    runs
        What was driven.
    """
    return {
        "format": FORMAT,
        **facts,
        "summary": asdict(summary),
        "runs": [
            {
                "index": run.planned.index,
                "arrival_s": run.planned.arrival_s,
                "submitted_s": run.submitted_s,
                "padding_tokens": run.planned.padding_tokens,
                "answer_tokens": run.planned.answer_tokens,
                "met": run.report.met,
                "error": run.error,
                "report": run.report.to_wire(),
            }
            for run in runs
        ],
    }


def write(path: Path, data: dict[str, Any]) -> None:
    """Write a record."""
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
