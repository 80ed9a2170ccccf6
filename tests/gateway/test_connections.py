"""More connections than a gateway can have."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dask_fmware.gateway import listening, server


@contextmanager
def few_files() -> Iterator[None]:
    """Let this process open a third more than it has, all of which are not for connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)  # of those that are free
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest * 4 // 3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_connections_that_are_too_many_wait_and_leave_files_to_the_cluster(serve, monkeypatch, caplog) -> None:
    monkeypatch.setattr(server, "FULL_S", 0.05)
    async with serve() as served:
        caplog.handler.setLevel("WARNING")  # local clusters of Dask silence handlers, and let them go in the end
        where = ("127.0.0.1", int(served.url.rsplit(":", 1)[1]))
        callers = [socket.socket() for _ in range(100)]
        with few_files():
            for caller in callers:
                await asyncio.to_thread(caller.connect, where)
            await served.cluster.until(lambda: "connections wait" in caplog.text)
            await asyncio.sleep(0.3)  # it is said once
            os.close(os.open(os.devnull, os.O_RDONLY))
        assert "Too many open files" not in caplog.text
        assert caplog.text.count("connections wait") == 1
        assert (await served.ask("/health"))[0].code == 200  # its turn comes behind theirs
        for caller in callers:
            caller.close()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
async def test_everywhere_is_ipv4_too(serve) -> None:
    async with serve() as served, listening(served.gateway, "::", 0) as port:
        for address in ("127.0.0.1", "[::1]"):
            served.url = f"http://{address}:{port}"
            assert (await served.ask("/workflows"))[0].code == 200
