"""A gateway on a port."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from ipaddress import ip_address

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

from dask_fmware.errors import SpecError
from dask_fmware.gateway.gateway import Gateway
from dask_fmware.gateway.routes import application
from dask_fmware.gateway.runs import BODY_BYTES
from dask_fmware.gateway.sites import checked_names

__all__ = ["check_free", "listening"]

logger = logging.getLogger("dask_fmware.gateway")

READ_BYTES = 16 * BODY_BYTES  # of a body: those who send too much hear of it once they have sent it
BODY_S = 60.0  # in which a body must have come
IDLE_S = 600.0  # after which a connection without a request is closed
GRACE_S = 10.0
FILES_SHARE = 0.75  # of the files that a process may open: the rest is for what runs and for the cluster
FULL_S = 0.5  # between two looks whether there is room again


@asynccontextmanager
async def listening(
    gateway: Gateway,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    names: Collection[str] = (),
    grace_s: float = GRACE_S,
) -> AsyncIterator[int]:
    """Serve while this is open; yields the port.

    Parameters
    ----------
    gateway
        What is served.
    host, port
        Where; port 0 is any that is free. ``0.0.0.0`` is every address of IPv4, ``::`` of IPv6 too.
    names
        Names of hosts by which callers without tokens may ask, beside addresses and ``localhost``. Without any, they
        may ask by every name where this listens for other machines too; where it does not, by none.
    grace_s
        At the end, seconds for requests under way at this port. No new ones are taken then, and what is left after
        them is cancelled and told so.

    Raises
    ------
    SpecError
        If nothing can be served there, or a name is none.
    """
    known = checked_names(names)
    taken = _taken(host, port)
    ending = asyncio.Event()
    is_local = ip_address(taken.getsockname()[0]).is_loopback
    here = application(gateway, ending, known if known or is_local else None)
    server = HTTPServer(here, max_body_size=READ_BYTES, body_timeout=BODY_S, idle_connection_timeout=IDLE_S)
    accepting = asyncio.create_task(_accept(server, taken))
    try:
        yield taken.getsockname()[1]
    finally:
        ending.set()
        accepting.cancel()
        await asyncio.wait({accepting})
        taken.close()
        if requests := [request for request, port in gateway.requests.items() if port is here]:
            _done, late = await asyncio.wait(requests, timeout=grace_s)
            for request in late:
                request.cancel()
            if late:
                await asyncio.wait(late)
        await server.close_all_connections()


def check_free(host: str, port: int) -> None:
    """Raise `SpecError` if nothing can be served there, before a cluster is started for it."""
    _taken(host, port).close()


def _taken(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
        )  # fmt: skip
    except (OSError, OverflowError) as error:
        raise SpecError(f"cannot listen at {host}:{port} ({error}); give another host or port") from None


async def _accept(server: HTTPServer, taken: socket.socket) -> None:
    """Hand connections to a server, as long as the process may open more files.

    Tornado's own loop takes them until there are none left for the client of the cluster, then spins and logs.
    """
    loop, was_full = asyncio.get_running_loop(), False
    taken.setblocking(False)
    while True:
        is_full = _is_full()
        if is_full and not was_full:
            logger.warning("connections wait, as this process has hardly any file left that it may open (ulimit -n)")
        was_full = is_full
        if is_full:
            await asyncio.sleep(FULL_S)
            continue
        try:
            connection, address = await loop.sock_accept(taken)
        except OSError:  # it was gone before it was taken, or others took the last files
            await asyncio.sleep(0.01)
            continue
        server.handle_stream(IOStream(connection, max_buffer_size=BODY_BYTES), address)
        await asyncio.sleep(0)  # others have their turn, however many come


def _is_full() -> bool:
    """Whether connections have had their share of the files that the process may open."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        lowest = os.open(os.devnull, os.O_RDONLY)  # of those that are free
    except OSError:
        return True
    os.close(lowest)
    return 0 <= most * FILES_SHARE <= lowest
