"""``dask fmware draw``: the picture of a workflow."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dask_fmware.spec.workflow import Workflow

__all__ = ["draw"]


@click.command()
@click.argument("workflow")
@click.option(
    "--format",
    "form",
    type=click.Choice(["mermaid", "svg", "html"]),
    help="Taken from the ending of FILE if not given, else mermaid. svg needs graphviz.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to FILE.", metavar="FILE")
def draw(workflow: str, form: str | None, output: Path | None) -> None:
    """Draw WORKFLOW: a document (YAML or JSON), or module:name of a decorated function.

    \b
    dask fmware draw dask_fmware.demo.rag:rag
    dask fmware draw triage.yaml -o triage.svg
    """
    endings = {".svg": "svg", ".html": "html", ".htm": "html"}
    form = form or endings.get(output.suffix.lower() if output is not None else "", "mermaid")
    spec = _find(workflow)
    picture = {"mermaid": spec.to_mermaid, "svg": spec.to_svg, "html": spec.to_html}[form]()
    if output is None:
        click.echo(picture, nl=not picture.endswith("\n"))
    else:
        try:
            output.write_text(picture, encoding="utf-8")
        except OSError as error:
            raise click.FileError(str(output), hint=error.strerror or str(error)) from None


def _find(name: str) -> Workflow:
    from dask_fmware.errors import WorkflowError
    from dask_fmware.spec.documents import load_workflow
    from dask_fmware.spec.workflow import Workflow

    module, colon, attribute = name.partition(":")
    if not colon or not attribute.isidentifier() or Path(name).exists():
        return load_workflow(Path(name))
    sys.path.insert(0, "")  # as `python -m` does: modules of the working directory
    try:
        found = getattr(import_module(module), attribute)
    except ImportError as error:
        raise WorkflowError(f"'{name}': cannot import '{module}' ({error}); give module:name or a document") from None
    except AttributeError:
        raise WorkflowError(f"'{name}': module '{module}' has no '{attribute}'") from None
    finally:
        sys.path.remove("")
    spec = getattr(found, "workflow", found)
    if not isinstance(spec, Workflow):
        raise WorkflowError(f"'{name}' is a {type(found).__name__}, not a workflow; decorate it with @fm.workflow")
    return spec
