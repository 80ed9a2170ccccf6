"""What all tests share: Dask with its own defaults, and Ctrl-C that reaches the processes they start."""

from __future__ import annotations

import os
import signal

os.environ["DASK_CONFIG"] = os.devnull  # read when dask is imported

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
