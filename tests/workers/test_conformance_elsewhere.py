"""An engine and a policy of another package, as the pages show them, are held to what ours are by its own tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENTRY_POINTS = """
[dask_fmware.policies]
least_tokens = my_package:LeastTokens

[dask_fmware.engines]
my-engine = my_package.engine:Words
"""


def shown(page: str, wanted: str) -> str:
    """The Python block of a page that has a line."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.M | re.S)
    (block,) = [block for block in blocks if wanted in block]
    return block


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A package of its own with a policy and an engine, as if installed, and no settings for pytest."""
    package, tests = tmp_path / "site" / "my_package", tmp_path / "tests"
    package.mkdir(parents=True)
    tests.mkdir()
    (package / "__init__.py").write_text(shown("policies.md", "class LeastTokens:"))
    (package / "engine.py").write_text(shown("engines.md", "class Words:"))
    installed = tmp_path / "site" / "my_package-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(ENTRY_POINTS)
    (tests / "test_policy.py").write_text(shown("policies.md", "class TestLeastTokens"))
    (tests / "test_engine.py").write_text(shown("engines.md", "class TestWords"))
    return tmp_path


def run_pytest(folder: Path, *arguments: str) -> tuple[int, str]:
    path = os.pathsep.join([str(folder / "site"), *filter(None, sys.path)])
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(folder), "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        [*command, "-W", "error", "-o", "asyncio_default_fixture_loop_scope=function"],
        cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_a_policy_of_another_package_passes_and_is_known_by_its_entry_point(elsewhere: Path) -> None:
    (elsewhere / "tests" / "test_names.py").write_text(
        "from dask_fmware.policy import policy_names\n\n\n"
        "def test_it_is_known():\n    assert 'least_tokens' in policy_names()\n"
    )
    code, said = run_pytest(elsewhere, "tests/test_policy.py", "tests/test_names.py")
    assert code == 0, said
    assert re.search(r"^\d\d passed", said, re.M), said


def test_a_policy_with_a_fault_fails_the_tests_with_what_it_answered(elsewhere: Path) -> None:
    source = elsewhere / "site" / "my_package" / "__init__.py"
    source.write_text(source.read_text().replace("return (-call.priority,)", "return (-call.priority, call.deadline)"))
    code, said = run_pytest(elsewhere, "tests/test_policy.py", "-k", "order or simulation")
    assert code == 1, said
    assert "policy 'least_tokens': order answered (0, None), in which a NoneType is no number" in said


def test_the_sketch_of_an_engine_passes_what_it_claims_and_fails_what_it_leaves_out(elsewhere: Path) -> None:
    code, said = run_pytest(elsewhere, "tests/test_engine.py", "-k", "max_tokens or usage or choices or prompts")
    assert code == 0, said
    assert re.search(r"^\d+ passed, \d+ skipped", said, re.M), said
    code, said = run_pytest(elsewhere, "tests/test_engine.py", "-k", "stop_string")
    assert code == 1, said
    assert re.search(r"assert 'word .*' == ", said), said  # the assertion says what was found


def test_a_whole_engine_of_another_package_passes_all(elsewhere: Path) -> None:
    (elsewhere / "site" / "my_package" / "engine.py").write_text(
        "from dask_fmware.testing import ScriptedEngine\n\n\n"
        "class Words(ScriptedEngine):\n"
        "    def __init__(self, *, step_s, **arguments):\n"
        "        super().__init__(token_s=step_s, **arguments)\n"
    )
    code, said = run_pytest(elsewhere, "tests/test_engine.py")
    assert code == 0, said
    assert re.search(r"^\d\d passed", said, re.M), said


@pytest.mark.parametrize(("kind", "name"), [("engine", "EngineTests"), ("policy", "PolicyTests")])
def test_tests_that_do_not_say_what_they_hold_say_what_is_missing(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / "test_nothing.py").write_text(
        f"from dask_fmware.testing.conformance.{kind} import {name}\n\n\nclass TestNothing({name}): ...\n"
    )
    code, said = run_pytest(tmp_path, "-x")
    assert code == 1, said
    assert f"TestNothing needs a fixture make_{kind} that returns what makes the {kind}" in said


def test_without_pytest_what_users_import_for_tests_is_there_and_the_rest_names_the_extra(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('pytest', 'pytest_asyncio', 'hypothesis')))\n"
        "import dask_fmware.testing, dask_fmware.testing.asking, dask_fmware.testing.views\n"
        "try:\n    import dask_fmware.testing.conformance.engine\n"
        "except ModuleNotFoundError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "dask_fmware.testing.conformance needs pytest and pytest_asyncio and hypothesis: "
        "pip install 'dask-fmware[conformance]'"
    )
