"""What an output belongs to: the workflow, the data and the scorers it was begun with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from dask_fmware.errors import SpecError
from dask_fmware.evaluation.fingerprint.mark import is_same
from dask_fmware.evaluation.output.durable import OutputError, replace_durably
from dask_fmware.spec.record import Record

__all__ = ["MANIFEST", "Manifest"]

MANIFEST = "_manifest.json"  # Parquet readers pass over names that begin with an underscore


class Manifest(Record):
    """The head of an output."""

    version: Literal[1] = 1
    workflow: str
    workflow_fingerprint: str
    data: str
    data_fingerprint: str
    id_column: str | None = None
    inputs: dict[str, str]  # input of the workflow -> column of the data
    scorers: dict[str, str]  # name -> fingerprint
    kept: tuple[str, ...] = ()
    models: dict[str, str] = Field(
        default_factory=dict
    )  # name -> its weights, as the deployment names them, where it does
    rows: int | None = None  # of the data, where known
    complete: bool = False

    def check_same(self, folder: Path, wanted: Manifest) -> None:
        """Raise unless an evaluation would go on with what is here.

        Raises
        ------
        SpecError
            Names what differs, and what to do.
        """
        differences = []
        if not is_same(self.workflow_fingerprint, wanted.workflow_fingerprint):
            differences.append(
                f"workflow '{self.workflow}', not '{wanted.workflow}'"
                if self.workflow != wanted.workflow
                else f"workflow '{self.workflow}' as it was before it was changed"
            )
        if not is_same(self.data_fingerprint, wanted.data_fingerprint):
            differences.append(
                f"other data ({self.data}, not {wanted.data})"
                if self.data != wanted.data
                else f"other data ({self.data} with other content)"
            )
        if self.inputs != wanted.inputs:
            differences.append(f"inputs {self.inputs}, not {wanted.inputs}")
        if self.id_column != wanted.id_column:
            differences.append(f"rows named by {self.id_column or 'their number'}, not {wanted.id_column}")
        if self.scorers.keys() != wanted.scorers.keys() or not all(
            is_same(mark, wanted.scorers[name]) for name, mark in self.scorers.items()
        ):
            mine, theirs = ", ".join(self.scorers) or "none", ", ".join(wanted.scorers) or "none"
            differences.append(f"scorers {mine}" + (f", not {theirs}" if mine != theirs else " as they were"))
        if self.kept != wanted.kept:
            differences.append(f"kept columns {', '.join(self.kept) or 'none'}, not {', '.join(wanted.kept) or 'none'}")
        for name, weights in self.models.items():
            if (now := wanted.models.get(name)) != weights:
                differences.append(f"model '{name}' of {weights}, not of {now or 'weights that have no name'}")
        if differences:
            raise SpecError(
                f"{folder} holds the output of {' and of '.join(differences)}; name another output, or give "
                "overwrite=True to begin anew"
            )

    def write(self, folder: Path) -> None:
        """Write it into a folder, in one step."""
        text = self.model_dump_json(indent=1) + "\n"
        replace_durably(folder / MANIFEST, lambda path: _write(path, text))

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """Return the manifest of a folder, or None if it has none.

        Raises
        ------
        OutputError
            If there is one that cannot be read.
        """
        path = folder / MANIFEST
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, ValidationError) as error:
            raise OutputError(
                f"{path} cannot be read ({type(error).__name__}); without it nobody knows what {folder} belongs to: "
                "name another output, or give overwrite=True to begin anew"
            ) from error


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
