"""The page in a real browser: live figures, no errors in its console, names of users shown as text."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import dask_fmware as fm
from dask_fmware.testing import deployment
from tests.cluster.flows import one, rag, small
from tests.cluster.test_dashboard import CANARY, DashboardCluster

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_MS = 60_000


@asynccontextmanager
async def browser() -> AsyncIterator[Any]:
    playwright = pytest.importorskip("playwright.async_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    async with playwright.async_playwright() as driver:
        shown = await driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield shown
        finally:
            await shown.close()


async def opened(shown: Any, url: str, troubles: list[str], **options: Any) -> Any:
    """A page whose errors are collected."""
    context = await shown.new_context(**options)
    page = await context.new_page()
    page.on("console", lambda m: troubles.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: troubles.append(f"a script of a user ran: {dialog.message}"))
    page.on("response", lambda r: troubles.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    await page.goto(url, timeout=PATIENCE_MS)
    return page


async def text_with(page: Any, panel: str, text: str) -> str:
    """Text of a panel, once it holds something."""
    body = page.locator(f'[data-panel="{panel}"]')
    await body.get_by_text(text).locator("visible=true").first.wait_for(timeout=PATIENCE_MS)
    return str(await body.inner_text())


async def column(page: Any, source: str, name: str) -> list[Any]:
    """What a plot draws."""
    code = "([source, name]) => Array.from(Bokeh.documents[0].get_model_by_name(source).data[name])"
    return list(await page.evaluate(code, [source, name]))


async def submit(cluster: DashboardCluster) -> list[Any]:
    """Runs that are in time, one that is late, one that waits; of a tenant whose name is HTML."""
    client = cluster.client
    runs = [client.compute(rag(question="How?").options(tenant=CANARY)) for _ in range(4)]
    await client.gather(runs)
    late = client.compute(one("x").options(slo=fm.SLO(e2e_s=0.000_001), tenant="in haste"))
    await late
    cluster.engines["small-cpu-0"].pause()
    held = [client.compute(one("y").options(slo=fm.SLO(e2e_s=600))) for _ in range(3)]
    return [*runs, late, *held]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1920)])
async def test_the_page_shows_live_figures_and_no_errors(scheme: str, width: int) -> None:
    document = deployment("small", "large", slots=1, token_s=0.02)  # else hops take longer than calls
    async with DashboardCluster(document) as cluster, browser() as shown:
        url = f"http://127.0.0.1:{cluster.scheduler.http_server.port}"
        troubles: list[str] = []
        page = await opened(
            shown, f"{url}/fmware", troubles, viewport={"width": width, "height": 1000}, color_scheme=scheme
        )
        assert "No SLO to judge" in await text_with(page, "overview", "No SLO to judge")
        assert "No run has been submitted yet" in await text_with(page, "workflow", "No run has been submitted yet")
        futures = await submit(cluster)
        overview = await text_with(page, "overview", "To blame")  # a moment before it was late and had not ended
        assert "SLOs are missed" in overview
        assert "4 of 5 runs were in time in the last 5 minutes. To blame: node call of one, 1 of 1 misses" in overview
        assert "card cpu-0" in overview
        await text_with(page, "workflow", "1 running · 2 waiting")
        assert "rewrite" in await text_with(page, "workflow", "answer")
        assert CANARY in await text_with(page, "groups", CANARY)
        assert "small-cpu-0" in await text_with(page, "replicas", "1 / 1")
        assert "ran too long" in await text_with(page, "blame", "cpu-0")
        await page.wait_for_function(
            "() => Bokeh.documents[0].get_model_by_name('slack-data').data.held.some((count) => count === 2)",
            timeout=PATIENCE_MS,
        )
        assert sum(x > 0 for x in await column(page, "series-data", "met")) >= 1
        await page.wait_for_function(
            "() => Bokeh.documents[0].get_model_by_name('predictions-data').data.predicted.length === 9",
            timeout=PATIENCE_MS,
        )
        looks = await column(page, "predictions-data", "mark")
        assert set(looks) == {"circle", "triangle"}  # colour alone does not tell them apart
        told = await page.locator('[data-legend="predictions"]').inner_text()
        assert "▲ small on cpu" in told
        assert "● large on cpu" in told
        assert await page.evaluate("() => document.documentElement.dataset.theme") == scheme
        assert not await page.evaluate("() => document.documentElement.scrollWidth > window.innerWidth")
        cluster.engines["small-cpu-0"].resume()
        await cluster.client.gather(futures)
        await text_with(page, "workflow", "0 running · 0 waiting")
        assert troubles == []
        for future in futures:
            future.release()


@pytest.mark.parametrize("width", [420, 1280])
async def test_names_as_long_as_they_may_be_hide_no_figures(width: int) -> None:
    document = deployment("small", token_s=0.02)
    card = "card_" * 20
    document["accelerators"] = {card: document["accelerators"].pop("cpu")}
    document["models"]["small"]["on"] = {card: document["models"]["small"]["on"].pop("cpu")}
    long = fm.workflow(
        lambda: small("x", name="node_" * 20, max_tokens=16), name="flow_" * 20, slo=fm.SLO(e2e_s=0.000_001)
    )
    async with DashboardCluster(document) as cluster, browser() as shown:
        await cluster.client.compute(long().options(tenant="tenant_" * 20))
        url = f"http://127.0.0.1:{cluster.scheduler.http_server.port}"
        page = await opened(shown, f"{url}/fmware", [], viewport={"width": width, "height": 1000})
        await text_with(page, "blame", "ran too long")
        assert not await page.evaluate("() => document.documentElement.scrollWidth > window.innerWidth")
        wide = "() => [...document.querySelectorAll('.fm-body')].filter((b) => b.scrollWidth > b.clientWidth).length"
        assert width < 1000 or not await page.evaluate(wide)


async def test_every_panel_is_a_page_of_its_own() -> None:
    async with DashboardCluster(deployment("small", "large")) as cluster, browser() as shown:
        url = f"http://127.0.0.1:{cluster.scheduler.http_server.port}"
        await cluster.client.compute(rag(question="How?"))
        troubles: list[str] = []
        plots = await (await opened(shown, f"{url}/individual-plots.json", troubles)).inner_text("body")
        for panel, text in (("overview", "SLOs are met"), ("replicas", "small-cpu-0"), ("workflow", "rewrite")):
            assert f"/individual-fmware-{panel}" in plots
            page = await opened(shown, f"{url}/individual-fmware-{panel}", troubles)
            await text_with(page, panel, text)
        page = await opened(shown, f"{url}/individual-fmware-throughput", troubles)
        await page.wait_for_function(
            "() => window.Bokeh?.documents[0]?.get_model_by_name('series-data')?.data.met.some((rate) => rate > 0)",
            timeout=PATIENCE_MS,
        )
        assert troubles == []


async def test_each_of_many_workflows_can_be_chosen_and_is_known_by_the_end_of_its_name() -> None:
    flows = [fm.workflow(lambda: small("x"), name=f"{'a_long_beginning_' * 3}{number}") for number in range(14)]
    async with DashboardCluster(deployment("small")) as cluster, browser() as shown:
        await cluster.client.gather([cluster.client.compute(flow()) for flow in reversed(flows)])
        page = await opened(shown, f"http://127.0.0.1:{cluster.scheduler.http_server.port}/fmware", [])
        await text_with(page, "workflow", "g_13")
        tabs = await page.locator(".fm-tab").all_inner_texts()
        assert [tab.rpartition("_")[2] for tab in tabs[1:]] == [str(number) for number in range(14)]
        await page.locator(".fm-tab").last.click()
        await page.locator('.fm-tab[aria-pressed="true"]', has_text="_13").wait_for(timeout=PATIENCE_MS)


async def test_a_graph_is_scrolled_and_not_made_too_small_to_read() -> None:
    async with DashboardCluster(deployment("small", "large")) as cluster, browser() as shown:
        await cluster.client.compute(rag(question="How?"))
        url = f"http://127.0.0.1:{cluster.scheduler.http_server.port}/individual-fmware-workflow"
        page = await opened(shown, url, [], viewport={"width": 420, "height": 600})
        await text_with(page, "workflow", "rewrite")
        scale = "(svg) => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width"
        assert await page.locator(".fm-graph svg").evaluate(scale) > 0.65
        assert await page.locator(".fm-graph").evaluate("(graph) => graph.scrollWidth > graph.clientWidth")


async def test_a_page_without_an_answer_does_not_call_its_figures_live() -> None:
    async with DashboardCluster(deployment("small")) as cluster, browser() as shown:
        page = await opened(shown, f"http://127.0.0.1:{cluster.scheduler.http_server.port}/fmware", [])
        assert "figures are old" not in await text_with(page, "overview", "live")
        await page.route("**/figures.json*", lambda route: route.abort())
        assert "live" not in (await text_with(page, "overview", "figures are old")).split()
        await page.unroute("**/figures.json*")
        await text_with(page, "overview", "live")


async def test_a_page_that_nobody_sees_asks_nothing() -> None:
    async with DashboardCluster(deployment("small")) as cluster, browser() as shown:
        url = f"http://127.0.0.1:{cluster.scheduler.http_server.port}"
        page = await opened(shown, f"{url}/fmware", [])
        await text_with(page, "overview", "No SLO to judge")
        await page.evaluate("() => Object.defineProperty(document, 'hidden', { get: () => true })")
        await asyncio.sleep(2)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await asyncio.sleep(3)
        assert asked == []
