"""Puts the page on the scheduler's own web server and takes it off again."""

from __future__ import annotations

from dask_fmware_scheduler.dashboard.board import Board
from dask_fmware_scheduler.dashboard.dask_internals import DashboardInternals

__all__ = ["mount"]


def mount(internals: DashboardInternals, board: Board) -> bool:
    """Add page, panels, navigation and routes; False where the scheduler has no dashboard."""
    if not internals.is_there:
        return False
    from dask_fmware_scheduler.dashboard.documents import PANELS, documents
    from dask_fmware_scheduler.dashboard.routes import routes

    internals.mount(documents(), routes(board, internals.prefix))
    internals.navigate("fmware", {f"individual-fmware-{panel}": f"FMware {title}" for panel, title in PANELS.items()})
    return True
