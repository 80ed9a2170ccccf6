"""A prefix cache in blocks of prompt text, least recently used first out: what an engine would not compute again.

It knows texts as chains of hashes and keeps no text. A block is found only behind all blocks before it.
"""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["PrefixBlocks"]

BLOCK_TOKENS = 16


class PrefixBlocks:
    """Blocks of prompts that were prefilled.

    Parameters
    ----------
    capacity_tokens
        Tokens that are remembered; below one block, nothing is.
    characters_per_token
        How text is cut into tokens.

    Examples
    --------
    >>> cache = PrefixBlocks(1024, 4)
    >>> cache.remember(cache.blocks("a" * 100))
    >>> cache.ready_tokens(cache.blocks("a" * 64 + "b" * 64))
    16
    """

    def __init__(self, capacity_tokens: int, characters_per_token: int) -> None:
        self._capacity = capacity_tokens // BLOCK_TOKENS
        self._characters = BLOCK_TOKENS * characters_per_token
        self._known: OrderedDict[int, None] = OrderedDict()

    def blocks(self, text: str) -> list[int]:
        """Names of the whole blocks of a text; each depends on all before it."""
        if not self._capacity:
            return []
        size, names, name = self._characters, [], 0
        for at in range(0, len(text) - size + 1, size):
            name = hash((name, text[at : at + size]))
            names.append(name)
        return names

    def ready_tokens(self, blocks: list[int]) -> int:
        """Tokens at the start of a text that need no prefill."""
        ready = 0
        for name in blocks:
            if name not in self._known:
                break
            ready += 1
        return ready * BLOCK_TOKENS

    def remember(self, blocks: list[int]) -> None:
        """Keep the blocks of a prefilled text; later blocks are dropped before the ones they stand on."""
        known = self._known
        for name in reversed(blocks):
            known[name] = None
            known.move_to_end(name)
        while len(known) > self._capacity:
            known.popitem(last=False)
