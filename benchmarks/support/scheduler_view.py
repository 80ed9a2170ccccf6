"""What a scheduler knows of one replica, and the predictions it makes from that.

Messages reach it late, prompts are bytes to it, lengths of answers come from history. It never looks
into the engine. Used by `benchmarks.prediction`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from dask_fmware.profile.correction import ReplicaSpeed
from dask_fmware.profile.drift import Drift
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.lengths import OutputLengths
from dask_fmware.profile.projection import Estimate, Projection
from dask_fmware.profile.quantiles import ConformalQuantile, load_band
from dask_fmware.profile.replica import Limits, ReplicaLoad, SequenceState
from dask_fmware.profile.step_report import StepReport

RECENT = 20  # calls in the moving average
FOLLOWERS = 40  # calls that are assumed to come behind a candidate, at most


@dataclass(slots=True)
class Known:
    """One call, as far as messages say."""

    node: str
    prompt_bytes: int
    max_tokens: int
    submitted_s: float
    tokens: int = 0  # at `seen_s`
    seen_s: float = 0.0
    first_s: float | None = None
    running_since_s: float | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """Of one call, when it was submitted."""

    band: int
    waiting_share: float  # of TTFT, corrected
    ttft_s: dict[str, float]  # by predictor
    latency_s: dict[str, float]
    ttft_p90_s: float
    latency_p90_s: float
    decode_s: float  # from the first token on, before what was learnt of the pace of finished calls


@dataclass(slots=True)
class SchedulerView:
    """One replica: its profile, its calls, and what was learned of both."""

    law: StepLaw
    limits: Limits
    calls: dict[str, Known] = field(default_factory=dict)  # in order of submission
    speed: ReplicaSpeed = field(default_factory=ReplicaSpeed)
    lengths: OutputLengths = field(default_factory=OutputLengths)
    tokens_per_byte: float = 0.25
    pace: ConformalQuantile = field(default_factory=lambda: ConformalQuantile(0.5, window=60, step=0.02, needed=10))
    upper: dict[str, ConformalQuantile] = field(default_factory=dict)
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    finished: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=50))  # prompt and output tokens
    drifts: list[Drift] = field(default_factory=list)
    reports: list[tuple[float, float, float]] = field(default_factory=list)  # profiled decode and prefill, measured

    def __post_init__(self) -> None:
        for what in ("ttft", "latency"):
            self.upper[what] = ConformalQuantile(0.9, window=200, step=0.01, needed=20)

    # -- messages --------------------------------------------------------------------------------

    def submitted(self, call_id: str, known: Known, now: float) -> None:
        self.calls[call_id] = known
        self._admit(now)

    def progress(self, call_id: str, tokens: int, now: float) -> None:
        if (known := self.calls.get(call_id)) is not None:
            known.tokens, known.seen_s = tokens, now
            known.first_s = now if known.first_s is None else known.first_s

    def stepped(self, report: StepReport, now: float) -> None:
        self.reports.append((report.decode_s, report.prefill_s, report.measured_s))
        before = self.speed.detector.drift
        self.speed.observe(report.decode_s, report.prefill_s, report.measured_s, now)
        after = self.speed.detector.drift
        if after is not None and before is None:
            self.drifts.append(after)

    def ended(
        self, call_id: str, prompt_tokens: int, output_tokens: int, ttft_s: float, latency_s: float,
        predicted: Prediction, now: float,
    ) -> None:  # fmt: skip
        known = self.calls.pop(call_id)
        self._admit(now)
        self.lengths.observe("benchmark", known.node, output_tokens)
        self.tokens_per_byte += 0.05 * (prompt_tokens / known.prompt_bytes - self.tokens_per_byte)
        self.recent.append(ttft_s)
        for what, point_s, took_s, bound_s in (
            ("ttft", predicted.ttft_s["corrected"], ttft_s, predicted.ttft_p90_s),
            ("latency", predicted.latency_s["corrected"], latency_s, predicted.latency_p90_s),
        ):
            self.upper[what].observe(predicted.band, point_s, took_s, bound_s)
        if output_tokens > 1:
            self.pace.observe(predicted.band, predicted.decode_s, latency_s - ttft_s)
            self.finished.append((prompt_tokens, output_tokens))

    def _admit(self, now: float) -> None:
        for known in list(self.calls.values())[: self.limits.slots]:
            if known.running_since_s is None:
                known.running_since_s = now

    # -- predictions -----------------------------------------------------------------------------

    def predict(self, node: str, prompt_bytes: int, max_tokens: int, now: float) -> Prediction:
        prompt = max(1, round(prompt_bytes * self.tokens_per_byte))
        output = self.lengths.quantile("benchmark", node, 0.5, max_tokens)
        candidate = SequenceState(prompt, output)
        band = load_band(
            min(len(self.calls), self.limits.slots), len(self.calls) - self.limits.slots, self.limits.slots
        )
        corrected = self.speed.correction.corrected(self.law)
        static, steps = (self._estimate(law, candidate, now) for law in (self.law, corrected))
        # Who comes behind a call slows its tokens too, and no queue at present tells of them: calls like the latest
        # take the slots that get free, and what that did in this band of load is learnt.
        decode_s = steps.completion_s - steps.ttft_s
        if len(self.calls) >= self.limits.slots and self.finished and output > 1:
            load, age_s = self.load(corrected, now)
            mean = SequenceState(*(round(sum(part) / len(self.finished)) for part in zip(*self.finished, strict=True)))
            followers = [mean] * min(2 + 2 * self.limits.slots * output // mean.output_tokens, FOLLOWERS)
            crowded = Projection(load, self.limits, corrected)
            decode_s = crowded.completion_s(candidate, followers, age_s) - crowded.ttft_s(candidate, age_s)
        latency_s = steps.ttft_s + decode_s * self.pace.factor(band)
        average = sum(self.recent) / len(self.recent) if self.recent else steps.ttft_s
        return Prediction(
            band,
            (steps.l_r_s + steps.l_q_s) / steps.ttft_s,
            {"static": static.ttft_s, "corrected": steps.ttft_s, "average": average},
            {"static": static.completion_s, "projected": steps.completion_s, "corrected": latency_s},
            self.upper["ttft"].factor(band) * steps.ttft_s,
            self.upper["latency"].factor(band) * latency_s,
            decode_s,
        )

    def _estimate(self, law: StepLaw, candidate: SequenceState, now: float) -> Estimate:
        load, age_s = self.load(law, now)
        return Projection(load, self.limits, law).estimate(candidate, after_s=age_s)

    def load(self, law: StepLaw, now: float) -> tuple[ReplicaLoad, float]:
        """The replica when its current step began, as far as messages and the law say, and how long ago that was."""
        calls = list(self.calls.values())
        running = calls[: self.limits.slots]
        decoding = [known for known in running if known.tokens]
        prefilling = [known for known in running if not known.tokens]
        step_s = law.step_s(0, len(decoding), sum(self._prompt(k) + k.tokens for k in decoding)) if decoding else 0.0
        seen_s = max((known.seen_s for known in decoding), default=0.0)
        began_s = now
        if prefilling:  # since it was admitted, or since the prompt before it was done
            firsts = [known.first_s for known in running if known.first_s is not None]
            began_s = min(now, max([prefilling[0].running_since_s or 0.0, *firsts]))
        elif decoding:
            began_s = seen_s + int(max(now - seen_s, 0.0) / step_s) * step_s
        states = []
        for known in running:
            tokens = known.tokens + (round(max(began_s - known.seen_s, 0.0) / step_s) if known.tokens else 0)
            wanted = self.lengths.quantile("benchmark", known.node, 0.5, known.max_tokens, tokens)
            states.append(SequenceState(self._prompt(known), wanted, 0, min(tokens, wanted - 1) if tokens else 0))
        waiting = [
            SequenceState(self._prompt(k), self.lengths.quantile("benchmark", k.node, 0.5, k.max_tokens))
            for k in calls[self.limits.slots :]
        ]
        return ReplicaLoad(tuple(states), tuple(waiting)), now - began_s

    def _prompt(self, known: Known) -> int:
        return max(1, round(known.prompt_bytes * self.tokens_per_byte))
