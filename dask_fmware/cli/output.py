"""What commands write: tables on the screen or into a pipe, and files that are known to be writable beforehand."""

from __future__ import annotations

import json
import os
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["UNANSWERED", "OutputFile", "console", "json_text", "write"]

PIPE_WIDTH = 240  # a pipe has no width, and cutting a table there loses data
UNANSWERED = {
    "rejected": "rejected",
    "failed": "failed",
    "never_ended": "never ended",
}  # figure -> column; of simulations


class OutputFile(click.Path):
    """A file that will be written: refused before a command begins its work and not after it."""

    name = "FILE"

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False, writable=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path, if a file can be made there."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        folder = path.parent
        if not path.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
            why = "is not writable" if folder.is_dir() else "is no folder"
            self.fail(f"'{path}' cannot be written, as '{folder}' {why}; give another path", param, ctx)
        return path


def json_text(value: Any) -> str:
    """Return plain values as JSON, which knows no infinity: a time that never comes is null.

    >>> print(json_text({"latest_s": float("inf")}))
    {
     "latest_s": null
    }
    """
    return json.dumps(_finite(value), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def write(path: Path, text: str) -> None:
    """Write a text into a file; `click.FileError` if that fails all the same."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.FileError(str(path), hint=error.strerror or str(error)) from None


def console() -> Console:
    """Return a console that cuts nothing where it does not write to a terminal."""
    from rich.console import Console

    made = Console(highlight=False)
    if not made.is_terminal:
        made.width = PIPE_WIDTH
    return made
