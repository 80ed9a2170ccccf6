"""What is wrong with a deployment that no waiting mends, seen before a library is asked to load.

A path that is not there is such an error: the replica fails at once and for good, instead of being tried for
ever while nobody looks. Where files arrive after the workers, install the runtime when they are there.
"""

from __future__ import annotations

from pathlib import Path

from dask_fmware.errors import DeploymentError
from dask_fmware_workers.accelerators import nvidia_cards

__all__ = ["check_cards", "check_model", "check_path"]


def check_path(path: Path, *, engine: str) -> None:
    """Refuse a path that does not exist.

    Raises
    ------
    DeploymentError
        It names the path; all workers must see it.
    """
    if not path.exists():
        raise DeploymentError(
            f"{engine}: '{path}' does not exist on this worker; correct the path, or make it visible to every worker"
        )


def check_model(model: str, *, engine: str) -> None:
    """Refuse what can only be a path, and does not exist; other names may be known to a library.

    Raises
    ------
    DeploymentError
        If the path does not exist, or is a directory without a ``config.json``.
    """
    path = Path(model).expanduser()
    if path.is_absolute() or model.startswith((".", "~")):
        check_path(path, engine=engine)
    if path.is_dir() and not (path / "config.json").exists():
        raise DeploymentError(f"{engine}: '{path}' holds no config.json; name the directory of a model")


def check_cards(wanted: int, *, engine: str) -> None:
    """Refuse more cards than this worker sees, where that is known.

    Raises
    ------
    DeploymentError
        It names both figures.
    """
    seen = nvidia_cards()
    if seen and wanted > len(seen):
        raise DeploymentError(
            f"{engine}: tensor_parallel={wanted} needs as many cards, and this worker sees {len(seen)} "
            f"({', '.join(map(str, seen))}); lower it, or give the accelerator more devices for each card"
        )
