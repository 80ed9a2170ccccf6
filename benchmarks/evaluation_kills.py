"""A batch evaluation whose client, workers and scheduler are killed again and again, and which loses nothing.

    python -m benchmarks.evaluation_kills --kills 3

The RAG workflow of the demo, whose retrieval is real, over a CSV file, on emulated engines. Scheduler and workers are
processes of their own, started as a platform engineer would; the evaluation is the command that a user types. Client,
a worker and the scheduler are killed (SIGKILL), each `--kills` times in a random order, at random shares of the rows;
what a user would start again is started again. At the end the output is compared with the data row by row, and the
memory of each process is drawn against the rows.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.evaluation import SLOTS, STEP_S, deployment, write_questions
from benchmarks.support.environment import RESULTS, environment, write
from benchmarks.support.processes import PATIENCE_S, Cluster, resident
from dask_fmware.evaluation.output import read_output

LOOK_S = 0.5  # between two looks at rows and memory
LOADED_MB = 90.0  # of a process that has imported what it needs
SETTLED = 1000  # rows of a session after which its memory is measured
LABEL = 0.02  # of the width: nearer than that, the names of two kills would cover each other


class Output:
    """Counts the rows of an output as it grows; each byte of a journal is read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._journals: dict[str, tuple[int, int]] = {}  # file -> bytes and lines seen

    def rows(self) -> int:
        """Rows on the disk."""
        from pyarrow import parquet

        total = 0
        for path in self._folder.glob("part-*.parquet"):
            total += parquet.read_metadata(path).num_rows
        for path in self._folder.glob("_journal-*"):
            seen, lines = self._journals.get(path.name, (0, 0))
            try:
                with open(path, "rb") as file:
                    file.seek(seen)
                    text = file.read()
            except FileNotFoundError:  # it has become a shard just now
                continue
            self._journals[path.name] = (seen + len(text), lines + text.count(b"\n"))
            total += self._journals[path.name][1]
        return total


