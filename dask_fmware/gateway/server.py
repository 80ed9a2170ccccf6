"""A gateway on a port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from ipaddress import ip_address

from tornado.httpserver import HTTPServer

from dask_fmware.errors import SpecError
from dask_fmware.gateway.gateway import Gateway
from dask_fmware.gateway.handlers import BODY_BYTES, application
from dask_fmware.gateway.sites import checked_names

__all__ = ["listening"]

READ_BYTES = 16 * BODY_BYTES  # of a body: those who send too much hear of it once they have sent it
BODY_S = 60.0  # in which a body must have come
IDLE_S = 600.0  # after which a connection without a request is closed
GRACE_S = 10.0


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
        Where; port 0 is any that is free.
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
    try:
        taken = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise SpecError(f"cannot listen at {host}:{port} ({error}); give another host or port") from None
    ending = asyncio.Event()
    is_local = ip_address(taken.getsockname()[0]).is_loopback
    here = application(gateway, ending, known if known or is_local else None)
    server = HTTPServer(
        here, max_body_size=READ_BYTES, max_buffer_size=BODY_BYTES, body_timeout=BODY_S, idle_connection_timeout=IDLE_S
    )
    taken.setblocking(False)
    server.add_socket(taken)
    try:
        yield taken.getsockname()[1]
    finally:
        ending.set()
        server.stop()
        if requests := [request for request, port in gateway.requests.items() if port is here]:
            _done, late = await asyncio.wait(requests, timeout=grace_s)
            for request in late:
                request.cancel()
            if late:
                await asyncio.wait(late)
        await server.close_all_connections()
