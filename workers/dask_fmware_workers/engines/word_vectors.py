"""Vectors of texts without a model: how often each word stands in a text, at unit length.

Equal texts have equal vectors and texts that share words similar ones, so that a search over them finds something. It
knows no order of words, no meaning and no language.
"""

from __future__ import annotations

import re
from collections import Counter
from math import sqrt
from zlib import crc32

__all__ = ["DIMENSIONS", "word_vector"]

DIMENSIONS = 384  # of many small models
WORD = re.compile(r"\w+")


def word_vector(text: str, dimensions: int = DIMENSIONS) -> tuple[float, ...]:
    """Return the vector of a text that is not empty; of one without words that of the whole.

    >>> word_vector("to be or not to be") == word_vector("Be or not to be, to...")
    True
    """
    words = WORD.findall(text.lower()) or [text]
    counts = Counter(crc32(word.encode()) % dimensions for word in words)
    length = sqrt(sum(count * count for count in counts.values()))
    return tuple(counts[place] / length for place in range(dimensions))
