"""The series of one model-hosting worker on its own ``/metrics``: attempts as the engine saw them, and its state."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from dask_fmware.errors import EngineCrashedError
from dask_fmware.model.engine import EngineState
from dask_fmware.model.messages import AttemptEnded
from dask_fmware.observe.exposition import Family
from dask_fmware.observe.totals import Histogram
from dask_fmware_workers.loading import Labels, Loaded

__all__ = ["WorkerMetrics"]

WHO = ("worker", "model", "accelerator")


class WorkerMetrics:
    """Counts what a worker tells the scheduler of its attempts.

    Parameters
    ----------
    labels
        Of the worker.
    loaded
        Gives the engine that serves, or None.
    """

    def __init__(self, labels: Labels, loaded: Callable[[], Loaded | None]) -> None:
        self._who = (labels.worker, labels.model or "", labels.accelerator or "")
        self._loaded = loaded
        self._attempts: Counter[str] = Counter()  # by outcome
        self._tokens: Counter[str] = Counter()
        self._ttft: defaultdict[tuple[str, ...], Histogram] = defaultdict(Histogram)
        self._duration: defaultdict[tuple[str, ...], Histogram] = defaultdict(Histogram)

    def counting(self, send: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
        """Return what sends messages to the scheduler and counts the attempts among them."""

        def counted(message: dict[str, Any]) -> None:
            send(message)  # first: the slot of an attempt is not free until that has left
            if message.get("op") == AttemptEnded.op:  # made here, so there is nothing to check
                self._ended(AttemptEnded(**{k: v for k, v in message.items() if k != "op"}))

        return counted

    def _ended(self, attempt: AttemptEnded) -> None:
        self._attempts[attempt.outcome] += 1
        if attempt.outcome != "finished":
            return
        self._tokens["prompt"] += attempt.prompt_tokens
        self._tokens["cached"] += attempt.cached_tokens
        self._tokens["output"] += attempt.output_tokens
        if attempt.latency_s is not None:
            self._duration[self._who].add(attempt.latency_s)
        if attempt.ttft_s is not None:
            self._ttft[self._who].add(attempt.ttft_s)

    def series(self) -> Iterator[Family]:
        """Return all series; none for a light worker."""
        if not self._who[1]:
            return
        ended = Family("fmware_worker_attempts", "counter", "Attempts that ended, by outcome", (*WHO, "outcome"))
        yield ended.add_all({(*self._who, outcome): count for outcome, count in self._attempts.items()})
        tokens = Family("fmware_worker_tokens", "counter", "Tokens of attempts that finished, by kind", (*WHO, "kind"))
        yield tokens.add_all({(*self._who, kind): count for kind, count in self._tokens.items()})
        first = "Seconds from the request to its first token, as the engine answers"
        yield Family("fmware_worker_time_to_first_token_seconds", "histogram", first, WHO).add_histograms(self._ttft)
        whole = "Seconds from the request to its end, as the engine answers"
        yield Family("fmware_worker_duration_seconds", "histogram", whole, WHO).add_histograms(self._duration)
        loaded = self._loaded()
        serves = Family("fmware_worker_engine_serves", "gauge", "1 while the engine of the worker serves, else 0", WHO)
        serves.add(float(loaded is not None), *self._who)
        yield serves
        if loaded is not None:
            try:
                yield from self._engine(loaded.engine.state())
            except EngineCrashedError:
                return  # its host hears of it from its own reports

    def _engine(self, state: EngineState) -> Iterator[Family]:
        now = {
            "running_requests": ("Requests that hold a slot of the engine", float(state.running)),
            "waiting_requests": ("Requests that the engine has accepted and not started", float(state.waiting)),
            "kv_cache_used_ratio": ("Share of the KV cache in use", state.kv_used),
        }
        for name, (text, value) in now.items():
            if value is not None:
                family = Family(f"fmware_worker_engine_{name}", "gauge", text, WHO)
                family.add(value, *self._who)
                yield family
        since = {
            "prefix_queried_tokens": ("Prompt tokens looked up in the prefix cache", state.prefix_queried_tokens),
            "prefix_hit_tokens": ("Prompt tokens found in the prefix cache", state.prefix_hit_tokens),
            "preemptions": ("Requests that lost their place in the KV cache", state.preemptions),
        }
        for name, (text, count) in since.items():
            if count is not None:
                family = Family(f"fmware_worker_engine_{name}", "counter", text, WHO)
                family.add(count, *self._who)
                yield family
