"""Fitting a step-time law to measured steps, and saying how far to trust it.

Steps without prefill give the decode part; steps with prefill give the rest, with the decode part
held. In each part the plainest form wins unless cross-validation earns a richer one: a curve in place
of a straight line, a term for prompts beyond the first, a term for attention pairs. It knows
points, not where or when they were measured; the random generator that shuffles folds is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from dask_fmware.errors import SpecError
from dask_fmware.profile.basis import Column, curve_of, knots_for, matrix, smoothing_rows
from dask_fmware.profile.law import Curve, StepLaw
from dask_fmware.profile.points import PointTable, StepPoint
from dask_fmware.profile.solve import nonnegative_fit

__all__ = ["DecodeForm", "Fit", "PhaseFit", "PrefillForm", "cross_validate", "fit_law", "fit_phases"]

F = TypeVar("F")
Floats = NDArray[np.float64]
Bend = Literal["none", "line", "curve"]

NEEDED_DECODE = 6  # points; the plain decode law has three coefficients
NEEDED_PREFILL = 4  # points; the plain prefill law has two
NEEDED_FOR_CURVES = 8  # points of a phase below which only plain forms are tried
SMOOTHING = 1e-2  # penalty on relative change of slope; 1e-4 .. 1e-1 differ by less than half a point of median error
EARNED = 1.03  # a plainer form is kept while its score is within this factor of the best
LARGEST_ERROR = 0.5  # an error above it counts as this much in a score: one outlier shall not choose the form
FOLDS = 5


@dataclass(frozen=True, slots=True)
class DecodeForm:
    """Which quantities of a decode step get a curve."""

    batch_bends: bool = False
    context_bends: bool = False
    batch_counts: bool = True  # False: every batch is one sequence, whose cost is in the fixed part

    @property
    def name(self) -> str:
        """For tables."""
        bent = [name for name, on in (("batch", self.batch_bends), ("context", self.context_bends)) if on]
        return "curve in " + " and ".join(bent) if bent else "plain"


@dataclass(frozen=True, slots=True)
class PrefillForm:
    """Which terms a step with prefill gets."""

    tokens_bend: bool = False
    sequences: Bend = "none"  # cost of prompts beyond the first
    pairs: bool = False  # attention, quadratic in prompt length

    @property
    def name(self) -> str:
        """For tables."""
        terms = ["curve in tokens" if self.tokens_bend else "plain"]
        terms += [f"prompts ({self.sequences})"] if self.sequences != "none" else []
        terms += ["pairs"] if self.pairs else []
        return ", ".join(terms)


# from plain to rich: the first within EARNED of the best is taken
DECODE_FORMS = (DecodeForm(), DecodeForm(batch_bends=True), DecodeForm(batch_bends=True, context_bends=True))
SINGLE_FORMS = (DecodeForm(batch_counts=False), DecodeForm(context_bends=True, batch_counts=False))
_BENDS: tuple[Bend, ...] = ("none", "line", "curve")
PREFILL_FORMS = tuple(
    sorted(
        (PrefillForm(bend, more, pairs) for bend in (False, True) for more in _BENDS for pairs in (False, True)),
        key=lambda form: (2 * form.tokens_bend + _BENDS.index(form.sequences) + form.pairs, form.name),
    )
)


@dataclass(frozen=True, slots=True)
class PhaseFit:
    """How well one phase is explained; errors are relative, 0.02 is two percent."""

    form: str  # the form that cross-validation chose
    points: int  # measured steps of the phase
    median_error: float  # in-sample
    p90_error: float  # in-sample
    cv_median_error: float  # on points held out
    cv_p90_error: float  # on points held out


@dataclass(frozen=True, slots=True)
class Fit:
    """A law, its errors and the range in which they hold."""

    law: StepLaw
    decode: PhaseFit | None  # None where no step without prefill was measured
    prefill: PhaseFit | None  # None where no step with prefill was measured
    prefill_tokens: tuple[float, float]  # least and largest measured; (0, 0) without prefill
    batch: tuple[float, float]  # least and largest measured
    context_tokens: tuple[float, float]  # least and largest measured, summed over the batch


def fit_law(points: Sequence[StepPoint], rng: np.random.Generator, slots: int | None = None) -> Fit:
    """Fit the law of one (model, accelerator, engine) from steps of both phases.

    Parameters
    ----------
    points
        Measured steps.
    rng
        Shuffles the folds of cross-validation.
    slots
        Of the engine, if known: with one slot batches need not vary, and the law holds for one sequence at a time.

    Raises
    ------
    SpecError
        Too few points, points that do not vary, or a time that is not positive; says what is needed.
    """
    decode = sum(point.prefill_tokens <= 0 for point in points)
    _require("decode", decode, NEEDED_DECODE, "steps without prefill")
    _require("prefill", len(points) - decode, NEEDED_PREFILL, "steps with prefill")
    return fit_phases(points, rng, slots)


def fit_phases(points: Sequence[StepPoint], rng: np.random.Generator, slots: int | None = None) -> Fit:
    """Fit whichever phases were measured; a phase without points has no cost in the law (see `fit_law`)."""
    table = PointTable.of(points)
    decode, prefill = table.only(table.tokens <= 0), table.only(table.tokens > 0)
    law = StepLaw()
    decode_fit = prefill_fit = None
    if decode.size:
        _require("decode", decode.size, NEEDED_DECODE, "steps without prefill")
        is_single = slots == 1 and bool(np.all(decode.batch == 1))
        if not is_single:
            _require_varied("decode", "batch", decode.batch)
        forms = SINGLE_FORMS if is_single else DECODE_FORMS
        form, errors = _choose(forms, decode, lambda form, part: _fit_decode(part, form), rng)
        law = _fit_decode(decode, form)
        decode_fit = _phase_fit(form.name, decode, law, errors)
    if prefill.size:
        _require("prefill", prefill.size, NEEDED_PREFILL, "steps with prefill")
        _require_varied("prefill", "prefill_tokens", prefill.tokens)
        held = law
        chosen, errors = _choose(PREFILL_FORMS, prefill, lambda form, part: _fit_prefill(part, form, held), rng)
        law = _fit_prefill(prefill, chosen, held)
        prefill_fit = _phase_fit(chosen.name, prefill, law, errors)
    return Fit(law, decode_fit, prefill_fit, _range(prefill.tokens), _range(table.batch), _range(table.context))


def cross_validate(points: Sequence[StepPoint], rng: np.random.Generator, folds: int = FOLDS) -> tuple[Floats, Floats]:
    """Relative errors of (decode, prefill) steps, each predicted by a law chosen and fitted without it."""
    table = PointTable.of(points)
    errors = np.zeros(table.size)
    for held_out in _folds(table.size, folds, rng):
        kept = [point for point, out in zip(points, held_out, strict=True) if not out]
        law = fit_phases(kept, rng).law
        errors[held_out] = table.only(held_out).errors(law)
    return errors[table.tokens <= 0], errors[table.tokens > 0]


def _fit_decode(part: PointTable, form: DecodeForm) -> StepLaw:
    batch = Column(part.batch, knots_for(part.batch) if form.batch_bends else ())
    context = Column(part.context, knots_for(part.context) if form.context_bends else ())
    columns = [Column(np.ones(part.size)), *([batch] if form.batch_counts else []), context]
    fixed, *of_batch, of_context = _solve(columns, part.step_s, part.step_s)
    decode = curve_of(batch, of_batch[0]) if of_batch else Curve()
    return StepLaw(float(fixed[0]), decode, curve_of(context, of_context))


def _fit_prefill(part: PointTable, form: PrefillForm, held: StepLaw) -> StepLaw:
    rest_s = part.step_s - held.steps_s(0, part.batch, part.context)
    further = part.prompts - 1
    columns = [
        Column(np.ones(part.size)),
        Column(part.tokens, knots_for(part.tokens) if form.tokens_bend else ()),
        Column(further, knots_for(further) if form.sequences == "curve" else ()),
        Column(part.pairs),
    ]
    used = [True, True, form.sequences != "none" and bool(np.any(further > 0)), form.pairs]
    solved = iter(_solve([column for column, on in zip(columns, used, strict=True) if on], rest_s, part.step_s))
    fixed, tokens, sequences, pairs = (next(solved) if on else None for on in used)
    assert fixed is not None  # the first two are always used
    assert tokens is not None
    return StepLaw(
        held.fixed_s,
        held.decode,
        held.context,
        float(fixed[0]),
        curve_of(columns[1], tokens),
        Curve() if sequences is None else curve_of(columns[2], sequences),
        0.0 if pairs is None else float(pairs[0]),
    )


def _solve(columns: list[Column], target_s: Floats, scale_s: Floats) -> list[Floats]:
    """Fit the columns; one array of slopes for each."""
    found = nonnegative_fit(matrix(columns), target_s, scale_s, smoothing_rows(columns, scale_s, SMOOTHING))
    ends = np.cumsum([len(column.knots) + 1 for column in columns])
    return np.split(found, ends[:-1])


def _choose(
    forms: Sequence[F], table: PointTable, fit: Callable[[F, PointTable], StepLaw], rng: np.random.Generator
) -> tuple[F, Floats]:
    """Return the plainest form within `EARNED` of the best, and its errors on points held out."""
    folds = _folds(table.size, FOLDS, rng)
    tried: list[tuple[float, F, Floats]] = []
    for form in forms if table.size >= NEEDED_FOR_CURVES else forms[:1]:
        errors = np.zeros(table.size)
        for held_out in folds:
            errors[held_out] = table.only(held_out).errors(fit(form, table.only(~held_out)))
        tried.append((float(np.mean(np.minimum(errors, LARGEST_ERROR))), form, errors))
    best = min(score for score, _form, _errors in tried)
    return next((form, errors) for score, form, errors in tried if score <= best * EARNED + 1e-4)


def _folds(size: int, folds: int, rng: np.random.Generator) -> list[NDArray[np.bool_]]:
    fold = rng.permutation(size) % min(folds, size)
    return [fold == index for index in range(min(folds, size))]


def _phase_fit(form: str, part: PointTable, law: StepLaw, held_out: Floats) -> PhaseFit:
    seen = part.errors(law)
    median, p90, cv_median, cv_p90 = (float(np.quantile(errors, q)) for errors in (seen, held_out) for q in (0.5, 0.9))
    return PhaseFit(form, part.size, median, p90, cv_median, cv_p90)


def _range(values: Floats) -> tuple[float, float]:
    return (float(np.min(values)), float(np.max(values))) if len(values) else (0.0, 0.0)


def _require(phase: str, found: int, needed: int, what: str) -> None:
    if found < needed:
        raise SpecError(
            f"too few points to fit the {phase} law: {found} {what}, at least {needed} needed; "
            f"measure {needed - found} more"
        )


def _require_varied(phase: str, name: str, values: Floats) -> None:
    if len(np.unique(values)) < 2:
        raise SpecError(
            f"the {phase} law cannot be fitted: all {len(values)} points have {name} = {values[0]:g}; "
            "measure at least 2 different values"
        )
