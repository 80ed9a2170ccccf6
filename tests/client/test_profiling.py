"""What a measurement says of itself."""

from __future__ import annotations

import numpy as np
import pytest

from dask_fmware.client.profiling import _doubt
from dask_fmware.profile.fit import fit_law
from dask_fmware.profile.record import Profile, ProfileKey, Provenance
from tests.profile.test_fit import PLAIN, grid


@pytest.mark.parametrize(("noise", "is_doubted"), [(0.02, False), (1.0, True)])
def test_a_law_that_is_far_from_what_was_measured_is_doubted(noise: float, is_doubted: bool) -> None:
    pytest.importorskip("scipy")
    points = tuple(grid(PLAIN, noise=noise))
    key = ProfileKey(model="small", accelerator="L4", engine="vLLM", engine_version="1")
    fit = fit_law(points, np.random.default_rng(0))
    made = Profile.of(key, fit, Provenance(kind="measured", source="a test"), points)
    assert ("its law is off by a median of decode" in _doubt(made)) is is_doubted
