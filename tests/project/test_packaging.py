"""What a user installs: a light import, a wheel that holds our packages only, a version that agrees."""

from __future__ import annotations

import importlib.metadata
import pkgutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

import dask_fmware

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_pulls_in_neither_distributed_nor_bokeh_nor_an_engine(tmp_path: Path) -> None:
    out = run(
        """
        import sys
        import dask_fmware as fm
        fm.Model, fm.task, fm.switch, fm.map, fm.loop, fm.SLO, fm.Deployment
        heavy = {"distributed", "bokeh", "xllamacpp", "gguf", "vllm", "torch", "scipy", "dask_fmware_scheduler"}
        print(sorted(heavy & set(sys.modules)))
        """,
        tmp_path,
    )
    assert out.strip() == "[]"


def test_every_public_name_can_be_had_and_is_listed() -> None:
    for name in dask_fmware.__all__:
        assert getattr(dask_fmware, name) is not None
        assert name in dir(dask_fmware)
    assert dir(dask_fmware) == sorted(dask_fmware.__all__)  # what a notebook offers on tab
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dask_fmware.nothing


def test_a_users_own_workers_package_is_not_hidden_by_ours(tmp_path: Path) -> None:
    for name in ("workers", "scheduler_plugins", "benchmarks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"OWNER = 'user {name}'\n")
    out = run("import workers, scheduler_plugins, benchmarks, dask_fmware_workers; print(workers.OWNER)", tmp_path)
    assert out.strip() == "user workers"


def test_the_version_is_the_one_installed() -> None:
    assert importlib.metadata.version("dask-fmware") == dask_fmware.__version__


def test_the_wheel_holds_exactly_our_packages(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"dask_fmware", "dask_fmware_scheduler", "dask_fmware_workers"}
    for package in tops:
        assert f"{package}/py.typed" in names
    assert not [name for name in names if name.endswith((".gguf", ".pyc"))]


def test_no_public_name_is_a_package_too() -> None:
    """A submodule that is imported becomes an attribute of its package, over a function of that name."""
    packages = {module.name for module in pkgutil.iter_modules(dask_fmware.__path__)}
    assert not packages & set(dask_fmware.__all__)
