"""The document that keeps what is known of one model on one accelerator under one engine.

It is what the store writes and the catalog bundles: the law, memory and load time, the raw points and
where all of it comes from. It converts; it neither measures, fits nor reads files.
"""

from __future__ import annotations

from typing import Annotated, Literal
from zlib import crc32

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dask_fmware.profile.fit import Fit, PhaseFit
from dask_fmware.profile.law import Curve, StepLaw
from dask_fmware.profile.points import StepPoint
from dask_fmware.profile.units import check_bytes, check_seconds
from dask_fmware.spec.deployment import Latency

__all__ = [
    "CurveRecord",
    "LawRecord",
    "LiveProfile",
    "PhaseRecord",
    "PointRecord",
    "Profile",
    "ProfileKey",
    "Provenance",
    "fingerprint",
]

FORMAT = 1  # of this document; another one is refused
USUAL_TOKENS = 512  # prompt and context at which a law is read as a figure
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class ProfileKey(_Record):
    """What a profile is of; a profile of anything else never stands in for it."""

    model: Name  # as named in the deployment, or in the catalog
    accelerator: Name  # card type; several of them as "A100 x2"
    engine: Name
    engine_version: Name
    arguments: str = ""  # `arguments_digest` of the engine's; empty: they are not known, so nothing is of these

    def __str__(self) -> str:
        told = f", arguments {self.arguments}" if self.arguments else ""
        return f"{self.model} on {self.accelerator} ({self.engine} {self.engine_version}{told})"

    def has_labels_of(self, other: ProfileKey) -> bool:
        """Whether the two differ in nothing but the arguments of the engine."""
        return self == other.model_copy(update={"arguments": self.arguments})


class CurveRecord(_Record):
    """A `law.Curve`."""

    slopes_s: tuple[Seconds, ...] = (0.0,)
    knots: tuple[float, ...] = ()


class LawRecord(_Record):
    """A `law.StepLaw`."""

    fixed_s: Seconds = 0.0
    decode: CurveRecord = CurveRecord()
    context: CurveRecord = CurveRecord()
    prefill_fixed_s: Seconds = 0.0
    prefill: CurveRecord = CurveRecord()
    sequences: CurveRecord = CurveRecord()
    pair_s: Seconds = 0.0

    @model_validator(mode="after")
    def _is_a_law(self) -> LawRecord:
        self.law()
        return self

    @classmethod
    def of(cls, law: StepLaw) -> LawRecord:
        """Return the record of a law."""

        def curve(curve: Curve) -> CurveRecord:
            return CurveRecord(slopes_s=curve.slopes_s, knots=curve.knots)

        return cls(
            fixed_s=law.fixed_s,
            decode=curve(law.decode),
            context=curve(law.context),
            prefill_fixed_s=law.prefill_fixed_s,
            prefill=curve(law.prefill),
            sequences=curve(law.sequences),
            pair_s=law.pair_s,
        )

    def law(self) -> StepLaw:
        """Return the law."""

        def curve(record: CurveRecord) -> Curve:
            return Curve(record.slopes_s, record.knots)

        return StepLaw(
            self.fixed_s,
            curve(self.decode),
            curve(self.context),
            self.prefill_fixed_s,
            curve(self.prefill),
            curve(self.sequences),
            self.pair_s,
        )


class PhaseRecord(_Record):
    """A `fit.PhaseFit`; errors are relative, 0.02 is two percent."""

    form: str
    points: int = Field(ge=1)
    median_error: Seconds
    p90_error: Seconds
    cv_median_error: Seconds
    cv_p90_error: Seconds

    @classmethod
    def of(cls, fit: PhaseFit | None) -> PhaseRecord | None:
        """Return the record of a phase, None for a phase that was not measured."""
        if fit is None:
            return None
        return cls(
            form=fit.form,
            points=fit.points,
            median_error=fit.median_error,
            p90_error=fit.p90_error,
            cv_median_error=fit.cv_median_error,
            cv_p90_error=fit.cv_p90_error,
        )


class PointRecord(_Record):
    """A `points.StepPoint`."""

    step_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    prefill_tokens: float = Field(default=0.0, ge=0)
    prefilled: int = Field(default=0, ge=0)
    batch: float = Field(default=0.0, ge=0)
    context_tokens: float = Field(default=0.0, ge=0)
    pairs: float | None = None


class Provenance(_Record):
    """Where the figures come from."""

    kind: Literal["measured", "composed", "inferred"]  # timed steps, sums of timed kernels, or from whole requests
    source: Name  # "profiled here" or a public data set
    from_catalog: bool = False  # bundled figures that stand in until something is measured
    licence: str | None = None  # of the source data
    note: str | None = None  # what a reader must know before trusting them


