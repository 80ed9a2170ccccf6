"""Lets vLLM's child processes end with the worker that owns them, also one that was killed.

vLLM's children notice the end of a parent that closes them, not of one that is gone. vLLM loads this module in
each of its processes as a plugin (entry point group ``vllm.general_plugins``); it does nothing in processes
that no worker of ours has started.
"""

from __future__ import annotations

import os
import threading
import time

__all__ = ["OWNER", "end_with_owner"]

OWNER = "FMWARE_ENGINE_OWNER"  # environment variable that holds the owner's process id
POLL_S = 1.0


def end_with_owner() -> None:
    """Watch the owner from now on, in a thread, if this is a child of one."""
    owner = os.environ.get(OWNER, "")
    if owner.isdigit() and int(owner) != os.getpid():
        threading.Thread(target=_watch, args=(int(owner), os.getppid()), name="fmware-watch", daemon=True).start()


def _watch(owner: int, parent: int) -> None:
    while _exists(owner) and os.getppid() == parent:
        time.sleep(POLL_S)
    os._exit(1)


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
