"""Build the bundled catalog from public profiles.

    python -m benchmarks.build_catalog --data PROFILES --seed 0

PROFILES is the folder that `profile_fits.py` reads; `argonne_e2e.csv` and `argonne_ttft_b16_1024.csv` beside the
step files give cards of which only whole requests were timed. Writes dask_fmware/profile/catalog.json.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.profile_fits import SOURCES, Configuration, load
from dask_fmware.errors import SpecError
from dask_fmware.profile.fit import fit_law
from dask_fmware.profile.law import Curve, StepLaw
from dask_fmware.profile.points import StepPoint
from dask_fmware.profile.record import LawRecord, PhaseRecord, Profile, ProfileKey, Provenance
from dask_fmware.profile.solve import nonnegative_fit

TARGET = Path(__file__).resolve().parents[1] / "dask_fmware" / "profile" / "catalog.json"
ACCELERATORS = {
    "t4": "T4", "v100": "V100", "a10": "A10", "a100": "A100", "h100": "H100", "a100-80gb": "A100",
    "h100-80gb": "H100", "a100_sxm": "A100", "l40s": "L40S", "h100_sxm": "H100", "h200_sxm": "H200",
    "b200_sxm": "B200", "b300_sxm": "B300", "gb200": "GB200", "gb300": "GB300",
    "rtx_pro_6000_server": "RTX-PRO-6000", "b60": "B60", "RTX4090": "RTX-4090", "RTXPRO6000": "RTX-PRO-6000",
    "A6000": "A6000", "AMD MI300X GPU": "MI300X", "AMD MI250 GPU": "MI250", "Nvidia GH200 GPU": "GH200",
}  # fmt: skip
MODELS = {
    "llama-7b": "Llama-7B", "llama-13b": "Llama-13B", "llama2-70b": "Llama-2-70B", "Llama-2-7b-hf": "Llama-2-7B",
    "Meta-Llama-3-8B": "Llama-3-8B", "Mistral-7B-v0.1": "Mistral-7B", "bloom-176b": "BLOOM-176B",
}  # fmt: skip
# parameters, and bytes of keys and values per token at 16 bits, from the published model configurations
SIZES = {
    "Llama-3.1-8B": (8.03e9, 131072), "Llama-3-8B": (8.03e9, 131072), "Llama-3.1-70B": (70.6e9, 327680),
    "Qwen3-8B": (8.19e9, 147456), "Qwen3-32B": (32.8e9, 262144), "Llama-7B": (6.74e9, 524288),
    "Llama-2-7B": (6.74e9, 524288), "Llama-13B": (13.0e9, 819200), "Llama-2-70B": (69.0e9, 327680),
    "Mistral-7B": (7.24e9, 131072),
}  # fmt: skip
LICENCES = {
    "llmpilot_steps.csv": "CDLA-Permissive-2.0",
    "splitwise_steps.csv": "MIT",
    "aiconfigurator_steps.csv": "Apache-2.0",
    "llmservingsim_steps.csv": "MIT",
    "argonne": "BSD-3-Clause",
}
NOTES = {
    "llmpilot_steps.csv": "TGIS engine of 2023; steps told apart by token timestamps",
    "splitwise_steps.csv": "engine of 2023",
    "aiconfigurator_steps.csv": "interpolated kernel times without host overhead: a lower bound",
    "llmservingsim_steps.csv": "kernel times without host overhead: a lower bound",
    "argonne": "whole requests of static batches; prefill from one TTFT (16 prompts of 1,024 tokens)",
}


def key_of(model: str, accelerator: str, tp: int, engine: str) -> ProfileKey:
    name, _, version = engine.replace("(", " ").replace(")", "").partition(" ")
    card = ACCELERATORS[accelerator]
    model = MODELS.get(model, model.split("__")[-1])
    return ProfileKey(
        model=model,
        accelerator=card if tp == 1 else f"{card} x{tp}",
        engine=name,
        engine_version=" ".join(version.split()) or "unknown",
    )


def facts(model: str) -> dict[str, Any]:
    if model not in SIZES:
        return {}
    parameters, kv_bytes = SIZES[model]
    return {"weight_bytes": round(parameters * 2), "kv_bytes_per_token": float(kv_bytes)}


def whole_batches(points: Sequence[StepPoint]) -> list[StepPoint]:
    """Leave out batches of which a card held a part at a time: what was timed there is a step of that part.

    Their prefill took less than half as long as one of fewer prompts of the same length.
    """
    prefills = [point for point in points if point.prefilled]
    parts = {
        more.prefilled
        for more, fewer in product(prefills, prefills)
        if fewer.prefilled < more.prefilled
        and fewer.prefill_tokens / fewer.prefilled == more.prefill_tokens / more.prefilled
        and more.step_s < fewer.step_s / 2
    }
    return [point for point in points if (point.prefilled or round(point.batch)) not in parts]


def from_steps(path: Path, configuration: Configuration, rng: np.random.Generator) -> Profile:
    points = whole_batches(configuration.points)
    fit = fit_law(points, rng)
    if fit.law.prefill.slopes_s[-1] <= 0:
        raise SpecError("its prefill does not grow at the end, where the law goes on beyond what was measured")
    key = key_of(configuration.model, configuration.accelerator, configuration.tp, configuration.engine)
    kind = SOURCES[path.name]
    assert kind in ("measured", "composed")
    return Profile.of(
        key,
        fit,
        Provenance(
            kind="measured" if kind == "measured" else "composed",
            source=configuration.source,
            from_catalog=True,
            licence=LICENCES[path.name],
            note=NOTES[path.name],
        ),
        largest_batch=round(max(point.batch for point in points)),
        **facts(key.model),
    )


def from_requests(folder: Path, rng: np.random.Generator) -> list[Profile]:
    """Infer laws from whole batches: prompt and output of N tokens, B at once.

    Prefill is taken from the TTFT; what is left is ``N * (w0 + w2*B) + w3 * 1.5 * B * N**2`` for the decode steps,
    and a start-up cost that the law drops.
    """
    with (folder / "argonne_ttft_b16_1024.csv").open(newline="") as file:
        per_token = {
            (r["model"], r["accelerator"], r["tp"], r["engine"]): float(r["latency_s"]) / (16 * 1024)
            for r in csv.DictReader(file)
        }
    requests: dict[tuple[str, ...], list[tuple[float, float, float]]] = defaultdict(list)
    with (folder / "argonne_e2e.csv").open(newline="") as file:
        for r in csv.DictReader(file):
            key = (r["model"], r["accelerator"], r["tp"], r["engine"])
            if key in per_token and r["prompt_tokens"] == r["output_tokens"]:
                requests[key].append((float(r["batch"]), float(r["output_tokens"]), float(r["latency_s"])))
    profiles = []
    for key, rows in sorted(requests.items()):
        model, accelerator, tp, engine = key
        if accelerator not in ACCELERATORS or engine != "vLLM" or len(rows) < 12:
            continue
        batch, length, e2e_s = (np.array(column) for column in zip(*rows, strict=True))
        prefill_s = per_token[key] * batch * length
        design = np.stack([np.ones(len(rows)), length, batch * length, 1.5 * batch * length**2], axis=1)

        def solve(rows: Any, design: Any = design, rest: Any = e2e_s - prefill_s, scale: Any = e2e_s) -> Any:
            return nonnegative_fit(design[rows], rest[rows], scale[rows], np.zeros((0, 4)))

        everything = np.ones(len(rows), dtype=bool)
        fold = rng.permutation(len(rows)) % 5
        held_out = np.zeros(len(rows))
        for index in range(5):
            out = fold == index
            held_out[out] = np.abs(design[out] @ solve(~out) + prefill_s[out] - e2e_s[out]) / e2e_s[out]
        found = solve(everything)
        seen = np.abs(design @ found + prefill_s - e2e_s) / e2e_s
        law = StepLaw(found[1], Curve((found[2],)), Curve((found[3],)), 0.0, Curve((per_token[key],)))
        record = key_of(model, accelerator, int(tp), engine)
        errors = [float(np.quantile(e, q)) for e in (seen, held_out) for q in (0.5, 0.9)]
        profiles.append(
            Profile(
                key=record,
                law=LawRecord.of(law),
                provenance=Provenance(
                    kind="inferred",
                    source="argonne-lcf/LLM-Inference-Bench",
                    from_catalog=True,
                    licence=LICENCES["argonne"],
                    note=NOTES["argonne"],
                ),
                decode=PhaseRecord(
                    form="plain, whole requests",
                    points=len(rows),
                    median_error=errors[0],
                    p90_error=errors[1],
                    cv_median_error=errors[2],
                    cv_p90_error=errors[3],
                ),
                prefill_tokens=(16384.0, 16384.0),
                batch=(float(batch.min()), float(batch.max())),
                context_tokens=(float((batch * length).min()), float((2 * batch * length).max())),
                largest_batch=round(float(batch.max())),
                **facts(record.model),
            )
        )
    return profiles


def compact(value: Any) -> Any:
    """Round to five digits: far below any error of a fit."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 1e15 else float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: compact(item) for name, item in value.items()}
    return [compact(item) for item in value] if isinstance(value, list | tuple) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the step files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=TARGET)
    options = parser.parse_args()
    profiles = []
    for name in SOURCES:
        for configuration in load(options.data / name):
            if configuration.accelerator not in ACCELERATORS:
                print(f"left out, unknown card: {configuration.name}")
                continue
            try:
                profiles.append(from_steps(options.data / name, configuration, np.random.default_rng(options.seed)))
            except SpecError as error:
                print(f"left out: {configuration.name}: {error}")
    profiles += from_requests(options.data, np.random.default_rng(options.seed))
    profiles.sort(key=lambda profile: (str(profile.key), profile.provenance.source))
    lines = [
        json.dumps(compact(profile.model_dump(exclude_defaults=True)), separators=(",", ":")) for profile in profiles
    ]
    options.out.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    cards = sorted({profile.key.accelerator.split(" x")[0] for profile in profiles})
    print(
        f"{len(profiles)} profiles, {options.out.stat().st_size / 1000:.0f} kB, {len(cards)} cards: {', '.join(cards)}"
    )
    for profile in profiles:
        if profile.provenance.kind == "inferred" and profile.decode:
            print(f"inferred: {profile.key}: {profile.decode.cv_median_error:.1%} of whole requests")


if __name__ == "__main__":
    main()
