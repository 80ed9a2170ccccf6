"""How long the requests of one replica hold back because its server said so.

One answer that tells to wait holds all of them: they share the key that the limit is of. Who waits gives signs of
life, or it would be taken for a request that hangs. It knows no protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dask_fmware.errors import CapacityError

__all__ = ["RateLimit"]

LEAST_S = 0.05
SIGN_S = 0.25  # between two signs of life: below any silence after which an engine is given up


class RateLimit:
    """The limit of one key.

    Parameters
    ----------
    wait_s
        What one request waits in total, at most.
    """

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._not_before = 0.0  # on the loop's clock
        self.times = 0  # answers that told us to wait

    def told(self, wait_s: float) -> None:
        """The server asks for a pause."""
        self.times += 1
        self._not_before = max(self._not_before, asyncio.get_running_loop().time() + max(wait_s, LEAST_S))

    async def passed(self, waited_s: float, what: str, sign: Callable[[], object]) -> float:
        """Wait until a request may be sent; return what it has waited in total.

        Parameters
        ----------
        waited_s
            What it has waited before.
        what
            The request, for messages.
        sign
            Called a few times a second while it waits.

        Raises
        ------
        CapacityError
            If it would wait longer than it may; it says for how long nobody need ask.
        """
        loop = asyncio.get_running_loop()
        since = loop.time() - waited_s
        while (hold_s := self._not_before - (now := loop.time())) > 0:
            waited_s = now - since
            if waited_s + hold_s > self._wait_s:
                raise CapacityError(
                    f"{what} would wait {hold_s:.1f} s for the rate limit after {waited_s:.1f} s, more than "
                    f"rate_limit_wait_s={self._wait_s:g}; lower slots or raise rate_limit_wait_s",
                    shut_s=hold_s,
                )
            sign()
            await asyncio.sleep(min(hold_s, SIGN_S))
        return loop.time() - since
