"""Reports as people read them."""

from __future__ import annotations

from dask_fmware.client.report import Report
from dask_fmware.model.report import CallReport, RunReport


def test_bodies_of_a_map_are_shown_in_the_order_of_its_items() -> None:
    known = ["first", "map[10].a", "map[2].a", "map[2].inner[1].b", "map[2].inner[0].b", "last", "map[0].a", "map[2].c"]
    calls = [CallReport(name, name, "small", answers=False) for name in known]
    shown = [row["node"] for row in Report(RunReport("r", "rag", "default", 0, 0.0, calls=calls)).rows]
    assert shown == [
        "first", "map[0].a", "map[2].a", "map[2].c", "map[2].inner[0].b", "map[2].inner[1].b", "map[10].a", "last",
    ]  # fmt: skip
