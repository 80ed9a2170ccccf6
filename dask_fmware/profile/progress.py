"""A measurement under way: what its experiments gave so far, and the profile that follows when it has enough.

It is what an interrupted run leaves in the store and takes up again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from dask_fmware.profile.experiments import Experiment, experiments_for
from dask_fmware.profile.fit import fit_law
from dask_fmware.profile.meter import MeteredStep
from dask_fmware.profile.observed_steps import (
    RequestTrace,
    largest_batch,
    points_of,
    step_tokens_of,
    steps_of,
    without_bursts,
)
from dask_fmware.profile.record import Profile, ProfileKey, Provenance, Seconds, _Record

__all__ = ["EngineFacts", "PartialProfile", "TraceRecord"]


class EngineFacts(_Record):
    """What an engine says of itself, beside its speed."""

    slots: int = Field(ge=1)
    context_tokens: int = Field(ge=2)
    load_s: Seconds | None = None
    weight_bytes: int | None = Field(default=None, ge=0)
    kv_bytes_per_token: float | None = Field(default=None, ge=0)


class TraceRecord(_Record):
    """An `observed_steps.RequestTrace`."""

    submitted_s: Seconds
    prompt_tokens: int = Field(ge=0)
    cached_tokens: int = Field(default=0, ge=0)
    arrivals: tuple[tuple[float, int], ...] = ()
    finished: bool = True


class PartialProfile(_Record):
    """Traces of the experiments that were run, by their ids."""

    format: Literal[1] = 1
    key: ProfileKey
    facts: EngineFacts
    traces: Mapping[str, tuple[TraceRecord, ...]] = Field(default_factory=dict)
    left_out: tuple[str, ...] = ()  # experiments that would have taken too long

    def to_do(self, repeats: int) -> list[Experiment]:
        """Experiments that are still to be run."""
        known = {*self.traces, *self.left_out}
        planned = experiments_for(self.facts.slots, self.facts.context_tokens, repeats)
        return [experiment for experiment in planned if experiment.id not in known]

    def with_traces(self, experiment: Experiment, traces: tuple[TraceRecord, ...]) -> PartialProfile:
        """Return it with one more experiment."""
        return self.model_copy(update={"traces": {**self.traces, experiment.id: traces}})

    def without(self, experiments: list[Experiment]) -> PartialProfile:
        """Return it without the need to run these."""
        return self.model_copy(update={"left_out": (*self.left_out, *(e.id for e in experiments))})

    def steps(self) -> dict[str, list[MeteredStep]]:
        """Engine steps of each experiment."""
        return {
            id_: steps_of([RequestTrace(**dict(trace)) for trace in traces], self.facts.slots)
            for id_, traces in self.traces.items()
        }

    def profile(self, source: str, rng: np.random.Generator) -> Profile:
        """Fit what there is.

        Raises
        ------
        SpecError
            Too few points; says how many are needed.
        """
        steps = self.steps()
        step_tokens = step_tokens_of(found for id_, found in steps.items() if id_.startswith("mixed"))
        points = without_bursts([point for found in steps.values() for point in points_of(found, step_tokens)])
        fit = fit_law(points, rng, self.facts.slots)
        note = f"left out, because it would have taken long: {', '.join(self.left_out)}" if self.left_out else None
        return Profile.of(
            self.key,
            fit,
            Provenance(kind="measured", source=source, note=note),
            tuple(points),
            load_s=self.facts.load_s,
            weight_bytes=self.facts.weight_bytes,
            kv_bytes_per_token=self.facts.kv_bytes_per_token,
            largest_batch=largest_batch(steps.values()),
            step_tokens=step_tokens,
        )
