"""What of the public tables goes into the catalog."""

from __future__ import annotations

import pytest

from benchmarks.build_catalog import whole_batches
from dask_fmware.profile.points import StepPoint


@pytest.mark.parametrize(("last_s", "kept"), [(0.8, [1, 2, 4]), (6.4, [1, 2, 4, 8])])
def test_a_batch_that_a_card_held_in_parts_is_left_out_of_both_phases(last_s: float, kept: list[int]) -> None:
    times_s = {1: 0.8, 2: 1.6, 4: 3.2, 8: last_s}
    prefills = [StepPoint(s, 512.0 * batch, batch) for batch, s in times_s.items()]
    long = StepPoint(3.0, 4096.0, 1)
    decodes = [StepPoint(0.05, batch=float(batch), context_tokens=576.0 * batch) for batch in times_s]
    found = whole_batches([*prefills, long, *decodes])
    assert [point.prefilled for point in found if point.prefilled] == [*kept, 1]
    assert [point.batch for point in found if not point.prefilled] == kept
