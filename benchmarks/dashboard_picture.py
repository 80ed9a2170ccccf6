"""Make docs/dashboard.png: the page /fmware of a real cluster with emulated engines, under load.

    python -m benchmarks.dashboard_picture

Cards of two speeds and prices serve both demo workflows to two tenants, below saturation but for a burst, after
which the picture is taken. Needs Playwright and a Chromium that is installed.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from distributed import Client
from playwright.sync_api import sync_playwright
from rich.progress import track

import dask_fmware as fm
from dask_fmware.demo import passages
from dask_fmware.demo.inputs import MESSAGES, QUESTIONS
from dask_fmware.demo.rag import rag
from dask_fmware.demo.shopping import shopping

PICTURE = Path(__file__).parents[1] / "docs" / "dashboard.png"
CARDS = {"A100": (1, 1.9), "L40S": (2, 0.9)}  # how many, and their price for an hour
TICK_S = 0.1


def deployment() -> fm.Deployment:
    """One replica of each model on each card, of an 8B model in four times its time."""

    def emulated(card: str) -> dict[str, object]:
        return {"arguments": {"catalog": {"model": "Llama-3.1-8B", "accelerator": card}, "time_scale": 4}}

    return fm.Deployment.model_validate(
        {
            "accelerators": {
                card: {"cards": count, "replicas_per_card": 2, "price_per_hour": price}
                for card, (count, price) in CARDS.items()
            },
            "models": {
                model: {"engine": "emulated", "slots": 6, "on": {card: emulated(card) for card in CARDS}}
                for model in ("small", "large")
            },
            "tenants": {"search": {"weight": 2.0}, "support": {"weight": 1.0}},
        }
    )


def load(client: Client, seconds: float, rate: float, burst: float) -> list[object]:
    """Submit runs at random, for a tenth of the time at a higher rate, and return their futures."""
    draw, futures = random.Random(1000), []
    for tick in track(range(int(seconds / TICK_S)), description="load", disable=not sys.stderr.isatty()):
        share = tick * TICK_S / seconds
        if draw.random() < TICK_S * (burst if 0.75 < share < 0.85 else rate):
            tenant = draw.choice(["search", "search", "support"])
            asks = draw.random() < 0.6
            bound = rag(question=draw.choice(QUESTIONS)) if asks else shopping(message=draw.choice(MESSAGES))
            futures.append(client.compute(bound.options(tenant=tenant, slo=fm.SLO(ttft_s=3.0))))
        time.sleep(TICK_S)
    return futures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--rate", type=float, default=1.2, help="runs a second")
    parser.add_argument("--burst", type=float, default=5.0, help="runs a second for a tenth of the time")
    parser.add_argument("--output", type=Path, default=PICTURE)
    asked = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        parser.error("no Chromium is installed")
    passages.build(passages.database())
    with fm.LocalModelCluster(deployment(), dashboard_address="127.0.0.1:0") as cluster, Client(cluster) as client:
        fm.wait_ready(client)
        with ThreadPoolExecutor(1) as others, sync_playwright() as driver:
            submitted = others.submit(load, client, asked.seconds, asked.rate, asked.burst)
            time.sleep(0.85 * asked.seconds)
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="dark")
            page.goto(cluster.dashboard_link.replace("/status", "/fmware"))
            page.wait_for_timeout(5000)
            page.route("**/figures.json*", lambda route: None)  # never answered: the page stands still for its picture
            page.wait_for_timeout(500)
            page.screenshot(path=asked.output, full_page=True)
            browser.close()
            futures = submitted.result()
        client.gather(futures)
    print(f"{asked.output} written, of {len(futures)} runs")


if __name__ == "__main__":
    main()
