"""The documents of the repository: what they point to is there, and what they show is true of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dask_fmware as fm
from dask_fmware.cli import fmware
from dask_fmware.spec.checks import GENERATION
from dask_fmware.spec.deployment import Deployment

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(document: Path) -> None:
    for link in LINK.findall(CODE.sub("", document.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        path, _, heading = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), f"{document.name} points to {link}"
        if heading and target.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", CODE.sub("", target.read_text(encoding="utf-8")), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", text).strip().lower().replace(" ", "-") for text in headings}
            assert heading in anchors, f"{document.name} points to {link}"


@pytest.mark.parametrize("name", ["README.md", "docs/deployment.md", "docs/engines.md"])
def test_deployments_that_are_shown_are_sound(name: str) -> None:
    blocks = BLOCK.findall((ROOT / name).read_text(encoding="utf-8"))
    assert blocks
    for block in blocks:
        shown = Deployment.from_yaml(block)
        for model, spec in shown.models.items():
            for accelerator, placement in spec.on.items():
                given = {**spec.arguments, **placement.arguments}
                is_idle = spec.engine == "llama.cpp" and accelerator != "cpu" and "gpu_layers" not in given
                assert not is_idle, f"{model} on {accelerator} runs on one core of the CPU"


def test_every_kept_result_has_a_command_in_the_table_of_benchmarks() -> None:
    table = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    kept = {path.name for path in ROOT.glob("benchmarks/results/*.md")}
    assert {name for name in kept if f"](results/{name})" not in table} == set()


def test_every_page_of_the_documentation_is_linked_from_the_readme_or_a_page() -> None:
    pages = set(ROOT.glob("docs/*.md"))
    linked = {
        (document.parent / link.partition("#")[0]).resolve()
        for document in [ROOT / "README.md", *pages]
        for link in LINK.findall(document.read_text(encoding="utf-8"))
    }
    assert {page.name for page in pages if page.resolve() not in linked} == set()


def test_every_chapter_of_the_design_is_linked_from_its_entry_under_its_number() -> None:
    entry = (ROOT / "DESIGN.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^(\d+)\. (.*(?:\n .*)*)", entry.partition("\n## The sections\n")[2], re.MULTILINE))
    assert list(sections) == [str(number) for number in range(1, 15)]
    for chapter in ROOT.glob("docs/design/*.md"):
        number = re.match(r"# (\d+)\. ", chapter.read_text(encoding="utf-8"))
        assert number, f"{chapter.name} begins without the number of its section"
        assert f"](docs/design/{chapter.name})" in sections[number[1]]


def test_every_public_name_command_and_way_to_sample_is_on_a_page() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
    names = {f"fm.{name}" for name in fm.__all__ if name != "__version__"}
    commands = {f"dask fmware {name}" for name in fmware.commands}
    wanted = names | commands | set(GENERATION)
    assert {name for name in wanted if not re.search(rf"\b{re.escape(name)}\b", pages)} == set()
