"""A study: one scenario under several policies and loads, seed by seed; rows, a frame, pictures and a page of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask_fmware.errors import FMwareError
from dask_fmware.simulation.report import Cell, paired
from dask_fmware.simulation.scenario import Scenario

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dask_fmware.simulation.left import Left

__all__ = ["Study"]


@dataclass
class Study:
    """What `fm.simulate` found.

    Attributes
    ----------
    scenario
        What was played.
    cells
        One for each load and policy, in this order; the first policy is the one that others are compared with.
    left
        What hindsight has in time at each load, if it was asked for.
    """

    scenario: Scenario
    cells: list[Cell] = field(default_factory=list)
    left: dict[float, Left] = field(default_factory=dict)

    @property
    def policies(self) -> list[str]:
        """In the order in which they were asked for."""
        return list(dict.fromkeys(cell.policy for cell in self.cells))

    @property
    def loads(self) -> list[float]:
        """In the order in which they were asked for."""
        return list(dict.fromkeys(cell.load for cell in self.cells))

    @property
    def busiest(self) -> float:
        """The highest load, which pictures and the first sentence of a page are of."""
        return max(self.loads)

    @property
    def has_prices(self) -> bool:
        """Whether any card has a price; what runs cost is not known otherwise."""
        return any(card.price_per_hour for card in self.scenario.cards.values())

    def cell(self, policy: str, load: float) -> Cell:
        """Return one policy at one load."""
        return next(cell for cell in self.cells if (cell.policy, cell.load) == (policy, load))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One dictionary for each cell: means over seeds, goodput with its 95 % interval, and how far it is `below`.

        `below` is the goodput of the first policy minus that of this one, seed by seed, with its 95 % interval: all
        policies get the same runs, so it is far narrower than the intervals of both. With hindsight, `hindsight` is the
        goodput of the best schedule that was found, and `no_schedule_above` a bound for all, None where none is known.
        """
        rows = []
        for cell in self.cells:
            below = paired(self.cell(self.policies[0], cell.load), cell)
            row = cell.record() | {"below": below.mean, "below_low": below.low, "below_high": below.high}
            rows.append(row | (asdict(self.left[cell.load]) if cell.load in self.left else {}))
        return rows

    @property
    def frame(self) -> Any:
        """`rows` as a `pandas.DataFrame`."""
        try:
            import pandas
        except ImportError as error:
            raise FMwareError("a frame needs pandas; install it (pip install pandas), or use .rows") from error
        return pandas.DataFrame(self.rows)

    def plot(self) -> Figure:
        """Return all pictures as one matplotlib figure (extra ``plot``)."""
        from dask_fmware.simulation.pictures import overview

        return overview(self)

    def to_html(self, path: str | Path, facts: Mapping[str, str] | None = None) -> None:
        """Write a page with pictures and tables that needs nothing else (extra ``plot``)."""
        from dask_fmware.simulation.page import page

        Path(path).write_text(page(self, facts or {}), encoding="utf-8")

    def __len__(self) -> int:
        return len(self.cells)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over `rows`, so that ``pandas.DataFrame(study)`` works too."""
        return iter(self.rows)

    def __repr__(self) -> str:
        best = ", ".join(f"{cell.policy} at {cell.load:g}: {cell.goodput.mean:.3f}" for cell in self.cells[:8])
        more = f", and {len(self.cells) - 8} more" if len(self.cells) > 8 else ""
        return f"<Study of {self.scenario.name}: goodput {best}{more}>"

    def _repr_html_(self) -> str:
        from dask_fmware.simulation.page import table

        return table(self)
