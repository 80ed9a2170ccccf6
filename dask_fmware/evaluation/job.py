"""What an evaluation was asked to do, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dask_fmware.compile.collection import BoundWorkflow, WorkflowFunction
from dask_fmware.errors import SpecError
from dask_fmware.evaluation.fingerprint.code import workflow_fingerprint
from dask_fmware.evaluation.given_scorers import as_scorers
from dask_fmware.evaluation.output.manifest import Manifest
from dask_fmware.evaluation.scoring import ANSWER, Judge, Scorer
from dask_fmware.evaluation.sources.source import DataError, Row, Source, is_missing, shown
from dask_fmware.profile.arguments import engine_arguments
from dask_fmware.spec.deployment import Deployment
from dask_fmware.spec.record import checked, did_you_mean
from dask_fmware.spec.slo import SLO, RunOptions
from dask_fmware.spec.workflow import ModelNode, Workflow

__all__ = ["BACKGROUND_PRIORITY", "Job"]

BACKGROUND_PRIORITY = -100  # of rows without a deadline: behind whatever anybody waits for
PROMPT = "prompt"  # column of a batch file
WEIGHTS = ("gguf", "model")  # arguments of engines that say which weights they serve


@dataclass(frozen=True, slots=True)
class Job:
    """One evaluation."""

    workflow: WorkflowFunction
    source: Source
    inputs: Mapping[str, str]  # input of the workflow -> column
    by_name: tuple[str, ...]  # inputs with a default, which rows beyond the first may have a column of
    id_column: str | None
    scorers: Sequence[Scorer]
    judges: Sequence[Judge]
    kept: tuple[str, ...]
    tenant: str

    @classmethod
    def of(
        cls,
        workflow: Any,
        source: Source,
        *,
        inputs: Mapping[str, str] | None,
        id_column: str | None,
        scorers: Any,
        keep: str | Sequence[str],
        tenant: str,
    ) -> Job:
        """Check what a user gave against the workflow and the columns of the data.

        Raises
        ------
        SpecError
            If something is missing, unknown or out of its bounds; it names what is there.
        """
        if isinstance(workflow, Workflow):
            workflow = WorkflowFunction(workflow)
        if not isinstance(workflow, WorkflowFunction):
            raise SpecError(
                f"workflow is a {type(workflow).__name__}; give a function decorated with @fm.workflow, not called"
            )
        checked(RunOptions, {"tenant": tenant}, SpecError, "fm.evaluate")
        columns, keep = source.columns, [keep] if isinstance(keep, str) else keep
        for column in (id_column, *keep):
            if column is not None and column not in columns:
                raise _missing(source, column)
        made, judges = as_scorers(scorers, columns)
        bound = _bound_inputs(workflow.workflow, source, inputs or {})
        others = [item.name for item in workflow.workflow.inputs if item.name not in bound]
        return cls(
            _without_slo(workflow),
            source,
            bound,
            () if source.has_all_columns else tuple(others),
            id_column or source.id_column,
            [replace(scorer, blank_is_none=source.blank_is_none) for scorer in made],
            [Judge(j.name, _without_slo(j.workflow), j.inputs, j.read, j.fingerprint) for j in judges],
            tuple(dict.fromkeys(keep)),
            tenant,
        )

    def manifest(self, deployment: Deployment) -> Manifest:
        """Return what an output of this job on a deployment belongs to."""
        return Manifest(
            workflow=self.workflow.workflow.name,
            workflow_fingerprint=str(workflow_fingerprint(self.workflow)),
            data=self.source.name,
            data_fingerprint=self.source.fingerprint,
            id_column=self.id_column,
            inputs=dict(self.inputs),
            scorers={s.name: s.fingerprint for s in self.scorers} | {j.name: j.fingerprint for j in self.judges},
            kept=self.kept,
            models={name: weights for name in sorted(self.models()) if (weights := _weights(deployment, name))},
        )

    def models(self) -> set[str]:
        """Names of the models that it calls."""
        specs = [self.workflow.workflow, *(judge.workflow.workflow for judge in self.judges)]
        return {node.model for spec in specs for node in spec.nodes.values() if isinstance(node, ModelNode)}

    def check_models(self, deployment: Deployment) -> None:
        """Raise UnknownModelError unless the deployment hosts all models, WorkflowError if one is used wrongly."""
        for one in (self.workflow, *(judge.workflow for judge in self.judges)):
            one.workflow.check_models(deployment)

    def bind(self, row: Row, objective: SLO | None) -> BoundWorkflow:
        """Return the run of a row; with an objective it is as urgent as that says, without one background."""
        columns = {**{name: name for name in self.by_name}, **self.inputs}
        return self._options(self.workflow(**self._values(self.workflow, columns, row)), objective)

    def bind_judge(self, judge: Judge, row: Row, answer: str, objective: SLO | None) -> BoundWorkflow:
        """Return the run that judges an answer."""
        answers = {name: answer for name, column in judge.inputs.items() if column == ANSWER}
        columns = {name: column for name, column in judge.inputs.items() if column != ANSWER}
        values = self._values(judge.workflow, columns, row)
        return self._options(judge.workflow(**answers, **values), objective)

    def _options(self, bound: BoundWorkflow, objective: SLO | None) -> BoundWorkflow:
        if objective is None:
            return bound.options(tenant=self.tenant, priority=BACKGROUND_PRIORITY)
        return bound.options(slo=objective, tenant=self.tenant, priority=0)

    def _values(self, workflow: WorkflowFunction, columns: Mapping[str, str], row: Row) -> dict[str, Any]:
        """Return what a row has for inputs of a workflow; those with a default take that where it has nothing."""
        required = {item.name for item in workflow.workflow.inputs if item.required}
        return {n: _cell(row, c) for n, c in columns.items() if n in required or self._has_value(row, c)}

    def _has_value(self, row: Row, column: str) -> bool:
        cell = row.get(column)
        return not is_missing(cell) and not (self.source.blank_is_none and not str(cell).strip())


def _cell(row: Row, column: str) -> Any:
    if column not in row:
        raise DataError(f"column '{column}' is missing (columns of this row: {shown(row)})")
    if is_missing(row[column]):
        raise DataError(f"column '{column}' is empty")
    return row[column]


def _bound_inputs(spec: Workflow, source: Source, given: Mapping[str, str]) -> dict[str, str]:
    """Return the column of each input: as given, else that of its name."""
    names = [item.name for item in spec.inputs]
    for name in given:
        if name not in names:
            raise SpecError(f"workflow '{spec.name}' has no input '{name}' (inputs: {shown(names)})")
    required = [item.name for item in spec.inputs if item.required and item.name not in given]
    found = dict(given)
    if source.id_column is not None and len(required) == 1 and required[0] not in source.columns:
        found[required[0]] = PROMPT  # a batch file names nobody's inputs
    for item in spec.inputs:
        column = found.get(item.name, item.name)
        may_come = not item.required and not source.has_all_columns  # with a later row
        if column in source.columns or (may_come and item.name in found):
            found[item.name] = column
        elif item.required or item.name in found:
            who = f"input '{item.name}' of workflow '{spec.name}' takes it; "
            step = f"; name another: inputs={{'{item.name}': '...'}}, in a shell --input {item.name}=COLUMN"
            raise _missing(source, column, who, step)
    return found


def _missing(source: Source, column: str, who: str = "", step: str = "") -> DataError:
    return DataError(
        f"{source.name} has no column '{column}'{did_you_mean(column, source.columns)}"
        f" ({who}columns: {shown(source.columns)}){step}"
    )


def _weights(deployment: Deployment, model: str) -> str:
    """The weights that replicas of a model serve, as the deployment names them; empty where it does not."""
    if model not in deployment.models:
        return ""
    placed = [engine_arguments(deployment, model, accelerator) for accelerator in deployment.models[model].on]
    return ", ".join(sorted({str(arguments[name]) for arguments in placed for name in WEIGHTS if name in arguments}))


def _without_slo(workflow: WorkflowFunction) -> WorkflowFunction:
    spec = workflow.workflow
    return workflow if spec.slo is None else WorkflowFunction(spec.model_copy(update={"slo": None}))
