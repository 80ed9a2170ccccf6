/* Asks for figures once a second while the page is seen, and hands them to the panels and plots. */
"use strict";
(function () {
  const INTERVAL_MS = 1000, HALF_BUCKET_MS = 2500, LEAST_MS = 2 * 60 * 1000;
  const known = { fleet: { version: -1, data: [] }, graphs: { version: -1, data: {} }, predictions: { version: -1, data: null } };
  let drawn = false;
  const number = (value) => (value === null ? NaN : value);

  function bokeh() {
    const doc = window.Bokeh && Bokeh.documents.length ? Bokeh.documents[0] : null;
    return doc && doc.roots().length ? doc : null;
  }

  function theme() {
    const doc = bokeh();
    if (!doc) return;
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink-soft").trim(), line = style.getPropertyValue("--line-plot").trim();
    for (const plot of doc.roots()) {
      for (const side of [plot.left, plot.right, plot.above, plot.below, plot.center]) {
        for (const item of side) {
          if ("major_label_text_color" in item) item.setv({ major_label_text_color: ink, axis_label_text_color: ink });
          if ("grid_line_color" in item && item.dimension === 1) item.setv({ grid_line_color: line });
          if ("label_text_color" in item) item.setv({ label_text_color: ink });
        }
      }
    }
  }

  function series(doc, live) {
    const source = doc.get_model_by_name("series-data"), column = live.series;
    const set = (live.clock_set_s ?? 0) * 1000;
    if (source) {
      const data = {};
      for (const name of Object.keys(source.data)) data[name] = column[name].map(number);
      data.time = column.time.map((start) => start + HALF_BUCKET_MS + set);
      source.data = data;
    }
    const now = live.now * 1000, first = Math.min(column.since ?? now, now - LEAST_MS);
    for (const plot of doc.roots()) {
      if (plot.x_range.name === "time") plot.x_range.setv({ start: first + set, end: now + set });
    }
  }

  function slack(doc, live) {
    const source = doc.get_model_by_name("slack-data");
    if (source) source.data = { bin: source.data.bin, held: live.slack.held, parked: live.slack.parked };
  }

  function predictions(doc, points) {
    const source = doc.get_model_by_name("predictions-data");
    if (!source || !points) return;
    const looks = window.fmwareKinds(points);
    source.data = {
      predicted: points.predicted, measured: points.measured,
      colour: points.kind.map((i) => looks[i].colour), mark: points.kind.map((i) => looks[i].mark), kind: points.kind.map((i) => looks[i].name),
    };
    const seen = points.predicted.concat(points.measured).filter((value) => value > 0);
    if (!seen.length) return;
    const range = { start: Math.min(...seen) / 1.3, end: Math.max(...seen) * 1.3 };
    for (const name of ["predicted", "measured"]) doc.get_model_by_name(name).setv(range);
  }

  function show(answer) {
    for (const part of Object.keys(known)) if (answer[part]) known[part] = answer[part];
    const data = { live: answer.live, fleet: known.fleet, graphs: known.graphs.data, predictions: known.predictions.data };
    window.fmwarePanels(data);
    const doc = bokeh();
    if (doc) {  /* plots come later than the first figures */
      series(doc, answer.live);
      slack(doc, answer.live);
      if (answer.predictions || !drawn) predictions(doc, known.predictions.data);
      if (!drawn) theme();
      drawn = true;
    }
  }

  async function poll() {
    const query = Object.entries(known).map(([part, { version }]) => `${part}=${version}`).join("&");
    try {
      const response = await fetch(`fmware/figures.json?${query}`, { cache: "no-store" });
      if (!response.ok) throw new Error(`the scheduler answered ${response.status}`);
      show(await response.json());
      document.documentElement.dataset.connection = "live";
    } catch (error) {
      document.documentElement.dataset.connection = "lost";
      if (!(error instanceof TypeError && error.message.includes("fetch"))) console.error(error);
    }
  }

  async function loop() {
    if (!document.hidden) await poll();
    setTimeout(loop, INTERVAL_MS);
  }

  document.addEventListener("fmware-theme", theme);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
  loop();
})();
