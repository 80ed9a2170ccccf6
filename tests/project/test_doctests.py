"""Every example in a docstring runs and says what it shows, but for those that need a cluster (``+SKIP``)."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT, ROOT / "scheduler_plugins", ROOT / "workers")
PACKAGES = ("dask_fmware", "dask_fmware_scheduler", "dask_fmware_workers")
MODULES = sorted(
    ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
    for source, package in zip(SOURCES, PACKAGES, strict=True)
    for path in (source / package).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("module", MODULES)
def test_examples_show_what_happens(module: str) -> None:
    try:
        found = import_module(module)
    except ImportError as missing:
        if (missing.name or "").startswith("dask_fmware"):
            raise
        pytest.skip(f"needs {missing.name}")
    failed, _tried = doctest.testmod(found, verbose=False)
    assert not failed
