"""Engines by name."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

from dask_fmware.errors import DeploymentError, EngineLoadError
from dask_fmware.testing.scripted import ScriptedEngine
from dask_fmware_workers import engines
from dask_fmware_workers.engines import ENGINES, create_engine, engine_names
from dask_fmware_workers.engines.llama_cpp import LlamaCppEngine


class Elsewhere(ScriptedEngine):
    """Stands for an engine of another package."""

    def __init__(self, *, speed: int = 1) -> None:
        super().__init__()
        if speed < 1:
            raise ValueError(f"speed={speed} is below 1")
        self.speed = speed


class Half:
    """No engine: it lacks methods."""

    generate = "no method"

    def start(self) -> None: ...

    def state(self) -> None: ...


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[Elsewhere.__module__]
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    points = EntryPoints(
        [
            EntryPoint("elsewhere", "elsewhere:Elsewhere", engines.ENTRY_POINT_GROUP),
            EntryPoint("broken", "elsewhere:Missing", engines.ENTRY_POINT_GROUP),
            EntryPoint("half", "elsewhere:Half", engines.ENTRY_POINT_GROUP),
            EntryPoint("llama.cpp", "elsewhere:Elsewhere", engines.ENTRY_POINT_GROUP),
        ]
    )
    monkeypatch.setattr(engines, "entry_points", lambda group: points.select(group=group))


def test_an_engine_is_made_from_its_name_and_arguments() -> None:
    engine = create_engine("llama.cpp", {"tiny": {"layers": 1, "width": 64, "heads": 2}, "slots": 2})
    assert isinstance(engine, LlamaCppEngine)


def test_an_unknown_name_lists_what_exists() -> None:
    with pytest.raises(DeploymentError, match=r"'llama-cpp' does not exist; there are .*llama\.cpp"):
        create_engine("llama-cpp", {})


def test_an_unknown_argument_lists_what_it_takes() -> None:
    with pytest.raises(DeploymentError, match=r"\['slot'\].*slots, context_tokens"):
        create_engine("llama.cpp", {"tiny": {}, "slot": 2})


def test_a_refused_argument_keeps_the_engines_words() -> None:
    with pytest.raises(DeploymentError, match="slots=0"):
        create_engine("llama.cpp", {"tiny": {}, "slots": 0})


def test_other_packages_add_engines(third_party: None) -> None:
    engine: Any = create_engine("elsewhere", {"speed": 3})
    assert engine.speed == 3
    assert set(engine_names()) >= {*ENGINES, "elsewhere"}
    with pytest.raises(DeploymentError, match=r"engine 'elsewhere': speed=0"):
        create_engine("elsewhere", {"speed": 0})


def test_engines_of_this_package_cannot_be_replaced_by_entry_points(third_party: None) -> None:
    assert isinstance(create_engine("llama.cpp", {"tiny": {}}), LlamaCppEngine)


def test_what_lacks_a_method_of_an_engine_is_refused_before_it_is_started(third_party: None) -> None:
    with pytest.raises(DeploymentError, match="'half': Half has no method generate and no abort and no count_tokens"):
        create_engine("half", {})


def test_an_engine_that_cannot_be_imported_is_a_load_error(third_party: None) -> None:
    with pytest.raises(EngineLoadError, match="elsewhere:Missing"):
        create_engine("broken", {})


def test_nothing_heavy_is_imported_before_an_engine_starts() -> None:
    code = (
        "import sys; from dask_fmware_workers.engines import create_engine;"
        "create_engine('llama.cpp', {'tiny': {}});"
        "print(sorted({'numpy', 'gguf', 'xllamacpp', 'distributed'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
