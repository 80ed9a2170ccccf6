"""Every engine of this package, and each that is installed, held to what engines promise (`conftest` makes them)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dask_fmware.model.engine import Engine
from dask_fmware.testing.conformance.engine import EngineTests
from tests.engines.factories import FACTORIES, marks


class TestEngines(EngineTests):
    @pytest.fixture(params=[pytest.param(name, marks=marks(name)) for name in FACTORIES])
    def make_engine(self, request: pytest.FixtureRequest) -> Callable[..., Engine]:
        return FACTORIES[request.param]
