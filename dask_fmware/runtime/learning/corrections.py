"""Profiles as they hold at present: each replica's law, corrected from the steps that it reports, and how sure that is.

Every replica has factors of its own, because one of many may be slow; a new one starts with the median of those of
its kind (model, accelerator, engine, version). How long calls take beside what was expected of them is kept by model,
accelerator and band of load. It decides nothing, and a profile stands for exactly the kind that it was made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from statistics import median
from typing import TypeAlias

from dask_fmware.model.messages import StepsTimed
from dask_fmware.model.replica import Replica
from dask_fmware.model.report import AttemptReport
from dask_fmware.profile.correction import Correction, ReplicaSpeed
from dask_fmware.profile.drift import Drift
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.quantiles import ConformalQuantile, RatioQuantile
from dask_fmware.profile.record import LiveProfile, fingerprint
from dask_fmware.runtime.learning.handover import HandOver
from dask_fmware.spec.deployment import Latency

__all__ = ["CorrectedReplica", "Corrections", "Pace", "Prediction"]

Kind: TypeAlias = tuple[str, str, str, str]  # model, accelerator, engine, engine version

SETTLED = 10  # reports of a replica, after which others learn from it
APART = 0.05  # of the logarithm of a factor: nearer corrections are not worth another view of the replica
BOUND = 0.9  # quantile of durations that is told beside the expected one
STRETCH = 0.5  # quantile of measured over expected duration that policies reckon with


@dataclass(slots=True)
class CorrectedReplica:
    """One replica whose profile is known."""

    replica: Replica
    profiled: StepLaw
    fingerprint: str  # of the profile that the steps are compared with; "" for a law that no worker knows
    speed: ReplicaSpeed = field(default_factory=ReplicaSpeed)
    law: StepLaw = field(init=False)  # as it is used
    latency: Latency = field(init=False)  # of the replica, as it is used
    decode: float = field(init=False, default=1.0)  # factors that are applied
    prefill: float = field(init=False, default=1.0)
    reports: int = 0

    def __post_init__(self) -> None:
        self.apply()

    @property
    def correction(self) -> Correction:
        """Factors on the profile, as the latest steps have them."""
        return self.speed.correction

    def observe(self, message: StepsTimed, now: float) -> bool:
        """Learn from steps; True if the law that is used has changed."""
        for decode_s, prefill_s, measured_s, _steps in message.steps:
            if decode_s + prefill_s > 0 and measured_s > 0:
                self.reports += 1
                self.speed.observe(decode_s, prefill_s, measured_s, now)
        made = self.correction
        if abs(log(made.decode / self.decode)) < APART and abs(log(made.prefill / self.prefill)) < APART:
            return False
        self.apply()
        return True

    def apply(self) -> None:
        """Use the correction as it stands."""
        self.decode, self.prefill = self.correction.decode, self.correction.prefill
        self.law, figure = self.correction.corrected(self.profiled), self.replica.latency
        self.latency = Latency(
            first_token_s=figure.first_token_s * self.decode,
            prompt_token_s=figure.prompt_token_s * self.prefill,
            output_token_s=figure.output_token_s * self.decode,
        )


@dataclass(slots=True)
class Prediction:
    """What is expected of a call when it is given to a replica, in seconds from then."""

    band: int  # of the replica's load, see `load_band`
    first_by_law_s: float  # first token, by the law as it is corrected
    by_law_s: float  # completion
    ttft_s: float  # the same two with what finished calls taught
    latency_s: float
    bound_s: float  # that nine of ten such calls stay within


class Pace:
    """What finished calls taught of replicas of one model and accelerator, beside what was expected of them.

    What is expected of a call when it starts knows who runs beside it, and not who will come: prompts of those slow its
    tokens. What that did to the latest calls in the same band of load is the best guess of what it will do. It does
    it to tokens after the first, and hardly to that one, so that long answers are stretched more than short ones.

    `first`, `rest` and `bound` are for what is told of a call. Policies reckon with `stretch`, of calls that answer
    nobody, and `handover`.
    """

    __slots__ = ("bound", "first", "handover", "rest", "stretch")

    def __init__(self) -> None:
        self.first, self.rest = (ConformalQuantile(0.5, window=60, step=0.02, needed=10) for _ in range(2))
        self.bound = ConformalQuantile(BOUND)
        self.stretch = RatioQuantile(STRETCH)
        self.handover = HandOver()

    def predict(self, band: int, first_s: float, rest_s: float) -> Prediction:
        """Predict a call that should take so long to its first token and from there on."""
        ttft_s = first_s * self.first.factor(band)
        latency_s = ttft_s + rest_s * self.rest.factor(band)
        return Prediction(band, first_s, first_s + rest_s, ttft_s, latency_s, latency_s * self.bound.factor(band))

    def observe(self, attempt: AttemptReport, hidden_s: float = 0.0) -> None:
        """Take note of a call that has finished, and of what was predicted of it.

        The first token of its engine came `hidden_s` before the first that was seen.
        """
        first_s, by_law_s, predicted_s = attempt.first_by_law_s, attempt.by_law_s, attempt.predicted_s
        if first_s is None or by_law_s is None or predicted_s is None or attempt.ended_at is None:
            return
        if attempt.first_token_at is not None:
            first_at = attempt.first_token_at - hidden_s
            self.first.observe(attempt.band, first_s, first_at - attempt.started_at)
            if attempt.output_tokens > 1:
                self.rest.observe(attempt.band, by_law_s - first_s, attempt.ended_at - first_at)
        self.bound.observe(attempt.band, predicted_s, attempt.ended_at - attempt.started_at, attempt.bound_s)


class Corrections:
    """The corrected profiles of a fleet.

    Parameters
    ----------
    laws
        Step-time laws by model and accelerator that are known without a worker's telling.
    """

    def __init__(self, laws: Mapping[tuple[str, str], StepLaw] | None = None) -> None:
        self._given = dict(laws or {})
        self._profiles: dict[Kind, str] = {}  # latest profile that a replica of the kind announced
        self._replicas: dict[str, CorrectedReplica | None] = {}  # None: asked for, and no profile is known
        self._learnt: dict[Kind, tuple[str, float, float]] = {}  # of kinds without a replica: profile, factors
        self._paces: dict[tuple[str, str], Pace] = {}

    def add(self, replica: Replica) -> None:
        """Take in a replica, or its new profile, and let others of its kind use what it knows."""
        kind = _kind(replica)
        if replica.profile is not None and self._profiles.get(kind) != replica.profile:
            self._profiles[kind] = replica.profile
            self._replicas = {
                replica_id: known
                for replica_id, known in self._replicas.items()
                if known is not None and (known.replica.profile is not None or _kind(known.replica) != kind)
            }
        self._replicas.pop(replica.replica_id, None)
        self.of(replica)

    def remove(self, replica: Replica) -> None:
        """Forget a replica; what it was like stays known of its kind."""
        gone = self._replicas.pop(replica.replica_id, None)
        if gone is not None and gone.reports >= SETTLED:
            self._learnt[_kind(replica)] = gone.fingerprint, gone.correction.decode, gone.correction.prefill

    def of(self, replica: Replica) -> CorrectedReplica | None:
        """Return what is known of a replica, None without a profile of its kind."""
        try:
            return self._replicas[replica.replica_id]
        except KeyError:
            made = self._replicas[replica.replica_id] = self._made(replica)
            return made

    def usual(self, replicas: Sequence[Replica]) -> StepLaw | None:
        """Return the law of replicas of one kind as most of them run; None without a profile of the kind.

        One of them may be slow, so its factors are not those of the kind.
        """
        known = [found for replica in replicas if (found := self.of(replica)) is not None]
        if not known:
            return None
        usual = Correction(median(one.decode for one in known), median(one.prefill for one in known))
        return usual.corrected(known[0].profiled)

    def _made(self, replica: Replica) -> CorrectedReplica | None:
        text = replica.profile or self._profiles.get(_kind(replica))
        if text is not None:
            law = LiveProfile.from_wire(text).law.law()
        elif (given := self._given.get((replica.model, replica.accelerator))) is not None:
            law = given
        else:
            return None
        mark = "" if text is None else fingerprint(text)
        return CorrectedReplica(replica, law, mark, ReplicaSpeed(self._start(_kind(replica), mark)))

    def _start(self, kind: Kind, mark: str) -> Correction:
        """What a new replica is taken to be like: the median of its kind, or the last that was."""
        alike = [
            known.correction
            for known in self._replicas.values()
            if known is not None
            and known.reports >= SETTLED
            and known.fingerprint == mark
            and _kind(known.replica) == kind
        ]
        if alike:
            return Correction(median(c.decode for c in alike), median(c.prefill for c in alike))
        learnt = self._learnt.get(kind)
        return Correction(learnt[1], learnt[2]) if learnt is not None and learnt[0] == mark else Correction()

    def observe(self, message: StepsTimed, now: float) -> bool:
        """Learn from the steps of a replica; True if its law has changed. Steps beside another profile are ignored."""
        known = self._replicas.get(message.replica_id)
        if known is None or not message.steps or message.profile != known.fingerprint:
            return False
        return known.observe(message, now)

    def drift(self, replica_id: str) -> Drift | None:
        """Return how far a replica runs off its profile, if that lasts."""
        known = self._replicas.get(replica_id)
        return known.speed.detector.drift if known is not None else None

    def pace(self, model: str, accelerator: str) -> Pace:
        """Return how long calls take beside what was expected of them."""
        kind = model, accelerator
        found = self._paces.get(kind)
        if found is None:
            found = self._paces[kind] = Pace()
        return found


def _kind(replica: Replica) -> Kind:
    return replica.model, replica.accelerator, replica.engine, replica.engine_version
