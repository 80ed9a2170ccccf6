"""Profiles as a table for people: what each says in a line, in text, HTML and plain rows."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from dask_fmware.profile.record import Profile
from dask_fmware.spec.columns import in_columns

__all__ = ["COLUMNS", "ProfileTable"]

COLUMNS = (
    "model", "accelerator", "engine", "arguments", "ms/token", "tokens/s", "prefill tokens/s", "error", "largest batch",
    "weights", "KV/token", "load s", "from",
)  # fmt: skip
PROMPT_TOKENS = 512  # of which the speed of prefill is told


class ProfileTable:
    """Some profiles; prints as a table.

    ``arguments`` tells profiles from each other that were measured with other arguments of the engine. ``ms/token``
    is one sequence alone, ``tokens/s`` the largest batch that was measured with a context of 512 tokens each,
    ``prefill tokens/s`` a prompt of 512 tokens, ``error`` the median on held-out steps of decode and prefill.
    """

    def __init__(self, profiles: Sequence[Profile]) -> None:
        self.profiles = tuple(profiles)

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """Cells by `COLUMNS`."""
        return [_row(profile) for profile in self.profiles]

    def __str__(self) -> str:
        return "\n".join(in_columns([COLUMNS, *self.rows]))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def line(tag: str, cells: Sequence[str]) -> str:
            shown = (f"<{tag} style='text-align:left'>{escape(cell)}</{tag}>" for cell in cells)
            return f"<tr>{''.join(shown)}</tr>"

        body = "".join(line("td", row) for row in self.rows)
        return f"<table><thead>{line('th', COLUMNS)}</thead><tbody>{body}</tbody></table>"


def _row(profile: Profile) -> tuple[str, ...]:
    law, key = profile.step_law, profile.key
    batch = max(profile.batch[1], 1.0)
    alone_s = law.step_s(0, 1, PROMPT_TOKENS) if profile.decode else None
    full_s = law.step_s(0, batch, batch * PROMPT_TOKENS) if profile.decode else None
    prefill_s = law.fixed_s + law.prefill_s(PROMPT_TOKENS) if profile.prefill else None
    errors = [f"{phase.cv_median_error:.1%}" for phase in (profile.decode, profile.prefill) if phase is not None]
    origin = profile.provenance
    return (
        key.model,
        key.accelerator,
        f"{key.engine} {key.engine_version}",
        key.arguments or ("-" if origin.from_catalog else "not known"),
        _number(alone_s and 1e3 * alone_s),
        _number(full_s and batch / full_s),
        _number(prefill_s and PROMPT_TOKENS / prefill_s),
        " / ".join(errors),
        _number(profile.largest_batch),
        _bytes(profile.weight_bytes),
        _bytes(profile.kv_bytes_per_token),
        _number(profile.load_s),
        f"catalog, {origin.kind}" if origin.from_catalog else origin.kind,
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 or float(value).is_integer() else f"{value:.3g}"


def _bytes(value: float | None) -> str:
    if value is None:
        return "-"
    amount: Any = float(value)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} GB"
