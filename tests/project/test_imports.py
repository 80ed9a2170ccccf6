"""Every name that a test, benchmark or example takes from this project is there, also where the import runs seldom."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
OURS = ("dask_fmware", "dask_fmware_scheduler", "dask_fmware_workers", "tests", "benchmarks")
FILES = [path for folder in ("tests", "benchmarks", "examples") for path in sorted((ROOT / folder).rglob("*.py"))]


def missing(source: str) -> Iterator[str]:
    """Names of a source that their module of this project does not have, imported at any depth."""
    for node in ast.walk(ast.parse(source)):
        if (
            not isinstance(node, ast.ImportFrom)
            or node.level
            or not node.module
            or node.module.split(".")[0] not in OURS
        ):
            continue
        try:
            module = importlib.import_module(node.module)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] in OURS:
                yield f"line {node.lineno}: no module {error.name}"
            continue  # it needs a package that is not installed here
        for alias in node.names:
            if not hasattr(module, alias.name):
                try:
                    importlib.import_module(f"{node.module}.{alias.name}")
                except ModuleNotFoundError:
                    yield f"line {node.lineno}: {node.module} has no {alias.name}"


def test_what_is_imported_is_there() -> None:
    found = {str(path.relative_to(ROOT)): list(missing(path.read_text())) for path in FILES}
    assert len(found) > 200
    assert {path: names for path, names in found.items() if names} == {}


def test_a_name_that_is_gone_is_found() -> None:
    source = "def late():\n    from dask_fmware.errors import SpecError, Gone\n    from dask_fmware.gone import x\n"
    assert list(missing(source)) == ["line 2: dask_fmware.errors has no Gone", "line 3: no module dask_fmware.gone"]
