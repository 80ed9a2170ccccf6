"""The keys by which a policy sorts: whether what it answers is one, and one of a kind with those before it.

A key that is not a number, or cannot be compared with others, would spoil the order of all that is sorted with it.
"""

from __future__ import annotations

from numbers import Real

__all__ = ["Keys", "is_number"]


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
        self._known: set[tuple[type, ...]] = set()  # types of keys that were sound
        self._texts: tuple[bool, ...] | None = None  # which parts are texts; None before the first sound key

    def wrong(self, key: object) -> str:
        """What is wrong with a key; empty if nothing is."""
        if not isinstance(key, tuple):
            return "which is no tuple"
        types = tuple(map(type, key))
        is_known = types in self._known
        texts = () if is_known else tuple(issubclass(one, str) for one in types)
        if not is_known and (why := self._unlike(types, texts)):
            return why
        for part in key:
            if part != part:
                return "in which a number is missing"
        if not is_known:
            self._texts = texts
            self._known.add(types)
        return ""

    def _unlike(self, types: tuple[type, ...], texts: tuple[bool, ...]) -> str:
        """What is wrong with the types of a key that have not been seen, some of which are texts."""
        for one, is_text in zip(types, texts, strict=True):
            if not (self._has_texts if is_text else issubclass(one, Real)):
                return f"in which a {one.__name__} is no {'number or text' if self._has_texts else 'number'}"
        if self._texts is not None and texts != self._texts:
            return f"which cannot be compared with those before it, {_described(self._texts)}"
        return ""


def _described(texts: tuple[bool, ...]) -> str:
    return f"({', '.join('text' if is_text else 'number' for is_text in texts)})"
