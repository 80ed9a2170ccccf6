"""A machine and what watches it remember no more after hours than after the first of them."""

from __future__ import annotations

import random
from collections import Counter

from dask_fmware.model.plan import Objective
from dask_fmware.observe.history import History
from dask_fmware.runtime import RunDropped, RunEnded
from dask_fmware.runtime.demand import Demand
from dask_fmware.testing.indexes import entries
from tests.runtime.builders import Driver, node, plan, replica

HOUR_S = 3600


def test_nothing_grows_after_the_first_hour() -> None:
    driver, draws = Driver("greedy", keep_runs=0), random.Random(1)
    driver.machine.observers.append(History(driver.machine))
    driver.machine.observers.append(Demand(driver.machine))  # which nobody asks what it has seen
    driver.ready(replica("r0"))
    most: list[Counter[str]] = []
    for second in range(2 * HOUR_S):
        if second % HOUR_S == 0:
            most.append(Counter())
        call = f"{second}/answer"
        driver.now = float(second)
        objective = Objective(ttft_s=0.5) if second % 3 else None
        driver.submit(plan(str(second), [node(call, answers=True)], objective=objective))
        driver.runnable(call)
        driver.now += draws.uniform(0.1, 0.9)
        driver.end(call, prompt_tokens=20, output_tokens=10, ttft_s=0.1)
        driver.tell(RunEnded(str(second), "finished"), RunDropped(str(second)))
        if second % 200 == 199:
            most[-1] |= entries(driver.machine)
    assert {"Window.buckets", "ArrivalRate._seconds"} <= most[0].keys(), "the observers are looked into"
    grown = {where: (most[0][where], count) for where, count in most[1].items() if count > 1.02 * most[0][where]}
    assert not grown
