"""The lock of an output: one evaluation writes into it at a time."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from dask_fmware.errors import SpecError
from dask_fmware.evaluation.output.durable import OutputError, writing

__all__ = ["LOCK", "check_unlocked", "locked"]

LOCK = "_lock"
PATIENCE_S = 5.0  # an interrupted evaluation of this process is still letting go


def locked(folder: Path) -> int:
    """Return the open file of a lock that is ours until it is closed.

    Raises
    ------
    SpecError
        If another evaluation has it.
    OutputError
        If the file system has none.
    """
    with writing(folder / LOCK):
        number = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _wait(folder, number, fcntl.LOCK_EX)
    except BaseException:
        os.close(number)
        raise
    return number


def check_unlocked(folder: Path) -> None:
    """Raise what `locked` would if another evaluation writes into a folder; nothing is made."""
    try:
        number = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        _wait(folder, number, fcntl.LOCK_SH)
    finally:
        os.close(number)


def _wait(folder: Path, number: int, kind: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return fcntl.flock(number, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise SpecError(
                    f"another evaluation writes into {folder}; wait for it, or name another output"
                ) from None
        except OSError as error:
            raise OutputError(
                f"{folder} cannot be locked ({error.strerror or error}), so others could write too; "
                "name a folder of a file system that has locks, such as a local disk"
            ) from error
        time.sleep(0.05)
