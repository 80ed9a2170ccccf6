"""Ctrl-C ends what runs in the foreground in order, whenever it comes."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from dask_fmware.cluster import foreground
from dask_fmware.cluster.foreground import run_in_foreground

PATIENCE_S = 60.0

WHAT_CHILDREN_INHERIT = """
import multiprocessing, signal
from dask_fmware.cluster.foreground import run_in_foreground

async def main():
    multiprocessing.get_context("spawn").Queue()  # as a nanny makes for its worker
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())

print(run_in_foreground(main))
"""


def test_processes_that_are_started_there_do_not_hear_of_ctrl_c() -> None:
    made = subprocess.run(
        [sys.executable, "-c", WHAT_CHILDREN_INHERIT], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert made.stdout == "True\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_raised_when_it_has_ended_in_order(number: signal.Signals) -> None:
    ended = list[str]()

    async def main() -> None:
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), number)
        try:
            await asyncio.sleep(PATIENCE_S)
        finally:
            await asyncio.sleep(0.2)
            ended.append("in order")

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run_in_foreground(main)
    assert ended == ["in order"]


def test_whoever_waits_for_the_end_is_told_how_not_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(foreground, "SILENT_S", 0.0)

    async def main() -> None:
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(PATIENCE_S)
        finally:
            await asyncio.sleep(0.2)

    with pytest.raises(KeyboardInterrupt):
        run_in_foreground(main)
    assert "Ctrl-C again kills them" in capsys.readouterr().err


def test_a_second_ctrl_c_does_not_wait_for_that() -> None:
    go_on = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(PATIENCE_S)
        finally:
            loop.call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
            await asyncio.to_thread(go_on.wait, PATIENCE_S)

    try:
        with pytest.raises(KeyboardInterrupt):
            run_in_foreground(main)
        assert not go_on.is_set()
    finally:
        go_on.set()


def test_what_fails_as_a_second_ctrl_c_kills_it_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    go_on, has_ended = threading.Event(), threading.Event()

    async def fail() -> None:
        raise ConnectionError("its process was killed")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(PATIENCE_S)
        finally:
            loop.call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
            await asyncio.to_thread(go_on.wait, PATIENCE_S)
            failing = asyncio.create_task(fail())
            await asyncio.wait({failing})
            del failing
            gc.collect()
            has_ended.set()

    try:
        with pytest.raises(KeyboardInterrupt):
            run_in_foreground(main)
    finally:
        go_on.set()
    assert has_ended.wait(PATIENCE_S)
    assert not caplog.records


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_while_it_starts_cancels_it(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    real, ended = threading.Thread.start, list[str]()

    def interrupted(thread: threading.Thread) -> None:
        real(thread)
        if isinstance(thread, foreground._Worker):
            os.kill(os.getpid(), number)

    async def main() -> None:
        try:
            await asyncio.sleep(PATIENCE_S)
        finally:
            ended.append("in order")

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run_in_foreground(main)
    assert ended in ([], ["in order"])  # it may not have begun


async def _nothing() -> Any:
    raise AssertionError("it was cancelled before it began")


def test_a_signal_that_comes_before_it_starts_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground._Worker, "start", lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run_in_foreground(_nothing)
