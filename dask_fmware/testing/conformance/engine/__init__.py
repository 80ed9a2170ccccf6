"""What every engine promises, whatever is behind it.

A test that needs something an engine may lack asks its `Capabilities`, never its name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dask_fmware.model.engine import Engine
from dask_fmware.testing.conformance.engine.answers import Answers
from dask_fmware.testing.conformance.engine.formats import Formats
from dask_fmware.testing.conformance.engine.life import Life
from dask_fmware.testing.conformance.engine.requests import Requests
from dask_fmware.testing.conformance.engine.serving import Serving
from dask_fmware.testing.conformance.engine.slots import Slots

__all__ = ["EngineTests"]


@pytest.mark.asyncio
class EngineTests(Answers, Formats, Slots, Requests, Life):
    """Inherit these tests, and say how the engine is made.

    It is made for each test anew, so let it be small: its answers need no sense, but must not end before `max_tokens`.

    Examples
    --------
    >>> class TestWords(EngineTests):
    ...     @pytest.fixture
    ...     def make_engine(self):
    ...         return Words  # or a function that takes `slots` and `context_tokens` by name
    """

    @pytest.fixture
    def make_engine(self) -> Callable[..., Engine]:
        """What makes an engine that is not started, called with `slots` and `context_tokens`."""
        raise NotImplementedError(
            f"{type(self).__name__} needs a fixture make_engine that returns what makes the engine, called with slots= "
            "and context_tokens="
        )

    @pytest.fixture
    def make(self, make_engine: Callable[..., Engine]) -> Callable[..., Engine]:
        """The same, with two slots and 8192 tokens unless a test says otherwise."""

        def made(**arguments: Any) -> Engine:
            return make_engine(**{"slots": 2, "context_tokens": 8192, **arguments})

        return made

    @pytest.fixture
    def serving(self, make: Callable[..., Engine]) -> Serving:
        """A context manager that starts an engine with the given arguments and closes it."""

        @asynccontextmanager
        async def context(**arguments: Any) -> AsyncIterator[Engine]:
            engine = make(**arguments)
            try:
                await engine.start()
                yield engine
            finally:
                await engine.close()

        return context
