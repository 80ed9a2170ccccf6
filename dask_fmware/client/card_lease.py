"""The lease on a card that is measured: its replicas get no calls meanwhile, and nobody else measures it."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import threading
from time import monotonic
from typing import Any, Self

from distributed import Client

from dask_fmware.errors import CapacityError

__all__ = ["CardLease"]

LEASE_S = 60.0  # a replica is back in routing so long after whoever measures it has died
RENEW_S = 15.0
PATIENCE_S = 300.0  # for calls that run on the replicas


class CardLease:
    """A card whose replicas have been drained; ``async with`` begins when they are idle, and gives them back.

    Parameters
    ----------
    client
        Of the cluster.
    card
        Its name: replicas that come to it meanwhile are drained too.
    name
        Of the replica that is to be measured, for errors.
    stop
        Set when the user has given up, from any thread.

    Raises
    ------
    CapacityError
        As it begins: another measures the card, or its calls do not end.
    """

    def __init__(self, client: Client, card: str, name: str, stop: threading.Event) -> None:
        self._client, self._card, self._name, self._stop = client, card, name, stop
        self._holder = f"a profiler on {socket.gethostname()}, process {os.getpid()} (run {secrets.token_hex(3)})"

    async def __aenter__(self) -> Self:
        await self._take()
        self._renewal = asyncio.create_task(self._renew())
        try:
            await self._until_idle()
        except BaseException:
            await self._give_back()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._give_back()

    def check(self) -> None:
        """Raise if the user has given up, or the card is not ours any more."""
        if self._stop.is_set():
            raise asyncio.CancelledError
        if self._renewal.done():
            self._renewal.result()

    async def _take(self) -> None:
        """Drain the replicas; the lease of one that has died ends while we wait."""
        deadline = monotonic() + LEASE_S + 1
        while other := (await self._drain(LEASE_S))["measured_by"]:
            if self._stop.is_set():
                raise asyncio.CancelledError
            if monotonic() > deadline:
                raise CapacityError(
                    f"the card of replica '{self._name}' is measured by {other}, for more than {LEASE_S:g} s; profile "
                    "again when it is done"
                )
            await asyncio.sleep(0.2)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            if other := (await self._drain(LEASE_S))["measured_by"]:
                raise CapacityError(
                    f"{other} measures its card, because this run was silent for {LEASE_S:g} s; profile again when it "
                    "is done"
                )

    async def _until_idle(self) -> None:
        deadline = monotonic() + PATIENCE_S
        while calls := (await self._drain(LEASE_S))["calls"]:
            self.check()
            if monotonic() > deadline:
                raise CapacityError(
                    f"{calls} calls still run on its card after {PATIENCE_S:g} s; profile when it is idle"
                )
            await asyncio.sleep(0.05)

    async def _give_back(self) -> None:
        self._renewal.cancel()
        await self._drain(0)

    async def _drain(self, lease_s: float) -> dict[str, Any]:
        answer: dict[str, Any] = await self._client.scheduler.fmware_drain(
            card=self._card, lease_s=lease_s, holder=self._holder
        )
        return answer
