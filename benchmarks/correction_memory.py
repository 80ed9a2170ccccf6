"""How far the memory of a profile's correction should reach: recorded steps of an engine, foretold as they came.

    python -m benchmarks.prediction --engine llama.cpp --calls 1500 --seed 51 --reports steps.txt
    python -m benchmarks.correction_memory [steps.txt ...]

A line of a record is a report of some steps: seconds that the profile gives for their decode part and their prefill
part, and what they took. At each report the factors so far foretell what the next ones take together. Without files the
two records of `results/` are replayed: llama.cpp alone on the machine (seed 51), and beside a soak (seed 50).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.support.environment import RESULTS
from dask_fmware.profile.correction import Correction, ReplicaSpeed

AHEAD = (5, 15, 40)  # reports
WARM = 100  # reports that are not judged
Report = tuple[float, float, float]


class Single:
    """One correction with one memory, as `ReplicaSpeed` is used; none without a forgetting."""

    def __init__(self, forgetting: float | None) -> None:
        self.correction = Correction(forgetting=1.0 if forgetting is None else forgetting)
        self._learns = forgetting is not None

    def observe(self, decode_s: float, prefill_s: float, measured_s: float, now_s: float) -> None:
        if self._learns:
            self.correction = self.correction.updated(decode_s, prefill_s, measured_s)


def errors(speed: Single | ReplicaSpeed, reports: Sequence[Report]) -> list[float]:
    """Median relative error for each number of reports in `AHEAD`."""
    found: dict[int, list[float]] = {ahead: [] for ahead in AHEAD}
    for place, report in enumerate(reports):
        for ahead in AHEAD:
            if WARM < place <= len(reports) - ahead:
                decode_s, prefill_s, measured_s = map(sum, zip(*reports[place : place + ahead], strict=True))
                told_s = speed.correction.decode * decode_s + speed.correction.prefill * prefill_s
                found[ahead].append(abs(told_s / measured_s - 1))
        speed.observe(*report, float(place))
    return [median(some) for some in found.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    files = parser.parse_args().files or [RESULTS / "step_reports_alone.txt", RESULTS / "step_reports_soak.txt"]
    print("| factors |", " | ".join(path.stem for path in files), "|")
    print("|---|" + "---|" * len(files))
    records = [[tuple(map(float, line.split()[:3])) for line in path.read_text().splitlines()] for path in files]
    for name, make in (
        ("none: the profile as it is", lambda: Single(None)),
        ("a memory of 10 reports", lambda: Single(0.9)),
        ("a memory of 33 reports", lambda: Single(0.97)),
        ("a memory of 100 reports", lambda: Single(0.99)),
        ("memories of 100 and 5 and the profile, weighed (in use)", ReplicaSpeed),
    ):
        cells = [", ".join(f"{error:.1%}" for error in errors(make(), record)) for record in records]
        print(f"| {name} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
