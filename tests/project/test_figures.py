"""Figures that documents repeat from benchmarks; whoever measures anew finds here which sentence to change."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

OVERHEAD = (
    ("chain of three calls, p50 | 22.5 ms | 7.2 ms | 8.1 ms | 7.1 ms", "p50 ms | 22.53 | 7.177 | 8.054 | 7.079"),
    ("round of a loop, p50 | 11.2 ms | 11.0 ms | 11.2 ms | 3.0 ms", "of 10, p50 ms | 11.17 | 10.99 | 11.16 | 3.009"),
    ("tasks a second, flat graph | 2208 | 2163 | 1706 | 1676", "tasks/s, flat graph | 2208 | 2163 | 1706 | 1676"),
    ("tasks a second, chains of three | 2732 | 2872 | 2444 | 2054", "tasks/s, chains of 3 | 2732 | 2872 | 2444 | 2054"),
    ("370 us | 381 us | 476 us | 476 us", "CPU us/task, flat graph | 369.9 | 380.6 | 475.9 | 475.8"),
)  # fmt: skip

DESIGN = (  # by chapter
    ("workers", "adds 1.0 ms to vLLM's TTFT and takes 3.4 %", "hosting_vllm", "throughput lost 3.4%"),
    ("contract", "20,000 runs and 127 MB after 50,000", "bounded_memory_real", "127 MB in the last fifth"),
    ("faults", "0.02 s later (median; 1.65 s at", "recovery", "0.02 / 1.65 s"),
    ("faults", "after 4.3 s here and 10.6 s there", "recovery", "| 4.32 / 8.88 s"),
    ("faults", "light load (-0.1 to +1.2)", "hedging", "+0.53 (-0.10 to +1.15)"),
    ("faults", "-0.3 at 0.9 (-0.8 to +0.2)", "hedging", "-0.28 (-0.75 to +0.19)"),
    ("profiles", "latency 33 % before and 23 % after", "slowed_replica", "| 16.4% | 0.661 s | 0.688 s | 22.7%"),
    ("routing", "0.534 in time", "slack_overload", "| slack | 0.534 |"),
    ("routing", "0.975 (RAG) and 0.951 (shopping)", "slack_paper_deterministic", "0.724 to 0.750 | 0.975"),
    ("routing", "| +0.62 | +0.53 | +0.42 |", "slack_batching2", "+0.419 (+0.415 to +0.422)"),
    ("routing", "| +0.59 (0.44 to 0.74) |", "slack_batching2", "| 1 | greedy | 0.271 | +0.594 (+0.444 to +0.743)"),
    ("routing", "| +0.027 (0.014 to 0.040) |", "slack_batching6", "| greedy | 0.953 | +0.027 (+0.014 to +0.040)"),
    ("routing", "0.002 at 0.8 on two", "slack_batching2", "| 0.8 | greedy | 0.981 | +0.002 (-0.001 to +0.005)"),
    ("routing", "seeds of 20 s | +0.003 (-0.005 to 0.012) | +0.32 | +0.37", "slack_batching64", "+0.366 (+"),
    ("routing", "0.38 (0.06 to 0.71)", "prefix_affinity", "+0.383 (+0.056 to +0.710)"),
    ("routing", "wanted) | 43 and 45 us", "decision_cost", "| slack | 16 | 0 | 42.7 us"),
    ("routing", "1,954 bytes", "decision_cost", "1,954 bytes"),
    ("tenants_and_jobs", "| six | 95 % for 0.0 | 92 % for 0.1 | 94 % for 0.1 |", "batch_beside", "0.94 (0.91 to 0.97)"),
    ("tenants_and_jobs", "loses 1.5, 2.2 and 1.7 points", "slack_fairness", "-0.017 (-0.023 to -0.010)"),
    ("simulator", "343 s of CPU", "simulator_speed", "982,782 | 343.1 s"),
    ("beside_ray_serve", "chain of three calls | 0.43 | 0.5 | 1.00",
     "ray_overhead", "| 5.585 | 13 | 5.565 | 0.43 | 1.00"),
    ("beside_ray_serve", "goodput over N | +84 % | +81 % | +85 % |", "paper", "+84 % (+65 to +105)"),
    ("evaluation", "run at 93 % of what the engines alone", "evaluation_throughput", "**93.4%**"),
    ("evaluation", "| 89 % for 0.5 points | 85 % for 0.3 points |", "batch_beside_real", "| 7.1 | 85% |"),
    ("provisioning_measured", "gave 0.954 (0.907 to 1.000) at 0.55",
     "provisioning_large", "0.954 (0.907 - 1.000) | 0.511 | 0.55"),
)  # fmt: skip

FIGURES = (
    *(("README.md", said, "overhead", found) for said, found in OVERHEAD),
    *((f"docs/design/{chapter}.md", *figure) for chapter, *figure in DESIGN),
    ("README.md", "tight objectives, simulated | 78 to 38 % | 0.0 to 1.3 |", "batch_beside", "1.3 (0.9 to 1.9) | 0.38"),
    ("README.md", "one seed | 89 and 85 % | 0.5 and 0.3 |", "batch_beside_real", "0.995 | 0.5 |"),
    ("README.md", "N +84 % (+65 to +105) and +85 %", "paper", "1.89 (1.66 to 2.65) | 0.760 | +84 % (+65 to +105)"),
    ("README.md", "-14 % (-22 to +0) and -31 %", "paper", "| rag | slack | -22 % (-29 to -14) | -14 % (-22 to +0)"),
    ("README.md", "39 % of the runs are in time under `slack`", "overload", "| slack | 0.389 (0.378 to 0.401) |"),
    ("README.md", "some 7 ms (13 to 16", "handover", "20 to 200 ms | one ahead | 7.0 ms | 15.9 ms"),
    ("benchmarks/README.md", "leave some 7 ms between", "handover", "20 to 200 ms | one ahead | 7.0 ms | 15.9 ms"),
    ("docs/engines.md", "token +1.9 ms with [llama.cpp]", "hosting_llama.cpp", "p50 1.94 ms"),
    ("docs/engines.md", "16 streams -2.2 % and", "hosting_llama.cpp", "throughput lost 2.2%"),
    ("docs/engines.md", "and +1.0 ms with [vLLM]", "hosting_vllm", "p50 0.99 ms"),
    ("docs/engines.md", "and -3.4 %", "hosting_vllm", "throughput lost 3.4%"),
    ("docs/clusters.md", "take 45 to 58 % of the card-hours", "provisioning_day", "0.58 (0.53 - 0.62)"),
    ("README.md", "chain takes 0.43 of the time", "ray_overhead", "| 5.585 | 13 | 5.565 | 0.43 | 1.00"),
    ("README.md", "2.13 times the calls", "ray_overhead", "| 1543 | 725.5 | 1799 | 2.13 | 0.86"),
    ("README.md", "1,500 calls or 640 chains", "ray_overhead", "| 641.7 | 164.7 | 395.5 | 3.90 | 1.62"),
    ("README.md", "some 280 calls a second", "overhead", "64 | 330.7 | 262.2 | 261.8 | 279.5"),
    ("benchmarks/README.md", "single call takes 0.80 of the time", "ray_overhead", "| 2.524 | 3.136 | 1.361 | 0.80"),
    ("benchmarks/README.md", "3.9 and 1.6 times the chains", "ray_overhead", "| 641.7 | 164.7 | 395.5 | 3.90 | 1.62"),
)  # fmt: skip


@pytest.mark.parametrize(("document", "said", "result", "found"), FIGURES)
def test_a_figure_that_is_repeated_is_that_of_the_table(document: str, said: str, result: str, found: str) -> None:
    kept = (ROOT / "benchmarks/results" / f"{result}.md").read_text(encoding="utf-8")
    assert found in kept, f"{result}.md was measured anew: change '{said}' in {document}, and this line of {__name__}"
    text = " ".join((ROOT / document).read_text(encoding="utf-8").split())
    assert said in text, f"{document} no longer says '{said}' of {result}.md: change this line of {__name__}"
