import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short_and_its_documents_are_sound(path):
    from dask_fmware.spec.documents import load_deployment

    assert len(path.read_text().splitlines()) < 80
    names = runpy.run_path(str(path), run_name="example")
    load_deployment(names["DEPLOYMENT"])
    names[path.stem].workflow.check(code=True)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path):
    made = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=110, check=False)
    assert made.returncode == 0, made.stderr
    assert "SLO met" in made.stdout or "met their SLO" in made.stdout
