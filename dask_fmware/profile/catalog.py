"""Bundled figures for well-known models and cards, used until a measurement replaces them.

The figures are fitted by `benchmarks/build_catalog.py` from public data; each entry says from which, under which
licence, whether whole steps were timed or kernels added up, and how well the law fits. They are of other
engine builds than yours: good for planning, and marked `from_catalog` wherever they are shown.

Names are told apart by their letters and digits. Case does not matter, nor do blanks and hyphens of an accelerator:
several cards are "H100 x4" in the catalog and `H100-x4` in a deployment, whose names have no blanks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from importlib import resources

from pydantic import TypeAdapter

from dask_fmware.errors import SpecError
from dask_fmware.profile.record import Profile

__all__ = ["catalog", "find", "look_up", "names", "near_cards"]


@cache
def catalog() -> tuple[Profile, ...]:
    """Return all bundled profiles."""
    text = resources.files("dask_fmware.profile").joinpath("catalog.json").read_bytes()
    return TypeAdapter(tuple[Profile, ...]).validate_json(text)


def names() -> tuple[list[str], list[str]]:
    """Models and accelerators in the catalog, each sorted."""
    return sorted({p.key.model for p in catalog()}), sorted({p.key.accelerator for p in catalog()})


def find(model: str, accelerator: str, entries: Sequence[Profile] | None = None) -> Profile:
    """Return the bundled profile of a model on an accelerator.

    Timed steps are preferred to added-up kernels, then lower cross-validated error of decode.

    Raises
    ------
    SpecError
        There is none; names what is near.

    Examples
    --------
    >>> find("Llama-3.1-8B", "H100").provenance.kind
    'composed'
    """
    if (found := look_up(model, accelerator, entries)) is not None:
        return found
    raise SpecError(
        f"the catalog has no figures for model {model!r} on accelerator {accelerator!r}; it has it on "
        f"{', '.join(near_cards(model, accelerator, entries))}: profile the pair, or name one of these"
    )


def look_up(model: str, accelerator: str, entries: Sequence[Profile] | None = None) -> Profile | None:
    """Return the profile as `find` does; None where the catalog has the model on other accelerators only.

    Raises
    ------
    SpecError
        It does not have the model at all; names what is near.

    Examples
    --------
    >>> look_up("Llama-3.1-8B", "L4") is None
    True
    """
    found = [p for p in _of(model, entries) if _folded(p.key.accelerator) == _folded(accelerator)]
    return min(
        found,
        key=lambda p: (p.provenance.kind != "measured", p.decode.cv_median_error if p.decode else 1.0, str(p.key)),
        default=None,
    )


def near_cards(model: str, accelerator: str, entries: Sequence[Profile] | None = None) -> list[str]:
    """Return the accelerators that the catalog has a model on, as a deployment may name them, near names first."""
    cards = sorted({p.key.accelerator.replace(" ", "-") for p in _of(model, entries)})
    return _near(accelerator, cards)


def _of(model: str, entries: Sequence[Profile] | None) -> list[Profile]:
    """All profiles of a model; one that there is not is refused."""
    entries = catalog() if entries is None else entries
    if found := [p for p in entries if p.key.model.casefold() == model.casefold()]:
        return found
    models = sorted({p.key.model for p in entries})
    raise SpecError(
        f"the catalog has no figures for model {model!r}; near names: {', '.join(_near(model, models))}: "
        "profile the model, or name one of these"
    )


def _folded(accelerator: str) -> str:
    return re.sub(r"[\s_-]", "", accelerator).casefold()


def _near(name: str, known: Sequence[str], most: int = 8) -> list[str]:
    """Return the names most like `name`, or the first ones."""
    by_case = {item.casefold(): item for item in known}
    near = [by_case[item] for item in get_close_matches(name.casefold(), by_case, n=most, cutoff=0.4)]
    near += [item for item in known if name.casefold() in item.casefold() and item not in near]
    return (near or list(known))[:most]
