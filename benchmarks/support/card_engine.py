"""The emulated engine as the evaluation uses it, in Dask workers and in replicas of Ray Serve alike.

Two things are added to `EmulatedEngine`. A prompt may begin with what its answer is to be (``[92]`` tokens, or
``[=search shop]``), so that both systems and the simulator get the same lengths and branches. And a call runs when
its card is free, since the two models of the paper's setting share each card (`benchmarks.support.card_server`).

It imports neither Dask nor Ray. Importing it, as a Dask worker does that has it as a preload, makes it known as
``card``.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from benchmarks.support.card_server import turn
from dask_fmware.model.engine import Delta, Request
from dask_fmware_workers.engines import ENGINES
from dask_fmware_workers.engines.emulated import EmulatedEngine
from dask_fmware_workers.engines.emulated_answer import CHARACTERS_PER_TOKEN

__all__ = ["CardEngine", "planned_prompt"]

PLAN = re.compile(r"\[(?P<call>[^\s\]]+) (?:(?P<tokens>\d+)|=(?P<label>[^\]]+))\]")


def planned_prompt(call: str, prompt_tokens: int, output: int | str) -> str:
    """Return a prompt of so many tokens whose answer has `output` tokens, or is the label `output`.

    >>> planned_prompt("r1/answer", 8, 92)
    '[r1/answer 92] r1/answer r1/answ'
    """
    head = f"[{call} {output}]" if isinstance(output, int) else f"[{call} ={output}]"
    length = prompt_tokens * CHARACTERS_PER_TOKEN
    if len(head) > length:
        raise ValueError(f"a prompt of {prompt_tokens} tokens has no room for {head}")
    return (head + f" {call}" * (length // (len(call) + 1) + 1))[:length]


class CardEngine(EmulatedEngine):
    """An emulated engine on a card that it may share.

    Parameters
    ----------
    socket
        Of the card server; None for a card of its own.
    card
        Name of the card.
    **arguments
        Of `EmulatedEngine`.
    """

    def __init__(self, *, socket: str | None = None, card: str = "", **arguments: Any) -> None:
        super().__init__(**arguments)
        self._socket, self._card = socket, card

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        """Stream the planned answer when the card is free."""
        found = PLAN.match(request.prompt or "")
        call = request.request_id
        if found is not None:
            call = found["call"]
            request = (
                replace(request, choices=(found["label"],))
                if found["label"] is not None
                else replace(request, max_tokens=min(request.max_tokens, int(found["tokens"])))
            )
        if self._socket is None:
            async with aclosing(super().generate(request)) as deltas:
                async for delta in deltas:
                    yield delta
            return
        async with turn(self._socket, self._card, call), aclosing(super().generate(request)) as deltas:
            async for delta in deltas:
                yield delta


def arguments(law: Mapping[str, float], *, socket: str | None, card: str, time_scale: float = 1.0) -> dict[str, Any]:
    """Arguments of an engine of the paper's setting: serial, no prefix cache, as long a context as any prompt has."""
    return {
        "law": dict(law),
        "socket": socket,
        "card": card,
        "time_scale": time_scale,
        "slots": 1,
        "context_tokens": 8192,
        "prefix_cache_tokens": 0,
        "load_s": 0.0,
    }


ENGINES["card"] = "benchmarks.support.card_engine:CardEngine"
