"""Where commands look for profiles."""

from __future__ import annotations

import click

__all__ = ["STORE"]

STORE = click.option(
    "--store",
    metavar="DIR",
    help="Directory or fsspec URL of profiles; by default fmware.profiles of Dask's configuration.",
)
