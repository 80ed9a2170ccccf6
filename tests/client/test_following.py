"""The text of an attempt, read from its worker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from distributed.core import Server

from dask_fmware.client.stream import _follow


async def test_a_worker_that_fails_to_send_a_text_is_taken_for_lost() -> None:
    async def serve(comm: Any, call_id: str, attempt: int) -> dict[str, Any]:
        await comm.write({"text": "half of it"})
        raise UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates not allowed")

    async with Server({"fmware_stream": serve}) as server:
        await server.listen("tcp://127.0.0.1:0")
        client: Any = SimpleNamespace(connection_args={})
        where = {"worker": server.address, "call_id": "k", "attempt": 1}
        assert [part async for part in _follow(client, where)] == [("half of it", None)]
