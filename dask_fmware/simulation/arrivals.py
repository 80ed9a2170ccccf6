"""When runs arrive: at random times of a window, by a Poisson or gamma process, or as in a trace."""

from __future__ import annotations

import csv
import gzip
import random
import zlib
from collections.abc import Iterator
from functools import lru_cache
from math import inf, isfinite
from pathlib import Path
from typing import NamedTuple

from dask_fmware.errors import SpecError
from dask_fmware.simulation.scenario import GammaArrivals, PoissonArrivals, TraceArrivals, WindowArrivals

__all__ = ["Arrival", "arrivals", "trace", "version"]


REGULAR = 1e-12  # burstiness, below which all gaps are equal
COLUMNS = ("arrival_s", "prompt_tokens", "output_tokens")


class Arrival(NamedTuple):
    """One arrival; traces bring lengths along."""

    at: float
    prompt_tokens: int = 0
    output_tokens: int = 0


def arrivals(
    spec: WindowArrivals | PoissonArrivals | GammaArrivals | TraceArrivals, source: random.Random, rate: float | None
) -> Iterator[Arrival]:
    """Arrivals in order; `rate` replaces the one of `spec` (of a trace, it sets the time scale)."""
    match spec:
        case WindowArrivals():
            yield from (Arrival(at) for at in sorted(source.uniform(0.0, spec.window_s) for _ in range(spec.count)))
        case PoissonArrivals() | GammaArrivals():
            per_s = rate or spec.rate
            if per_s is None:
                raise SpecError("these arrivals have no rate of their own; give one, or a load")
            shape = _gamma_shape(spec, per_s) if isinstance(spec, GammaArrivals) else 1.0
            at = 0.0
            while (at := at + source.gammavariate(shape, 1.0 / shape) / per_s) < spec.duration_s:
                yield Arrival(at)
        case TraceArrivals():
            rows = trace(spec)
            scale = spec.time_scale or 1.0
            if rate is not None:
                scale = len(rows) / max(rows[-1].at - rows[0].at, 1e-9) / rate
            first, last = rows[0].at * scale, rows[-1].at * scale
            length = spec.duration_s or inf
            drawn = source.uniform(0.0, max(last - first - length, 0.0)) if length < inf else 0.0
            start = first + drawn if spec.start_s is None else spec.start_s * scale
            count = 0
            for row in rows:
                at = row.at * scale - start
                if 0.0 <= at < length:
                    count += 1
                    yield row._replace(at=at)
            if not count:
                raise SpecError(
                    f"trace {spec.path}: nothing arrives within {length:g} s from {start / scale:.10g} on its clock, "
                    f"which goes from {rows[0].at:.10g} to {rows[-1].at:.10g}; choose another start_s, or more time"
                )


def _gamma_shape(spec: GammaArrivals, rate: float) -> float:
    """Shape of the gaps; SpecError where a burst is as long as all arrivals, which then come at no such rate.

    A process that begins with an arrival has ``(burstiness - 1) / 2`` more of them than its rate says.
    """
    expected = rate * spec.duration_s
    if spec.burstiness > max(expected, 1.0):
        raise SpecError(
            f"arrivals: burstiness={spec.burstiness:g} is more than the {expected:g} runs expected in "
            f"duration_s={spec.duration_s:g} at {rate:g} runs a second, so that a single burst has more runs than "
            "all should be; give a burstiness of at most as many, or a longer duration_s"
        )
    return 1.0 / max(spec.burstiness, REGULAR)


def version(spec: TraceArrivals) -> tuple[int, int]:
    """Return what tells a trace from one that had its path before."""
    try:
        found = Path(spec.path).stat()
    except OSError as error:
        raise SpecError(f"trace {spec.path}: {error}") from error
    return found.st_mtime_ns, found.st_size


def trace(spec: TraceArrivals) -> list[Arrival]:
    """Return the rows of a trace, by time.

    Raises
    ------
    SpecError
        It cannot be read, or a row of it makes no sense.
    """
    return _trace(spec.path, version(spec))


@lru_cache(maxsize=8)
def _trace(path: str, _version: tuple[int, int]) -> list[Arrival]:
    try:
        data = Path(path).read_bytes()
        text = (gzip.decompress(data) if path.endswith(".gz") else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeError) as error:
        raise SpecError(f"trace {path}: {error}") from error
    rows = []
    for number, row in enumerate(csv.DictReader(text.splitlines()), start=2):
        try:
            at, prompt, output = (float(row[column]) for column in COLUMNS)
            if not (isfinite(at) and 0 <= prompt < inf and 0 <= output < inf):
                raise ValueError(f"got {at:g}, {prompt:g}, {output:g}")
            rows.append(Arrival(at, int(prompt), int(output)))
        except (KeyError, TypeError, ValueError) as error:
            raise SpecError(
                f"trace {path}, line {number}: needs numbers in the columns arrival_s, prompt_tokens and "
                f"output_tokens, finite and tokens not below 0 ({error})"
            ) from error
    if not rows:
        raise SpecError(f"trace {path}: no arrival in it")
    return sorted(rows)
