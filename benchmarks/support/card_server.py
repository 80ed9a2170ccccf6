"""Cards that engines in several processes share: one call at a time on each, first come, first served.

    python -m benchmarks.support.card_server SOCKET

An engine opens a connection for each call, says which card and which call, is told "go" when the card is its, and
closes the connection when the call is done. A process that is killed closes its connections too, so a card is never
lost. The server keeps when each call had its card: the record by which both systems are judged, made by neither.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import defaultdict, deque
from contextlib import suppress
from time import perf_counter
from typing import Any

__all__ = ["Cards", "ask", "holders", "turn"]


class Cards:
    """The cards, their queues and the record."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[asyncio.Future[None]]] = defaultdict(deque)
        self._busy: set[str] = set()
        self._holders: dict[str, dict[str, Any]] = {}  # card -> call and process that has it
        self.record: list[dict[str, Any]] = []
        self.idle = asyncio.Event()  # set while there is no connection
        self.idle.set()
        self._connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Speak with one connection until it is closed."""
        self._connections += 1
        self.idle.clear()
        try:
            asked = json.loads(await reader.readline() or b"{}")
            match asked.get("op"):
                case "turn":
                    await self._turn(asked, reader, writer)
                case "record":
                    record, self.record = self.record, []
                    await _say(writer, record)
                case "holders":
                    await _say(writer, self._holders)
        except (ConnectionError, json.JSONDecodeError):
            pass  # its process has died
        finally:
            writer.close()
            self._connections -= 1
            if not self._connections:
                self.idle.set()

    async def _turn(self, asked: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked_at, card = perf_counter(), asked["card"]
        closed = asyncio.ensure_future(_closed(reader))
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues[card].append(mine)
        self._next(card)
        try:
            await asyncio.wait({mine, closed}, return_when=asyncio.FIRST_COMPLETED)
            if not mine.done():  # given up while it waited
                self._queues[card].remove(mine)
                return
            began = perf_counter()
            self._holders[card] = asked
            writer.write(b"go\n")
            await closed
            self.record.append(
                {
                    "call": asked["call"],
                    "card": card,
                    "pid": asked["pid"],
                    "asked": asked_at,
                    "began": began,
                    "ended": perf_counter(),
                }
            )
        finally:
            closed.cancel()
            if mine.done():
                self._holders.pop(card, None)
                self._busy.discard(card)
            self._next(card)

    def _next(self, card: str) -> None:
        if card not in self._busy and self._queues[card]:
            self._busy.add(card)
            self._queues[card].popleft().set_result(None)


async def _closed(reader: asyncio.StreamReader) -> None:
    """Wait for the end of a connection; nothing more is said on it."""
    with suppress(ConnectionError):  # its process was killed
        await reader.read()


class turn:
    """Hold a card: ``async with turn(socket, card, call)``."""

    def __init__(self, socket: str, card: str, call: str) -> None:
        self._socket = socket
        self._question = {"op": "turn", "card": card, "call": call, "pid": os.getpid()}

    async def __aenter__(self) -> None:
        reader, self._writer = await asyncio.open_unix_connection(self._socket)
        try:
            self._writer.write(json.dumps(self._question).encode() + b"\n")
            if not await reader.readline():
                raise ConnectionError(f"the card server at {self._socket} has gone")
        except BaseException:
            self._writer.close()
            raise

    async def __aexit__(self, *failure: object) -> None:
        self._writer.close()  # no waiting: the card is given back also when the engine is cancelled


async def _question(socket: str, op: str) -> Any:
    reader, writer = await asyncio.open_unix_connection(socket, limit=1 << 26)
    writer.write(json.dumps({"op": op}).encode() + b"\n")
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return json.loads(answer)


async def ask(socket: str) -> list[dict[str, Any]]:
    """Take the record of all calls since it was last asked for."""
    record: list[dict[str, Any]] = await _question(socket, "record")
    return record


async def holders(socket: str) -> dict[str, dict[str, Any]]:
    """Return call and process that have each card now."""
    found: dict[str, dict[str, Any]] = await _question(socket, "holders")
    return found


async def _say(writer: asyncio.StreamWriter, what: Any) -> None:
    writer.write(json.dumps(what).encode() + b"\n")
    await writer.drain()


async def _main(path: str) -> None:
    server = await asyncio.start_unix_server(Cards().serve, path)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)  # whoever started us has ended
    server.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
