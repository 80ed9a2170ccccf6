"""The plan of a run as it travels: what all runs of a workflow share, and the little that this one adds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dask_fmware.compile.shared import Shared
from dask_fmware.model.messages import PROTOCOL_VERSION, check_version
from dask_fmware.model.plan import Objective, PlannedNode, RunPlan

__all__ = ["PlanDraft"]


class PlanDraft:
    """Makes a `RunPlan` where it arrives.

    Parameters
    ----------
    nodes
        Nodes of the workflow; their keys lack the run id, their prompt sizes the inputs.
    input_bytes
        UTF-8 bytes that inputs add to the prompt of each node.
    prefix
        Item path in front of node names.
    """

    __slots__ = ("_fields", "_version")

    def __init__(
        self,
        nodes: Shared[tuple[PlannedNode, ...]],
        workflow: str,
        run_id: str,
        output: str,
        input_bytes: tuple[int, ...],
        objective: tuple[Any, ...] | None,
        tenant: str,
        priority: int,
        part_of: str | None,
        prefix: str,
        decided: tuple[tuple[str, int | None], ...],
    ) -> None:
        self._fields = (
            nodes, workflow, run_id, output, input_bytes, objective, tenant, priority, part_of, prefix, decided
        )  # fmt: skip
        self._version: object = PROTOCOL_VERSION

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return _arrived, (PROTOCOL_VERSION, *self._fields)

    def __repr__(self) -> str:
        return f"<plan of run {self._fields[2][:8]}>"

    def plan(self) -> RunPlan:
        """Return the plan.

        Raises
        ------
        VersionMismatchError
            If it was made by another version.
        """
        check_version(self._version, "the client")
        nodes, workflow, run_id, output, sizes, objective, tenant, priority, part_of, prefix, decided = self._fields
        return RunPlan(
            run_id=run_id,
            workflow=workflow,
            nodes=tuple(
                replace(
                    node,
                    name=prefix + node.name,
                    key=node.key + run_id,
                    after=tuple(prefix + name for name in node.after) if prefix else node.after,
                    prompt_bytes=node.prompt_bytes + size,
                )
                for node, size in zip(nodes.value, sizes, strict=True)
            ),
            output=output,
            objective=Objective(*objective) if objective is not None else None,
            tenant=tenant,
            priority=priority,
            part_of=part_of,
            decided=decided,
        )


def _arrived(version: object, *fields: Any) -> PlanDraft:
    """Return a draft as it was sent; one of another version may have other fields, which nobody reads."""
    draft = PlanDraft.__new__(PlanDraft)
    draft._version, draft._fields = version, fields
    return draft
