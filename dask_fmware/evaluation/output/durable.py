"""Files that are there whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dask_fmware.errors import FMwareError

__all__ = ["OutputError", "replace_durably", "sync_folder", "writing"]


class OutputError(FMwareError):
    """The output cannot be written or read; what was recorded before is safe."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system says into an error that names the file and the next step."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "the disk is full" if full else str(error)
        step = "make room" if full else "see to it"
        raise OutputError(
            f"{path} cannot be written: {what}. All rows recorded before are safe: {step}, and run the same again"
        ) from error


def replace_durably(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file beside its place, force it to the disk and move it there in one step."""
    beside = path.with_name(f".{path.name}.tmp")
    with writing(path):
        try:
            write(beside)
            with open(beside, "rb") as file:
                os.fsync(file.fileno())
            os.replace(beside, path)
            sync_folder(path.parent)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


def sync_folder(folder: Path) -> None:
    """Force the names of a folder to the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
