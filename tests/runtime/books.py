"""What Dask knows of runs and their tasks, as `shell.Shell` keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field

from dask_fmware.model.plan import PlannedNode, RunPlan

__all__ = ["OVER", "Submitted", "Task"]

OVER = ("done", "erred")


@dataclass
class Task:
    """A node of a plan, as Dask sees it."""

    node: PlannedNode
    plan_id: str
    state: str = "waiting"  # waiting, held, running, ending, done, erred
    on: tuple[str, int] | None = None  # replica id and attempt
    tries: int = 0  # assignments since its value was there last
    spared: bool = False  # one of them was lost with its replica before it began, which is no try, but only once


@dataclass
class Submitted:
    """A plan that somebody holds."""

    plan: RunPlan
    decides: dict[str, tuple[str, int | None, bool]]  # node -> switch, branch it takes, whether that is announced
    tasks: dict[str, Task] = field(default_factory=dict)  # by node name
    refused: bool = False
    ended: tuple[object, ...] | None = None  # what the report said when the run ended

    @property
    def root(self) -> bool:
        return self.plan.part_of is None
