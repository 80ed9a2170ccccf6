"""Which rows are done: one bit for each, so that a million rows take 125 kB."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["RowSet"]


class RowSet:
    """A set of row numbers."""

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self._bits = bytearray()
        self._count = 0
        for number in numbers:
            self.add(number)

    def add(self, number: int) -> None:
        """Take a number in.

        Raises
        ------
        ValueError
            If it is there already.
        """
        byte, bit = divmod(number, 8)
        if byte >= len(self._bits):
            self._bits.extend(bytes(max(byte + 1 - len(self._bits), len(self._bits))))
        if self._bits[byte] >> bit & 1:
            raise ValueError(f"row {number} is there twice")
        self._bits[byte] |= 1 << bit
        self._count += 1

    def __contains__(self, number: int) -> bool:
        byte, bit = divmod(number, 8)
        return byte < len(self._bits) and bool(self._bits[byte] >> bit & 1)

    def __len__(self) -> int:
        return self._count

    @property
    def first_missing(self) -> int:
        """The least number that is not in the set."""
        for index, byte in enumerate(self._bits):
            if byte != 0xFF:
                return 8 * index + next(bit for bit in range(8) if not byte >> bit & 1)
        return 8 * len(self._bits)