@contextmanager
def evaluating(out: Path, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command that a user types."""
    words = ["evaluate", "dask_fmware.demo.rag:rag", str(out / "questions.csv"), "-o", str(out / "answers.parquet")]
    words += ["--address", address, "--id", "number", "--keep", "question", "--json"]
    with open(out / "client.log", "wb") as log:
        client = subprocess.Popen([sys.executable, "-m", "dask", "fmware", *words], stdout=log, stderr=log)
        try:
            yield client
        finally:
            if client.poll() is None:
                client.kill()
                client.wait()


def kills(rows: int, out: Path, times: int, seed: int, step_s: float) -> dict[str, Any]:
    """Run the job to its end."""
    draw = random.Random(seed)
    write_questions(out / "questions.csv", rows)
    todo = ["client", "worker", "scheduler"] * times
    draw.shuffle(todo)
    moments = sorted(draw.uniform(0.05, 0.95) for _ in todo)  # share of the rows that are recorded
    cluster, output = Cluster(out, deployment(step_s), SLOTS), Output(out / "answers.parquet")
    story: list[dict[str, Any]] = []
    sessions: list[list[dict[str, Any]]] = []
    started = time.monotonic()
    cluster.start()
    try:
        while True:
            looks: list[dict[str, Any]] = []
            sessions.append(looks)
            with evaluating(out, cluster.address) as client:
                victim = None
                while client.poll() is None and victim is None:
                    time.sleep(LOOK_S)
                    done, at = output.rows(), time.monotonic() - started
                    memory = {"client": resident(client.pid), **cluster.memory()}
                    looks.append(
                        {"at_s": round(at, 1), "rows": done, **{k: round(v / 1e6, 1) for k, v in memory.items()}}
                    )
                    if todo and done >= moments[0] * rows:
                        victim = todo.pop(0)
                        moments.pop(0)
                        story.append({"rows": done, "at_s": round(at, 1), "killed": victim})
                        if victim == "worker":
                            story[-1]["killed"] = cluster.kill_worker(draw)
                            victim = None
                if victim == "client":
                    client.kill()
                elif victim == "scheduler":
                    cluster.kill_scheduler()
                code = client.wait(PATIENCE_S)
            print(f"session {len(sessions)}: exit {code} after {victim or 'nothing'}, {done} rows", flush=True)
            if victim == "scheduler":
                story[-1]["the client said"] = (out / "client.log").read_text().strip().splitlines()[-1]
                cluster.start()
            elif victim is None:
                if code != 0:
                    raise SystemExit((out / "client.log").read_text()[-3000:])
                break
    finally:
        cluster.stop()
    return {
        "rows": rows,
        "sessions": len(sessions),
        "kills": story,
        "seconds": round(time.monotonic() - started, 1),
        **checked(out, rows),
        "memory": grown(sessions),
        "looks": sessions,
    }


def grown(sessions: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Resident MB of each process in the session that did most rows: early, late, and for each 1,000 rows.

    Late is before the last rows were recorded: what follows, the last shard and the summary, is shown apart.
    """
    longest = max(sessions, key=lambda looks: looks[-1]["rows"] - looks[0]["rows"])
    settled = [look for look in longest if look["rows"] - longest[0]["rows"] >= SETTLED and look["client"]]
    at_end = settled[-1]
    settled = [look for look in settled if look["rows"] < at_end["rows"]]
    if len(settled) < 2:
        return {}
    first, last = settled[0], settled[-1]
    rows = last["rows"] - first["rows"]
    return {
        "rows": rows,
        "client_at_end_mb": at_end["client"],
        **{
            name: {
                "early_mb": first[name],
                "late_mb": last[name],
                "mb_per_1000_rows": round(1000 * (last[name] - first[name]) / max(rows, 1), 2),
            }
            for name in ("client", "scheduler", "light worker", *SLOTS)
        },
    }


def checked(out: Path, rows: int) -> dict[str, Any]:
    """Compare the output with the data, row by row."""
    table = read_output(out / "answers.parquet").sort_by("row").to_pylist()
    with open(out / "questions.csv", newline="") as file:
        data = list(csv.DictReader(file))
    return {
        "rows_in_output": len(table),
        "every_row_exactly_once": [row["row"] for row in table] == list(range(rows)),
        "every_row_is_its_own": all(
            (row["id"], row["input.question"]) == (wanted["number"], wanted["question"])
            for row, wanted in zip(table, data, strict=False)
        ),
        "rows_without_answer": sum(not row["answer"] for row in table),
        "errors": sum(row["error"] is not None for row in table),
        "rows_with_more_than_two_attempts": sum(row["attempts"] > 2 for row in table),
    }


def table(data: dict[str, Any]) -> str:
    """The result for people."""
    lines = [
        "# A batch evaluation that is killed again and again",
        "",
        f"{data['rows']:,} rows of the RAG workflow on emulated engines, {data['sessions']} starts of the client, "
        f"{data['seconds']:,.0f} s in all, on {data['environment']['cores']} cores with a load of "
        f"{data['load_average'][1]:.0f}.",
        "",
        "| killed (SIGKILL) | after rows | second |",
        "|---|---|---|",
        *(f"| {kill['killed']} | {kill['rows']:,} | {kill['at_s']:.0f} |" for kill in data["kills"]),
        "",
        f"- rows in the output: {data['rows_in_output']:,}; each row of the data exactly once: "
        f"{'yes' if data['every_row_exactly_once'] else 'NO'}; each beside its own question: "
        f"{'yes' if data['every_row_is_its_own'] else 'NO'}",
        f"- rows without an answer: {data['rows_without_answer']}, with an error: {data['errors']}; rows of which a "
        f"call was tried again: {data['rows_with_more_than_two_attempts']}",
    ]
    if data["memory"]:
        lines += [
            "",
            f"Memory over {data['memory']['rows']:,} rows of the longest session, after its first {SETTLED:,}:",
            "",
            "| process | early, MB | late, MB | MB for each 1,000 rows |",
            "|---|---|---|---|",
            *(
                f"| {name} | {part['early_mb']:.0f} | {part['late_mb']:.0f} | {part['mb_per_1000_rows']:.2f} |"
                for name, part in data["memory"].items()
                if isinstance(part, dict)
            ),
            "",
            f"The last shard and the summary took the client to {data['memory']['client_at_end_mb']:.0f} MB. "
            "The scheduler keeps the reports of 10,000 runs.",
            "",
            "![memory against rows](evaluation_kills.png)",
        ]
    return "\n".join(lines)


def picture(data: dict[str, Any], path: Path) -> None:
    """Draw the memory of each process against the rows, with the kills."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    colours = dict(zip(("client", "scheduler", "light worker", *SLOTS), ("C0", "C1", "C2", "C7", "C8"), strict=True))
    for number, session in enumerate(data["looks"]):
        looks = [look for look in session if look["client"] > LOADED_MB]
        rows = [look["rows"] for look in looks]
        for name, colour in colours.items():
            label = name if name not in SLOTS else f"engine of {name}"
            memory = [look[name] if look[name] > LOADED_MB else float("nan") for look in looks]
            axes.plot(rows, memory, color=colour, linewidth=1.2, label=label if number == 0 else None)
    before = -math.inf
    for kill in data["kills"]:
        side, before = "left" if kill["rows"] - before < LABEL * data["rows"] else "right", kill["rows"]
        axes.axvline(kill["rows"], color="#888888", linewidth=0.8, linestyle=":")
        axes.annotate(kill["killed"], (kill["rows"], 1.0), xycoords=("data", "axes fraction"), rotation=90, fontsize=7,
                      ha=side, va="top", color="#555555")  # fmt: skip
    axes.set(xlabel="rows recorded", ylabel="resident memory, MB", ylim=(0, None), xlim=(0, data["rows"]))
    axes.legend(frameon=False, fontsize=8, ncols=5, loc="lower center")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=3, help="of each kind")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--step", type=float, default=STEP_S, help="seconds of an engine's step")
    parser.add_argument("--quick", action="store_true", help="a hundredth of the rows, each kind once; writes nothing")
    chosen = parser.parse_args()
    rows, times = (chosen.rows // 100, 1) if chosen.quick else (chosen.rows, chosen.kills)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        made = kills(rows, Path(folder), times, chosen.seed, chosen.step)
    data = {"environment": environment(seed=chosen.seed), "load_average": list(os.getloadavg()), **made}
    print(table(data))
    if not chosen.quick:
        picture(data, RESULTS / "evaluation_kills.png")
        write("evaluation_kills", data, table(data))


if __name__ == "__main__":
    main()
