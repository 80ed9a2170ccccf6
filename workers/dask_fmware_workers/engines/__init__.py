"""Engines by the names that deployments use.

It owns the mapping from a name to a class and imports an engine only when one is made, so that no
engine's dependencies are needed to read a deployment. Another package adds engines through the entry
point group ``dask_fmware.engines``::

    [project.entry-points."dask_fmware.engines"]
    "my-engine" = "my_package.engine:MyEngine"
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from dask_fmware.errors import DeploymentError, EngineLoadError
from dask_fmware.model.engine import Engine

__all__ = ["ENGINES", "ENTRY_POINT_GROUP", "checked_engine", "create_engine", "engine_names"]

ENTRY_POINT_GROUP = "dask_fmware.engines"
METHODS = ("start", "generate", "abort", "count_tokens", "state", "close")

ENGINES: dict[str, str] = {
    "emulated": "dask_fmware_workers.engines.emulated:EmulatedEngine",
    "llama.cpp": "dask_fmware_workers.engines.llama_cpp:LlamaCppEngine",
    "openai": "dask_fmware_workers.engines.openai_server:OpenAIEngine",
    "scripted": "dask_fmware.testing.scripted:ScriptedEngine",
    "transformers": "dask_fmware_workers.engines.transformers:TransformersEngine",
    "vllm": "dask_fmware_workers.engines.vllm:VllmEngine",
    "vllm-serve": "dask_fmware_workers.engines.vllm_serve:VllmServeEngine",
}
"""Engines of this package, as ``module:Class``. They win over entry points of the same name."""
EMBEDDERS = ("llama.cpp", "emulated")  # that give vectors of themselves


def create_engine(name: str, arguments: Mapping[str, Any]) -> Engine:
    """Return an engine that has not been started.

    Parameters
    ----------
    name
        As written in a deployment, such as ``"llama.cpp"``.
    arguments
        Keyword arguments of the engine's class.

    Raises
    ------
    DeploymentError
        If no engine has this name, it refuses an argument, or what is called so is none.
    EngineLoadError
        If the engine's module cannot be imported.
    """
    engine_class = checked_engine(name, arguments)
    try:
        engine: Engine = engine_class(**arguments)
    except DeploymentError:
        raise
    except (TypeError, ValueError) as error:
        raise DeploymentError(f"engine '{name}': {error}") from error
    if missing := [method for method in METHODS if not callable(getattr(engine, method, None))]:
        raise DeploymentError(f"engine '{name}': {type(engine).__name__} has no method {' and no '.join(missing)}")
    return engine


def checked_engine(name: str, arguments: Mapping[str, Any]) -> type[Any]:
    """Return the class of an engine that knows these arguments and needs no others; their values are its own business.

    Raises
    ------
    DeploymentError
        If no engine has this name, or it does not know an argument or misses one.
    EngineLoadError
        If the engine's module cannot be imported.
    """
    engine_class = _engine_class(name)
    accepted = inspect.signature(engine_class).parameters
    unknown = sorted(set(arguments) - set(accepted))
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
        if "embeds" in unknown:
            raise DeploymentError(
                f"engine '{name}' gives no vectors (embeds: true); 'openai' does, of a server that embeds, and so do "
                f"{', '.join(EMBEDDERS)}"
            )
        raise DeploymentError(f"engine '{name}': unknown arguments {unknown}; it takes {', '.join(accepted)}")
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [key for key, p in accepted.items() if p.default is p.empty and p.kind not in variable]
    if missing := [key for key in needed if key not in arguments]:
        raise DeploymentError(f"engine '{name}': {' and '.join(missing)} missing; add it to the model's arguments")
    return engine_class


def engine_names() -> list[str]:
    """Return every name that `create_engine` knows, sorted."""
    return sorted({*ENGINES, *entry_points(group=ENTRY_POINT_GROUP).names})


def _engine_class(name: str) -> type[Any]:
    target = ENGINES.get(name)
    if target is None:
        found = [point.value for point in entry_points(group=ENTRY_POINT_GROUP) if point.name == name]
        if not found:
            raise DeploymentError(f"engine '{name}' does not exist; there are {', '.join(engine_names())}")
        target = found[0]
    module_name, _, class_name = target.partition(":")
    try:
        engine_class: type[Any] = getattr(import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise EngineLoadError(f"engine '{name}': cannot import {target} ({error}); install what it needs") from error
    return engine_class
