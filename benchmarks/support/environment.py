"""What every result says about where it came from."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
TABLE = "play nothing, make the table again from what is kept"  # what the option --table does


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


def write(name: str, data: dict[str, Any], markdown: str, indent: int | None = 1) -> None:
    """Keep a result as JSON and as a table."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=indent) + "\n")
    (RESULTS / f"{name}.md").write_text(markdown + "\n")


def kept(name: str) -> dict[str, Any]:
    """Return the data of a result as it was written."""
    data: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return data


def asked_then(parser: argparse.ArgumentParser, command: str) -> argparse.Namespace:
    """Return the options that a result was measured with, by the command that is kept with it."""
    words = shlex.split(command)
    return parser.parse_args(words[3 if words[1] == "-m" else 2 :])
