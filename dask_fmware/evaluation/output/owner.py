"""Whose a folder is: nobody's yet, of an evaluation that would go on with it, or of something else."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from dask_fmware.errors import SpecError
from dask_fmware.evaluation.output.durable import OutputError, writing
from dask_fmware.evaluation.output.lock import LOCK, check_unlocked
from dask_fmware.evaluation.output.manifest import MANIFEST, Manifest
from dask_fmware.evaluation.output.shards import shard_numbers

__all__ = ["check_ours", "check_output", "is_ours", "manifest_of_rows"]

OURS = re.compile(
    r"_lock|_manifest\.json|_journal-\d+\.jsonl|(_unreadable-)?part-\d+\.parquet|\.(_manifest|part-\d+)\.\w+\.tmp"
)
BESIDE = "._"  # what macOS lays beside files on a drive of another system; left alone


def check_output(folder: Path, manifest: Manifest, *, overwrite: bool = False) -> None:
    """Raise what opening an output would, as far as it can be seen without one: nothing is made or changed.

    Raises
    ------
    SpecError
        If the folder holds something else, or another evaluation writes into it.
    OutputError
        If it cannot be read, written or locked.
    """
    with writing(folder):
        check_ours(folder)
        check_unlocked(folder)
        before = manifest_of_rows(folder) if folder.exists() and not overwrite else None
        if before is not None:
            before.check_same(folder, manifest)
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


def check_ours(folder: Path) -> None:
    """Refuse a folder of something else, and leave it as it is: others name their files part-00000.parquet too."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise SpecError(f"{folder} is a file; an output is a folder of Parquet shards: name another")
    others = [path.name for path in folder.iterdir() if path.is_dir() or not is_ours(path)]
    if strangers := sorted(name for name in others if not name.startswith(BESIDE)):
        raise SpecError(
            f"{folder} holds files that are no output of an evaluation ({strangers[0]}); name another folder"
        )
    if shard_numbers(folder) and not (folder / MANIFEST).exists():
        raise OutputError(f"{folder} has Parquet files and no {MANIFEST}, which would say whose they are; name another")


def is_ours(path: Path) -> bool:
    """Whether an evaluation names its files so."""
    return OURS.fullmatch(path.name) is not None


def manifest_of_rows(folder: Path) -> Manifest | None:
    """Return what the rows of a folder belong to; without any it belongs to whoever begins it."""
    names = (path for path in folder.iterdir() if is_ours(path) and path.name not in (LOCK, MANIFEST))
    return Manifest.read(folder) if any(path.stat().st_size > 0 for path in names) else None
