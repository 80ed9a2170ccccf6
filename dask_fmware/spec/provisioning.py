"""How replicas are started and stopped by themselves: bounds, patience and the share of runs to protect.

The options say what is wanted. What is started when, `dask_fmware.provisioning` decides.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from dask_fmware.errors import DeploymentError, SpecError
from dask_fmware.spec.record import Option, Record

__all__ = ["Bounds", "Provisioning"]

LEAST_IDLE_S = 120.0  # for which a replica stays that is not needed, unless options say otherwise


class Bounds(Record):
    """Least and most replicas of one model, over all accelerators."""

    min_replicas: int = Field(default=0, ge=0, description="0: the model is stopped when idle, started by a call")
    max_replicas: int | None = Field(default=None, ge=1, description="None: as many as the cards hold")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max_replicas is not None and self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas={self.min_replicas} is above max_replicas={self.max_replicas}; "
                "lower the one or raise the other"
            )
        return self


class Provisioning(Option):
    """Options of the resource provisioner; names that end in ``_s`` are seconds.

    Parameters
    ----------
    mode
        ``"projection"`` starts the cheapest cards on which the step-time laws say that `quantile` of the runs meet
        their SLO at the load to come. ``"simple"`` is that of the paper: one more replica when slack is exhausted too
        often, one less after an idle period. ``"queue_length"`` is what Ray Serve does: as many replicas as hold
        `target_ongoing` calls each. ``"manual"`` keeps what `fm.scale` asked for.
    quantile
        Share of the runs that shall meet their SLO, between 0 and 1.
    interval_s
        Between two looks at the load.
    idle_s, cool_down_s, margin
        Replicas go when the load of all of `idle_s` could do without them and a share of `margin` more, the last of a
        model when none of its calls waited or ran in it, but not within `cool_down_s` of a start of their model.
        Without `idle_s` they stay for as long as it would take to start them again, two minutes at least (see
        `patience_s`).
        Where models are more than cards, calls wait for the card of a replica without calls, for `idle_s` at most; two
        models of which each has the card that the other waits for change places after it.
    boot_s, load_s
        From the request for a worker until its engine begins to load, and its load time until one has been measured.
    start_timeout_s, retry_s, most_retry_s
        A start that takes longer has failed; its kind of card is left alone for `retry_s` then, twice as long each time
        up to `most_retry_s`.
    default, models
        Least and most replicas (`Bounds`) of every model, and of single ones by name.
    max_cost_per_hour
        Bound of the price of all cards together, in the currency of the deployment. A card with a replica counts in
        full, however many may share it. What is there stays for as long as it would without the bound, and counts until
        it has gone; nothing is started beyond it, by hand neither.
    exhausted_share
        Of ``"simple"``: a replica is added when more calls than this share exhaust their slack.
    target_ongoing, upscale_delay_s, downscale_delay_s
        Of ``"queue_length"``: calls a replica, and how long there must be more or fewer.
    """

    error: ClassVar[type[SpecError]] = DeploymentError

    mode: Literal["projection", "simple", "queue_length", "manual"] = "projection"
    quantile: float = Field(default=0.95, gt=0, lt=1, description="share of runs that shall meet their SLO")
    interval_s: float = Field(default=1.0, gt=0, description="between two looks at the load")
    idle_s: float | None = Field(
        default=None,
        gt=0,
        description="replicas go when the load of all of this time could do without them; left out: "
        f"{LEAST_IDLE_S:g} s, or as long as a start takes if that is longer",
    )
    cool_down_s: float = Field(default=30.0, ge=0, description="after a start of a model none of its replicas goes")
    margin: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="replicas go only if what is left could bear this much more load; more where few arrivals tell it",
    )
    boot_s: float = Field(
        default=0.0, ge=0, description="from the request for a worker until its engine begins to load"
    )
    load_s: float = Field(default=30.0, ge=0, description="load time of an engine, until one has been measured")
    start_timeout_s: float = Field(default=900.0, gt=0, description="a start that takes longer has failed")
    retry_s: float = Field(
        default=5.0, gt=0, description="after a failed start its kind of card is left alone; doubles each time"
    )
    most_retry_s: float = Field(default=300.0, gt=0, description="bound of that pause")
    default: Bounds = Field(default=Bounds(), description="bounds of models that `models` does not name")
    models: dict[str, Bounds] = Field(default_factory=dict, description="bounds by model")
    max_cost_per_hour: float | None = Field(default=None, gt=0, description="price of all cards together")
    exhausted_share: float = Field(
        default=0.1, ge=0, lt=1, description="simple: a replica is added when more calls than this exhaust their slack"
    )
    target_ongoing: float = Field(default=2.0, gt=0, description="queue_length: calls a replica, running and waiting")
    upscale_delay_s: float = Field(default=30.0, ge=0, description="queue_length: of more calls before a start")
    downscale_delay_s: float = Field(default=600.0, ge=0, description="queue_length: of fewer calls before a stop")

    def patience_s(self, start_s: float = 0.0) -> float:
        """For how long a replica stays that is not needed and takes `start_s` seconds to start.

        A card that loads serves nobody, so a replica that comes back has cost its start twice. Where it is kept for as
        long as that takes, it costs at most twice what would have been best, whatever comes (ski rental).
        """
        return max(LEAST_IDLE_S, start_s) if self.idle_s is None else self.idle_s

    def bounds(self, model: str) -> Bounds:
        """Bounds of a model."""
        return self.models.get(model, self.default)
