"""The command line: ``dask fmware ...``, and ``python -m dask_fmware ...``.

One module for each command. They import what they need when they run, so that ``--help`` is instant.
"""

from __future__ import annotations

import click

from dask_fmware import __version__
from dask_fmware.cli.check import check
from dask_fmware.cli.compare import compare
from dask_fmware.cli.demo import demo
from dask_fmware.cli.draw import draw
from dask_fmware.cli.evaluate import evaluate
from dask_fmware.cli.faults import FaultLineGroup
from dask_fmware.cli.plan import plan
from dask_fmware.cli.profile import profile
from dask_fmware.cli.replay import replay
from dask_fmware.cli.schema import schema
from dask_fmware.cli.serve import serve
from dask_fmware.cli.simulate import simulate
from dask_fmware.cli.status import status

__all__ = ["fmware"]


@click.group(cls=FaultLineGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dask-fmware")
def fmware() -> None:
    """SLA-aware serving of foundation-model workflows on Dask."""


for command in (demo, check, compare, draw, evaluate, plan, profile, replay, schema, serve, simulate, status):
    fmware.add_command(command)
