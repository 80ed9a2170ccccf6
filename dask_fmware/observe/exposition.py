"""Series for Prometheus, as plain values, and the one collector of a process that hands them to its registry.

Every name says its unit; all names, with types and help, are listed in ``docs/metrics.md``. Sources are asked when
somebody scrapes and at no other time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

from dask_fmware.observe.totals import BOUNDS_S, Histogram

__all__ = ["Family", "Source", "expose", "withdraw"]


@dataclass(slots=True)
class Family:
    """All samples of one name."""

    name: str  # without the `_total` of counters
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    samples: list[tuple[str, dict[str, str], float]] = field(default_factory=list)  # (suffix, labels, value)

    def add(self, value: float, *labels: str) -> None:
        """Add the value for some labels."""
        self.add_with(dict(zip(self.labels, labels, strict=True)), value)

    def add_with(self, labels: dict[str, str], value: float) -> None:
        """Add the value for labels that are a dictionary already."""
        self.samples.append(("_total" if self.kind == "counter" else "", labels, value))

    def add_all(self, values: Mapping[Any, float]) -> Family:
        """Add what is counted by one label, or by tuples of them."""
        for key, value in values.items():
            self.add(value, *((key,) if isinstance(key, str) else key))
        return self

    def add_histograms(self, histograms: Mapping[Any, Histogram]) -> Family:
        """Add histograms by one label, or by tuples of them."""
        for key, histogram in histograms.items():
            labels = dict(zip(self.labels, (key,) if isinstance(key, str) else key, strict=True))
            counts = list(accumulate(histogram.counts))
            for bound, count in zip([*map(str, BOUNDS_S), "+Inf"], counts, strict=True):
                self.samples.append(("_bucket", {**labels, "le": bound}, count))
            self.samples.append(("_count", labels, counts[-1]))
            self.samples.append(("_sum", labels, histogram.sum_s))
        return self


Source = Callable[[], Iterable[Family]]

_sources: list[Source] = []  # of this process: its schedulers and workers
_is_registered = False


class _Collector:
    """Asks all sources of this process; families of the same name are one."""

    def collect(self) -> Iterator[Any]:
        """Return the metrics that `prometheus_client` writes; of equal series the one of the newest source."""
        from prometheus_client import Metric

        merged: dict[str, Any] = {}
        seen: dict[str, set[Any]] = {}
        for source in reversed(_sources):
            for family in source():
                name = family.name
                metric = merged.get(name)
                if metric is None:
                    metric = merged[name] = Metric(name, family.help, family.kind)
                    fresh = family.samples
                else:
                    known = seen.setdefault(name, set())
                    known.update((s.name, *sorted(s.labels.items())) for s in metric.samples[len(known) :])
                    fresh = [s for s in family.samples if (name + s[0], *sorted(s[1].items())) not in known]
                for suffix, labels, value in fresh:
                    metric.add_sample(name + suffix, labels, value)
        return iter(merged.values())

    def describe(self) -> Sequence[Any]:
        """Nothing in advance: what there is depends on what ran."""
        return ()


def expose(source: Source) -> bool:
    """Offer series on this process's ``/metrics``; False where `prometheus_client` is not installed."""
    global _is_registered
    try:
        from prometheus_client import REGISTRY
    except ImportError:
        return False
    if not _is_registered:
        REGISTRY.register(_Collector())
        _is_registered = True
    _sources.append(source)
    return True


def withdraw(source: Source) -> None:
    """Offer them no more."""
    if source in _sources:
        _sources.remove(source)
