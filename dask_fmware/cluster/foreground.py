"""Runs a coroutine that owns a cluster so that Ctrl-C at any moment ends it in order and leaves no process behind.

The coroutine runs in a thread with SIGINT blocked. Processes that it starts inherit the block, so a
Ctrl-C, which a terminal sends to all of them, reaches nobody but this thread: it cancels the coroutine,
whose ``finally`` closes the cluster. What is left after that is killed.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from multiprocessing import resource_tracker
from typing import Any, Generic, TypeVar, cast

__all__ = ["run_in_foreground"]

T = TypeVar("T")
CLOSING_S = 30.0  # a cluster that starts is waited for, then closed
SILENT_S = 1.0  # of that, before it is said
POLL_S = 0.2


def run_in_foreground(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end and return its result, or raise what ended it.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C, when the coroutine has ended. A second Ctrl-C does not wait for that.
    SystemExit
        The same for SIGTERM, with the code that shells expect.
    """
    worker = _Worker(main)
    others = set(multiprocessing.active_children())
    if threading.current_thread() is not threading.main_thread():
        worker.start()
        return worker.wait()
    resource_tracker.ensure_running()  # whichever thread starts it lets SIGINT through from then on
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        worker.start_without_interrupts()
        return worker.wait()
    except (KeyboardInterrupt, SystemExit):
        worker.cancel()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        worker.mute()
        _kill_children(others)


class _Worker(threading.Thread, Generic[T]):
    """The thread, its loop and its one task."""

    def __init__(self, main: Callable[[], Coroutine[Any, Any, T]]) -> None:
        super().__init__(name="foreground", daemon=True)
        self._main = main
        self._cancelled, self._ended = threading.Event(), threading.Event()  # no join: see `wait`
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.result: T | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = asyncio.run(self._outer())
        except BaseException as error:
            self.error = error
        finally:
            self._ended.set()

    async def _outer(self) -> T | None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        if self._cancelled.is_set():
            return None
        return await self._main()

    def start_without_interrupts(self) -> None:
        """Start; a Ctrl-C that comes meanwhile is raised at the end."""
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)

    def wait(self) -> T:
        """Wait for the end; a signal is raised meanwhile. Python 3.11 takes a thread whose `join` raised for ended."""
        while not self._ended.wait(POLL_S):
            pass
        if self.error is not None:
            raise self.error
        return cast(T, self.result)

    def cancel(self) -> None:
        """Cancel the task and wait until the thread has ended, within bounds."""
        self._cancelled.set()
        loop, task = self._loop, self._task
        if loop is not None and task is not None and not self._ended.is_set():
            try:
                loop.call_soon_threadsafe(task.cancel)
            except RuntimeError:  # the loop has just closed
                return
        if self.ident is not None and not self._ended.wait(SILENT_S):  # it has been started
            print("closing, when processes that start have started; Ctrl-C again kills them", file=sys.stderr)
            self._ended.wait(CLOSING_S)

    def mute(self) -> None:
        """Let nobody hear what fails from now on, where its end was not waited for: its processes are killed."""
        if self._loop is not None and not self._ended.is_set():
            self._loop.set_exception_handler(lambda loop, context: None)


def _terminated(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _kill_children(others: set[Any]) -> None:
    """Kill processes that the cluster did not close: none, unless closing failed or was cut short."""
    for child in set(multiprocessing.active_children()) - others:
        child.kill()
        child.join(5)
