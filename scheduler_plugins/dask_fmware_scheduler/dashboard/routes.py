"""HTTP routes of the page. All are read-only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tornado.web import RequestHandler, StaticFileHandler

from dask_fmware_scheduler.dashboard.board import Board

__all__ = ["routes"]

STATIC = Path(__file__).parent / "static"


class FiguresHandler(RequestHandler):  # type: ignore[misc]
    """Answers what the page shows, as JSON."""

    def initialize(self, board: Board) -> None:
        """Take the board to read from."""
        self.board = board

    def get(self) -> None:
        """Return the figures, without what the page says it has."""
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.write(self.board.json(**{name: self._version(name) for name in ("fleet", "graphs", "predictions")}))

    def _version(self, name: str) -> int:
        """Version of a part that the page has; -1, which no part has, for whatever is no number."""
        text = self.get_query_argument(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1


def routes(board: Board, prefix: str) -> list[tuple[str, Any, dict[str, Any]]]:
    """Return the routes below ``/fmware/``."""
    return [
        (rf"{prefix}fmware/figures\.json", FiguresHandler, {"board": board}),
        (rf"{prefix}fmware/static/(.*)", StaticFileHandler, {"path": str(STATIC)}),
    ]
