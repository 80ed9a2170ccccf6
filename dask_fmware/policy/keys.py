"""The keys by which a policy sorts: whether what it answers is one, and one of a kind with those before it.

A key that is not a number, or cannot be compared with others, would spoil the order of all that is sorted with it.
"""

from __future__ import annotations

from numbers import Real

__all__ = ["Keys", "is_number"]

NAN = "in which a NaN is no number"


def is_number(value: object) -> bool:
    """Whether a value is a real number, infinite ones included."""
    return (type(value) is float or isinstance(value, Real)) and bool(value == value)


class Keys:
    """The keys of one order: tuples of one length with numbers, or texts, at the same places.

    Parameters
    ----------
    has_texts
        Whether a part may be a text.
    """

    __slots__ = ("_has_texts", "_known", "_texts")

    def __init__(self, *, has_texts: bool) -> None:
        self._has_texts = has_texts
        self._known: dict[tuple[type, ...], tuple[int, ...]] = {}  # types of sound keys -> parts that may be NaN
        self._texts: tuple[bool, ...] | None = None  # which parts are texts; None before the first sound key

    def wrong(self, key: object) -> str:
        """What is wrong with a key; empty if nothing is."""
        if not isinstance(key, tuple):
            return "which is no tuple"
        types = tuple(map(type, key))
        known = self._known.get(types)
        if known is None:
            return self._new(key, types)
        for place in known:
            part = key[place]
            if part != part:
                return NAN
        return ""

    def _new(self, key: tuple[object, ...], types: tuple[type, ...]) -> str:
        """What is wrong with a key of types that have not been seen."""
        texts = tuple(issubclass(one, str) for one in types)
        if why := self._unlike(types, texts):
            return why
        if any(part != part for part in key):
            return NAN
        self._texts = texts
        self._known[types] = tuple(n for n, one in enumerate(types) if not issubclass(one, int | str))
        return ""

    def _unlike(self, types: tuple[type, ...], texts: tuple[bool, ...]) -> str:
        """What is wrong with the types of a key, some of which are texts."""
        for one, is_text in zip(types, texts, strict=True):
            if not (self._has_texts if is_text else issubclass(one, Real)):
                return f"in which a {one.__name__} is no {'number or text' if self._has_texts else 'number'}"
        if self._texts is not None and texts != self._texts:
            return f"which cannot be compared with those before it, {_described(self._texts)}"
        return ""


def _described(texts: tuple[bool, ...]) -> str:
    return f"({', '.join('text' if is_text else 'number' for is_text in texts)})"
