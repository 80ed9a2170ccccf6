"""What every result says about where it came from."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"


def environment(*, seed: int | None = None, packages: tuple[str, ...] = ("dask", "distributed")) -> dict[str, Any]:
    """Hardware, versions, seed and command of a run."""
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    versions = {name: importlib.metadata.version(name) for name in ("dask-fmware", *packages)}
    return {
        "command": " ".join(["python", *_entry(), *map(_shown, sys.argv[1:])]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
        "seed": seed,
    }


def _shown(word: str) -> str:
    """A word of the command line, without the folders of this machine."""
    return Path(word).name if Path(word).is_absolute() else word


def _entry() -> list[str]:
    """What was run: a module, a package by its ``__main__``, or a file."""
    spec = sys.modules["__main__"].__spec__
    return [_shown(sys.argv[0])] if spec is None else ["-m", spec.name.removesuffix(".__main__")]


def write(name: str, data: dict[str, Any], markdown: str) -> None:
    """Keep a result as JSON and as a table."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(markdown + "\n")