class Profile(_Record):
    """What was measured for one (model, accelerator, engine, engine version, arguments)."""

    format: Literal[1] = 1
    key: ProfileKey
    law: LawRecord
    provenance: Provenance
    decode: PhaseRecord | None = None  # how well the law explains decode steps
    prefill: PhaseRecord | None = None  # and steps with prefill
    prefill_tokens: tuple[float, float] = (0.0, 0.0)  # measured range
    batch: tuple[float, float] = (0.0, 0.0)  # measured range
    context_tokens: tuple[float, float] = (0.0, 0.0)  # measured range, summed over the batch
    load_s: Seconds | None = None  # engine start until it serves; None: not measured
    weight_bytes: int | None = Field(default=None, ge=0)
    kv_bytes_per_token: float | None = Field(default=None, ge=0)
    largest_batch: int | None = Field(default=None, ge=1)
    step_tokens: int | None = Field(default=None, ge=1)  # most tokens of one step; None: a prompt is never cut
    points: tuple[PointRecord, ...] = ()  # raw; empty in the catalog

    @model_validator(mode="after")
    def _is_in_seconds_and_bytes(self) -> Profile:
        check_seconds(self.step_law)
        check_bytes(self.weight_bytes, self.kv_bytes_per_token)
        return self

    @classmethod
    def of(
        cls,
        key: ProfileKey,
        fit: Fit,
        provenance: Provenance,
        points: tuple[StepPoint, ...] = (),
        *,
        load_s: float | None = None,
        weight_bytes: int | None = None,
        kv_bytes_per_token: float | None = None,
        largest_batch: int | None = None,
        step_tokens: int | None = None,
    ) -> Profile:
        """Return the profile of a fit."""
        return cls(
            key=key,
            law=LawRecord.of(fit.law),
            provenance=provenance,
            decode=PhaseRecord.of(fit.decode),
            prefill=PhaseRecord.of(fit.prefill),
            prefill_tokens=fit.prefill_tokens,
            batch=fit.batch,
            context_tokens=fit.context_tokens,
            load_s=load_s,
            weight_bytes=weight_bytes,
            kv_bytes_per_token=kv_bytes_per_token,
            largest_batch=largest_batch,
            step_tokens=step_tokens,
            points=tuple(
                PointRecord(
                    step_s=point.step_s,
                    prefill_tokens=point.prefill_tokens,
                    prefilled=point.prefilled,
                    batch=point.batch,
                    context_tokens=point.context_tokens,
                    pairs=point.pairs,
                )
                for point in points
            ),
        )

    def is_of_other_weights(self, weight_bytes: int | None) -> bool:
        """Whether the weights had another size when it was measured; False where either is not known."""
        return None not in (self.weight_bytes, weight_bytes) and self.weight_bytes != weight_bytes

    @property
    def step_law(self) -> StepLaw:
        """The law to predict with."""
        return self.law.law()

    @property
    def step_points(self) -> tuple[StepPoint, ...]:
        """The raw points, to fit again or to draw."""
        return tuple(StepPoint(**point.model_dump()) for point in self.points)


def fingerprint(live_profile: str) -> str:
    """Return what tells one announced profile from another, in a few bytes.

    >>> fingerprint("{}") == fingerprint("{}") != fingerprint('{"error": 0.1}')
    True
    """
    return f"{crc32(live_profile.encode()):08x}"


class LiveProfile(_Record):
    """What a replica announces of its profile: what predictions need, and no raw points."""

    law: LawRecord
    step_tokens: int | None = Field(default=None, ge=1)  # as in `Profile`
    error: Seconds | None = None  # cross-validated median error of decode steps, relative
    source: str = ""  # where the law is from, if it was not measured on such a replica

    @classmethod
    def of(cls, profile: Profile) -> LiveProfile:
        """Return what predictions need of a profile."""
        error = profile.decode.cv_median_error if profile.decode is not None else None
        return cls(law=profile.law, step_tokens=profile.step_tokens, error=error)

    def latency(self) -> Latency:
        """Return the latency figure of one call alone, for what reckons with a figure and not with the law."""
        law = self.law.law()
        first_s = law.fixed_s + law.prefill_fixed_s
        return Latency(
            first_token_s=first_s,
            prompt_token_s=(law.step_s(USUAL_TOKENS, 0, 0) - first_s) / USUAL_TOKENS,
            output_token_s=law.step_s(0, 1, USUAL_TOKENS),
        )

    def to_wire(self) -> str:
        """Write it as `Replica.profile` carries it."""
        return self.model_dump_json(exclude_defaults=True)

    @classmethod
    def from_wire(cls, text: str) -> LiveProfile:
        """Read what `to_wire` wrote."""
        return cls.model_validate_json(text)
