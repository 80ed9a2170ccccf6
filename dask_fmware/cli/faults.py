"""How commands end: errors of our tree as one red line, and exit codes that scripts can tell apart.

0 done, 1 the engine, capacity or the runtime is at fault, 2 the request (as for a wrong option), 130
interrupted. A stranger's exception keeps its traceback: it is a bug.
"""

from __future__ import annotations

from typing import Any

import click

from dask_fmware.errors import FMwareError, SpecError

__all__ = ["INTERRUPTED", "FaultLineGroup"]

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class FaultLineGroup(click.Group):
    """A command group that turns `FMwareError` and Ctrl-C into a line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except FMwareError as error:
            click.secho(f"Error: {error}", fg="red", err=True)
            ctx.exit(2 if isinstance(error, SpecError) else 1)
        except (KeyboardInterrupt, click.Abort):
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)
