"""How long the requests of one replica hold back because its server said so.

One answer that tells to wait holds all of them: they share the key that the limit is of. When a pause is over one
goes first, and the others follow when the server has taken it. Each refusal in a row makes the next pause longer,
whatever the server asks for. Who waits gives signs of life, or it would be taken for a request that hangs. It knows
no protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from random import Random

from dask_fmware.errors import CapacityError

__all__ = ["RateLimit", "Turn"]

LEAST_S = 0.5  # of a pause; of each further one in a row twice as much
MOST_S = 30.0  # to which that grows; a server may ask for more
SPREAD = 0.2  # of a pause that is added by chance: replicas elsewhere share the key, and would come at once
TRY_S = 2.0  # that the others wait for the one that goes first, at most
SIGN_S = 0.25  # between two signs of life: below any silence after which an engine is given up


class RateLimit:
    """The limit of one key.

    Parameters
    ----------
    wait_s
        What one request waits for pauses in total, at most.
    random
        Draws what is added to pauses; replicas must not draw the same.
    """

    def __init__(self, wait_s: float, random: Random | None = None) -> None:
        self.wait_s = wait_s
        self._random = random or Random()
        self._pauses = 0  # so far
        self._least_s = LEAST_S  # of the next one
        self._not_before = 0.0  # on the loop's clock
        self._tried_until = 0.0  # by one request, which the others wait for
        self._is_over = asyncio.Event()  # the server has taken a request since the last pause, or there was none
        self._is_over.set()

    def turn(self, what: str, sign: Callable[[], object]) -> Turn:
        """Return what a request goes by.

        Parameters
        ----------
        what
            The request, for messages.
        sign
            Called a few times a second while it waits.
        """
        return Turn(self, what, sign)

    @property
    def pause_s(self) -> float:
        """Seconds that the pause lasts yet."""
        return max(self._not_before - asyncio.get_running_loop().time(), 0.0)

    @property
    def try_s(self) -> float:
        """Seconds that a request may take yet to find out whether the limit is over; 0 while none does."""
        return max(self._tried_until - asyncio.get_running_loop().time(), 0.0)

    async def news(self, within_s: float) -> None:
        """Wait until the limit is known to be over, or for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._is_over.wait()

    def sends(self) -> int:
        """A request is sent; the others wait for it while nobody knows whether the limit is over.

        Returns the pauses before it.
        """
        if not self._is_over.is_set():
            self._tried_until = asyncio.get_running_loop().time() + TRY_S
        return self._pauses

    def refused(self, wait_s: float, pauses: int) -> None:
        """A request is told to wait, which was sent after so many pauses; of those sent together one makes a pause."""
        if pauses == self._pauses:
            self._pauses += 1
            wait_s = max(wait_s, self._least_s)
            wait_s += self._random.uniform(0.0, SPREAD * min(wait_s, MOST_S))
            self._least_s = min(2 * self._least_s, MOST_S)
            self._tried_until = 0.0
        self._is_over.clear()
        self._not_before = max(self._not_before, asyncio.get_running_loop().time() + wait_s)

    def taken(self, pauses: int) -> None:
        """The server has taken a request that was sent after so many pauses."""
        if pauses == self._pauses:
            self._least_s, self._not_before, self._tried_until = LEAST_S, 0.0, 0.0
            self._is_over.set()


class Turn:
    """One request, each time that it would be sent."""

    def __init__(self, limit: RateLimit, what: str, sign: Callable[[], object]) -> None:
        self._limit, self._what, self._sign = limit, what, sign
        self._waited_s = 0.0  # so far, in total
        self._pauses = 0  # before it was sent

    async def comes(self) -> None:
        """Wait until the request may be sent.

        Raises
        ------
        CapacityError
            If it would wait for a pause longer than it may; it says for how long nobody need ask. Who waits for the
            one that goes first is not held to that: it may be over at once.
        """
        limit, loop = self._limit, asyncio.get_running_loop()
        since = loop.time() - self._waited_s
        while (pause_s := limit.pause_s) or limit.try_s:
            self._waited_s = loop.time() - since
            if pause_s and self._waited_s + pause_s > limit.wait_s:
                raise CapacityError(
                    f"{self._what} would wait {pause_s:.1f} s for the rate limit after {self._waited_s:.1f} s, more "
                    f"than rate_limit_wait_s={limit.wait_s:g}; lower slots or raise rate_limit_wait_s",
                    shut_s=pause_s,
                )
            self._sign()
            await limit.news(min(pause_s or limit.try_s, SIGN_S))
        self._waited_s = loop.time() - since
        self._pauses = limit.sends()

    def refused(self, wait_s: float) -> None:
        """The server asks for a pause."""
        self._limit.refused(wait_s, self._pauses)

    def taken(self) -> None:
        """The server has taken the request."""
        self._limit.taken(self._pauses)
