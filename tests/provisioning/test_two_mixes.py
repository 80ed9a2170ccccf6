"""What is there and what the mix would rather have: both are not kept for good."""

from __future__ import annotations

import pytest

from dask_fmware.provisioning import Planner
from dask_fmware.spec.provisioning import Bounds, Provisioning
from tests.provisioning.builders import flow, inventory, ready, seen


@pytest.mark.parametrize("most", [None, 2])
def test_a_mix_and_what_is_kept_beside_it_cost_no_more_than_a_margin_more_of_the_load(most: int | None) -> None:
    cards = inventory({"slow": 1.0, "fast": 2.5}, prices={"slow": 1.0, "fast": 2.4})
    options = Provisioning(idle_s=10, cool_down_s=0, default=Bounds(max_replicas=most))
    for tenth in range(1, 100, 6):
        planner = Planner(cards, options)
        load, there = flow(tenth / 10), (ready("m-0", "fast", running=1),)
        planner.plan(seen(load, replicas=there), 0.0)
        plan = planner.plan(seen(load, replicas=there), 20.0)
        if planner._lower is not None:
            assert plan.cost_per_hour <= cards.cost_per_hour(planner._lower.mix.replicas) + 1e-6, load.rate
        if most is not None:
            assert sum(plan.desired.values()) <= most, load.rate
