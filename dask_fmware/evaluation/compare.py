"""`fm.compare`: two outputs over the same rows, score by score, with a test of each difference."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dask_fmware.errors import SpecError
from dask_fmware.evaluation.fingerprint.mark import is_same
from dask_fmware.evaluation.output import Manifest, OutputError, read_output
from dask_fmware.evaluation.record import INPUT, SCORE
from dask_fmware.evaluation.statistics import CONFIDENCE, Difference, difference, holm
from dask_fmware.spec.columns import in_columns

__all__ = ["Change", "Comparison", "Measure", "compare"]

FIGURES = {"failed": "error", "ttft_s": "ttft_s", "latency_s": "latency_s", "tokens": "output_tokens", "cost": "cost"}
CHANGES = 12  # rows of the largest differences that a report shows
LONGEST = 1500  # characters of an answer that it shows


@dataclass(frozen=True, slots=True)
class Measure:
    """One column of both outputs, compared."""

    name: str
    is_score: bool  # more is better; of all others less is
    difference: Difference
    p: float | None  # corrected for the number of measures (Holm)

    @property
    def verdict(self) -> Literal["better", "worse", "no difference shown"]:
        """What the test says of B, at 5 %."""
        if self.p is None or self.p > 1 - CONFIDENCE or self.difference.mean == 0:
            return "no difference shown"
        return "better" if (self.difference.mean > 0) is self.is_score else "worse"


@dataclass(frozen=True, slots=True)
class Change:
    """A row whose score differs."""

    id: str
    score: str
    a: float
    b: float
    inputs: dict[str, str | None]
    answer_a: str | None
    answer_b: str | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two outputs side by side; prints as a table, `to_html` writes a report.

    Attributes
    ----------
    a, b
        Their names.
    rows
        Rows that both have.
    only_a, only_b
        Rows that only one has; they are left out.
    notes
        What a reader should know before the figures.
    measures
        Scores first, then failures, times, tokens and cost.
    changes
        Rows with the largest differences in score.
    """

    a: str
    b: str
    rows: int
    only_a: int
    only_b: int
    notes: tuple[str, ...]
    measures: tuple[Measure, ...]
    changes: tuple[Change, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values, without answers."""
        made = asdict(self)
        del made["changes"]
        for measure, item in zip(self.measures, made["measures"], strict=True):
            item["verdict"] = measure.verdict
        return made

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write a report of one file that needs nothing else; OutputError where it cannot be written."""
        from dask_fmware.evaluation.html import page

        try:
            Path(path).write_text(page(self), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"'{path}' cannot be written ({error.strerror or error})") from None

    def _repr_html_(self) -> str:
        from dask_fmware.evaluation.html import fragment

        return fragment(self)

    def __str__(self) -> str:
        head = ("", "A", "B", "B - A", "95 %", "p", "higher", "lower", "B is")
        table = [head, *(tuple(cells(measure)) for measure in self.measures)]
        rows = f"{self.rows:,} rows in both"
        if self.only_a or self.only_b:
            rows += f"; left out: {self.only_a:,} that only A has, {self.only_b:,} that only B has"
        return "\n".join([f"A  {self.a}", f"B  {self.b}", *self.notes, rows, "", *in_columns(table)])

    __repr__ = __str__


def compare(
    a: str | os.PathLike[str], b: str | os.PathLike[str], *, scores: str | Sequence[str] | None = None
) -> Comparison:
    """Compare two outputs of evaluations row by row.

    Each measure is tested on the rows that both have: McNemar's exact test for truth values, a permutation test of
    the mean difference for others, corrected for the number of measures by Holm's method.

    Parameters
    ----------
    a, b
        Folders of two outputs, what `fm.evaluate` returned of them, or Parquet files with their columns.
    scores
        Names of scores, or one of them; all that both have by default.

    Returns
    -------
    Comparison
        Measures with means, difference, 95 % interval and corrected p; prints as a table, `to_html` writes a report.

    Raises
    ------
    SpecError
        If there is no such output or score, or the two are of different data.
    OutputError
        If a shard cannot be read.

    Examples
    --------
    >>> fm.compare("small.parquet", "large.parquet")  # doctest: +SKIP
    """
    from importlib.util import find_spec

    for package in ("pyarrow", "scipy"):
        if find_spec(package) is None:
            raise SpecError(f'fm.compare needs {package}; pip install "dask-fmware[evaluate]"')
    paths = Path(a), Path(b)
    tables = [read_output(path) for path in paths]
    manifests = [Manifest.read(path) if path.is_dir() else None for path in paths]
    notes = _notes(paths, manifests)
    for path, table in zip(paths, tables, strict=True):
        _check_columns(path, table)
    ids = _names(manifests, tables)
    at = [{name: index for index, name in enumerate(listed)} for listed in ids]
    for path, listed, index in zip(paths, ids, at, strict=True):
        if len(index) < len(listed):
            raise SpecError(f"{path}: its rows share ids; evaluate with an id_column whose values differ")
    shared = [name for name in ids[0] if name in at[1]]
    if not shared:
        raise SpecError(f"{paths[0]} and {paths[1]} have no row in common (ids such as {ids[0][:1]} and {ids[1][:1]})")
    takes = [np.array([index[name] for name in shared]) for index in at]
    kept = [table.take(take) for table, take in zip(tables, takes, strict=True)]
    wanted = _scores(paths, tables, [scores] if isinstance(scores, str) else scores)
    first, second = kept
    found = [(name, True, difference(_floats(first[SCORE + name]), _floats(second[SCORE + name]))) for name in wanted]
    for name, column in FIGURES.items():
        found.append((name, False, difference(_figure(first, column), _figure(second, column))))
    sound = [(name, is_score, made) for name, is_score, made in found if made is not None]
    corrected = holm([made.p for _, _, made in sound])
    measures = tuple(Measure(*item, p) for item, p in zip(sound, corrected, strict=True))
    fewer = [f"{m.name} {m.difference.rows:,}" for m in measures if m.difference.rows < len(shared)]
    if fewer:
        notes.append(
            f"some of the {len(shared):,} rows have no figure in A or B, as those that failed; rows compared: "
            f"{', '.join(fewer)}"
        )
    return Comparison(
        str(paths[0]),
        str(paths[1]),
        len(shared),
        len(ids[0]) - len(shared),
        len(ids[1]) - len(shared),
        tuple(notes),
        measures,
        tuple(_changes(first["id"].to_pylist(), kept, wanted)),
    )


def cells(measure: Measure) -> list[str]:
    """Return a measure as the words of a table."""
    d = measure.difference
    interval = "-" if d.low is None else f"{number(d.low, signed=True)} to {number(d.high, signed=True)}"
    p = "-" if measure.p is None else "<0.001" if measure.p < 0.001 else f"{measure.p:.3f}"
    return [
        measure.name,
        number(d.a.mean),
        number(d.b.mean),
        number(d.mean, signed=True),
        interval,
        p,
        f"{d.better:,}",
        f"{d.worse:,}",
        measure.verdict,
    ]


def number(value: float | None, *, signed: bool = False) -> str:
    """Return a figure with the digits that matter."""
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 3 if abs(value) >= 0.01 or value == 0 else None
    sign = "+" if signed else ""
    return format(value, f"{sign},.{digits}f") if digits is not None else format(value, f"{sign}.2g")


def _names(manifests: Sequence[Manifest | None], tables: Sequence[Any]) -> list[list[Any]]:
    """What the rows of each are matched by: their ids; their numbers where ids of the same data would match others."""
    ids = [table["id"].to_pylist() for table in tables]
    first, second = manifests
    if first is None or second is None or not _is_alike(first.data_fingerprint, second.data_fingerprint):
        return ids
    if first.id_column == second.id_column and all(len(set(listed)) == len(listed) for listed in ids):
        return ids
    return [table["row"].to_pylist() for table in tables]


def _notes(paths: tuple[Path, Path], manifests: Sequence[Manifest | None]) -> list[str]:
    notes = []
    first, second = manifests
    for path, manifest in zip(paths, manifests, strict=True):
        if manifest is not None and not manifest.complete:
            notes.append(f"{path} is not complete: run its evaluation again to finish it")
    if first is None or second is None:
        return notes
    if not _is_alike(first.data_fingerprint, second.data_fingerprint):
        if first.id_column is None or first.id_column != second.id_column:
            raise SpecError(
                f"{paths[0]} is of {first.data} and {paths[1]} of {second.data}, which are different data; compare "
                "outputs of the same data, or evaluate both with an id_column that names their rows"
            )
        notes.append(f"the data differ ({first.data}, {second.data}); rows are matched by '{first.id_column}'")
    for name, fingerprint in first.scorers.items():
        if not _is_alike(fingerprint, second.scorers.get(name, fingerprint)):
            notes.append(f"scorer '{name}' was not the same for both")
    return notes


def _is_alike(one: str, other: str) -> bool:
    """Whether two fingerprints are of the same thing, as far as both can tell."""
    return is_same(one, other) or is_same(other, one)


def _check_columns(path: Path, table: Any) -> None:
    for column in ("id", "answer", *FIGURES.values()):
        if column not in table.column_names:
            raise SpecError(
                f"{path} has no column '{column}' (columns: {', '.join(table.column_names)}); it is no output of "
                "fm.evaluate"
            )


def _scores(paths: tuple[Path, Path], tables: Sequence[Any], given: Sequence[str] | None) -> list[str]:
    there = [[c.removeprefix(SCORE) for c in table.column_names if c.startswith(SCORE)] for table in tables]
    for name in given or ():
        for path, names in zip(paths, there, strict=True):
            if name not in names:
                raise SpecError(f"{path} has no score '{name}' (scores: {', '.join(names) or 'none'})")
    return list(given) if given is not None else [name for name in there[0] if name in there[1]]


def _changes(ids: Sequence[str], tables: Sequence[Any], scores: Sequence[str]) -> list[Change]:
    """Rows whose score changed most, those that got worse first."""
    first, second = tables
    kept = [c for c in first.column_names if c.startswith(INPUT)]
    found: list[tuple[float, int, str, float, float]] = []
    for name in scores:
        a, b = _floats(first[SCORE + name]), _floats(second[SCORE + name])
        scale = max(float(np.nanmax(np.abs(np.concatenate([a, b])), initial=0.0)), 1e-12)
        moved = np.flatnonzero(np.isfinite(a) & np.isfinite(b) & (a != b))
        change = (b - a)[moved] / scale
        for index, size in sorted(zip(moved, change, strict=True), key=lambda item: -abs(item[1]))[:CHANGES]:
            found.append((float(size), int(index), name, float(a[index]), float(b[index])))
    found.sort(key=lambda item: (-round(abs(item[0]), 9), item[0], item[1]))
    return [
        Change(
            ids[index],
            name,
            a,
            b,
            {c.removeprefix(INPUT): _cut(first[c][index].as_py()) for c in kept},
            _cut(first["answer"][index].as_py()),
            _cut(second["answer"][index].as_py()),
        )
        for _, index, name, a, b in found[:CHANGES]
    ]


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= LONGEST else text[:LONGEST] + "..."


def _figure(table: Any, column: str) -> NDArray[np.float64]:
    if column == "error":
        return np.asarray(table[column].is_valid().to_numpy(zero_copy_only=False), dtype=float)
    return _floats(table[column])


def _floats(column: Any) -> NDArray[np.float64]:
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=float)
