"""Tables."""

from pathlib import Path


def make(path: Path, write: bool) -> str:
    return ""
