"""Runs a command for an owner and ends it, with all its children, when the owner is gone.

    python -m dask_fmware_workers.engines.guard OWNER-PID COMMAND...

An owner that was killed can end nothing itself. This process outlives it by a moment: it is small, imports nothing
and looks a few times a second whether its parent is still the owner. Asked to end (SIGTERM), it passes that on and
kills what does not listen. It returns the command's exit status.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

__all__: list[str] = []

POLL_S = 0.2
GRACE_S = 2.0  # less than a nanny's patience


def main(owner: int, command: list[str]) -> int:
    """Run until the command has ended, or must end."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: asked.append(number))
    child = subprocess.Popen(command, start_new_session=True)  # so that its group is the command and its children
    while child.poll() is None and os.getppid() == owner and not asked:
        time.sleep(POLL_S)
    if child.poll() is None and asked:
        os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(child.pid, signal.SIGKILL)  # children too, where the command has left some
    except ProcessLookupError:
        pass
    return child.wait()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
