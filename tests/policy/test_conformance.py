"""Every policy of this package, and each that is installed, held to what policies owe to the machine."""

from __future__ import annotations

from functools import partial

import pytest

from dask_fmware.policy import create_policy, policy_names
from dask_fmware.testing.conformance.policy import MakePolicy, PolicyTests


class TestPolicies(PolicyTests):
    @pytest.fixture(params=policy_names())
    def make_policy(self, request: pytest.FixtureRequest) -> MakePolicy:
        return partial(create_policy, request.param)
