"""Where the emulated engine takes its step-time law from: coefficients, the catalog or a profile document."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from dask_fmware.errors import SpecError
from dask_fmware.profile.catalog import find
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.record import Profile
from dask_fmware.profile.units import check_seconds

__all__ = ["find_law"]

COEFFICIENTS = ("w0", "w1", "w2", "w3", "w4")


def find_law(
    law: Mapping[str, float] | None, catalog: Mapping[str, str] | None, profile: str | None
) -> tuple[StepLaw, float]:
    """Return the law and the load time in seconds, 0 where none is known.

    Raises
    ------
    SpecError
        Not exactly one source is given, or it holds no law.
    """
    given = [name for name, source in (("law", law), ("catalog", catalog), ("profile", profile)) if source is not None]
    if len(given) != 1:
        raise SpecError(f"give exactly one of law, catalog and profile, got {' and '.join(given) or 'none of them'}")
    if law is not None:
        return _plain(law), 0.0
    found = _bundled(catalog) if catalog is not None else _read(Path(str(profile)).expanduser())
    return found.step_law, found.load_s or 0.0


def _plain(law: Mapping[str, float]) -> StepLaw:
    numbers = [law.get(name, 0.0) for name in COEFFICIENTS] if isinstance(law, Mapping) else [None]
    if not all(isinstance(number, int | float) for number in numbers) or set(law) - set(COEFFICIENTS):
        raise SpecError(f"law={law} must give seconds for some of {', '.join(COEFFICIENTS)} and nothing else")
    plain = StepLaw.plain(*map(float, numbers))
    if plain.step_s(1, 0, 0) <= 0 or plain.step_s(0, 1, 1) <= 0:
        raise SpecError(f"law={law} makes steps that take no time; give w0 a value above 0")
    check_seconds(plain)
    return plain


def _bundled(catalog: Mapping[str, str]) -> Profile:
    if not isinstance(catalog, Mapping) or set(catalog) != {"model", "accelerator"}:
        raise SpecError(
            f"catalog={catalog} must give model and accelerator and nothing else, such as "
            "{model: Llama-3.1-8B, accelerator: H100}"
        )
    return find(catalog["model"], catalog["accelerator"])


def _read(path: Path) -> Profile:
    try:
        return Profile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SpecError(f"profile '{path}' cannot be read ({error.strerror or error}); correct the path") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise SpecError(f"profile '{path}' is no profile ({where}: {first['msg']}); profile the model again") from error
