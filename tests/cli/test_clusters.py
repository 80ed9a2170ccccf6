"""Connecting to a cluster from the command line."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import distributed
import pytest

from dask_fmware.cli.clusters import connected
from dask_fmware.errors import RuntimeFaultError
from dask_fmware.testing.asking import until

NOBODY = "tcp://127.0.0.1:1"


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[distributed.Client]:
    """All clients that are made."""
    made: list[distributed.Client] = []

    class Noted(distributed.Client):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(distributed, "Client", Noted)
    return made


async def connect(timeout_s: float) -> None:
    async with connected(NOBODY, timeout_s):
        raise AssertionError("nobody is there")


async def test_where_no_scheduler_answers_is_said_and_the_client_is_closed(clients: list[distributed.Client]) -> None:
    with pytest.raises(RuntimeFaultError, match=rf"answers at '{NOBODY}' within 0.1 s"):
        await connect(0.1)
    assert [client.status for client in clients] == ["closed"]


async def test_a_connection_that_is_cancelled_closes_its_client(clients: list[distributed.Client]) -> None:
    task = asyncio.ensure_future(connect(60.0))
    await until(lambda: bool(clients) and clients[0].status == "connecting")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 30)
    assert [client.status for client in clients] == ["closed"]


def test_an_interrupt_while_the_command_line_is_imported_is_no_traceback() -> None:
    code = (
        "import runpy, sys\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'dask_fmware.cli':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "runpy.run_module('dask_fmware', run_name='__main__')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (130, "")
