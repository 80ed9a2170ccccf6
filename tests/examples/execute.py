"""Execute the example notebooks and keep their outputs: ``python tests/examples/execute.py``, or with names of some.

They need no network, no GPU and no model: engines are emulated, or tiny random models. ``--check`` executes copies and
leaves the notebooks as they are.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CELL_S = 300  # that a cell may take
QUIET = ["--IPKernelApp.log_level=ERROR"]  # it warns of its own transport, which is on the loopback address


def execute(path: Path, *, keep: bool) -> float:
    """Execute one notebook in its folder; return the seconds it took."""
    notebook = nbformat.read(path, as_version=4)
    started = time.monotonic()
    NotebookClient(
        notebook,
        timeout=CELL_S,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=QUIET,
        resources={"metadata": {"path": EXAMPLES}},
    ).execute()
    if keep:
        for number, cell in enumerate(notebook.cells):
            cell.id = f"cell-{number:02d}"  # random ones would change with each execution
            if cell.cell_type == "code":
                cell.outputs = joined(cell.outputs)
        notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
        nbformat.write(notebook, path)
    return time.monotonic() - started


def joined(outputs: list[Any]) -> list[Any]:
    """Return outputs with what was printed piece by piece as one text."""
    made: list[Any] = []
    for output in outputs:
        if made and output.output_type == "stream" and made[-1].get("name") == output.name:
            made[-1].text += output.text
        else:
            made.append(output)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of names; all if none")
    parser.add_argument("--check", action="store_true", help="write nothing")
    chosen = parser.parse_args()
    os.environ.setdefault(
        "DASK_LOGGING__DISTRIBUTED", "critical"
    )  # what Dask logs while it closes depends on the moment
    total, failed = 0.0, False
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        if chosen.names and not path.name.startswith(tuple(chosen.names)):
            continue
        try:
            took = execute(path, keep=not chosen.check)
        except CellExecutionError as error:
            failed = True
            print(f"{path.name}: failed\n{error}", flush=True)
        else:
            total += took
            print(f"{path.name}: {took:.0f} s", flush=True)
    print(f"{total:.0f} s in all")
    sys.exit(failed)


if __name__ == "__main__":
    main()
