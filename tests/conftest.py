"""What all tests share: Dask's own defaults, no test of time, Ctrl-C that reaches processes, no leaks, the contract."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from dask_fmware.runtime import Machine
from dask_fmware.runtime.contract import Contract

os.environ["DASK_CONFIG"] = os.devnull  # read when dask is imported, which the runtime does not do

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("untimed", deadline=None)  # machines are busy
settings.load_profile("untimed")


class Failures(logging.Handler):
    """What a scheduler says of plugins and extensions that failed: it goes on without them."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "Plugin failed with exception":
            self.said.append(logging.Formatter().format(record))


@pytest.fixture(autouse=True)
def no_plugin_fails() -> Iterator[None]:
    """Hold plugins and Dask's own extensions of schedulers in this process to raising nothing when a task moves."""
    failures, logger = Failures(), logging.getLogger("distributed.scheduler")
    logger.addHandler(failures)
    yield
    logger.removeHandler(failures)
    assert not failures.said, "\n".join(failures.said)


@pytest.fixture(autouse=True)
def servers_are_let_go() -> Iterator[None]:
    """Have Dask forget the methods of servers that it has met: it keeps them all, and each hears whatever is logged."""
    yield
    if (core := sys.modules.get("distributed.core")) is not None:
        core._expects_comm.cache_clear()


@pytest.fixture(autouse=True)
def contract_is_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hold every scheduler that a test starts in this process to the contract, from the first event to the last."""
    watched: list[Contract] = []

    def watching(*args: Any, **kwargs: Any) -> Machine:
        machine = Machine(*args, **kwargs)
        contract = Contract(
            machine.max_attempts,
            is_complete=not watched,  # one that is installed anew hears of what its predecessor began
            report=machine.report,
            wake_at=lambda: machine.wake_at,
        )
        machine.observers.append(contract)
        watched.append(contract)
        return machine

    monkeypatch.setattr("dask_fmware_scheduler.router.Machine", watching)
    yield
    breaches = [str(breach) for contract in watched for breach in contract.breaches]
    assert not breaches, "the contract was broken:\n" + "\n".join(breaches)
