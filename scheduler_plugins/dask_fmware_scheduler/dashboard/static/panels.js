/* The panels that are not plots. Every text goes in as text: names and errors of users are never read as HTML. */
"use strict";
(function () {
  const SVG = "http://www.w3.org/2000/svg";
  const TABLE_ROWS = 24, UTILISATION_MS = 60000, MOST_MISSING = 4;

  /* -- elements ------------------------------------------------------------------------------- */

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
    for (const child of children.flat()) {
      if (child === null || child === undefined) continue;
      element.append(child instanceof Node ? child : document.createTextNode(String(child)));
    }
    return element;
  }
  const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const s = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
  const body = (name) => document.querySelector(`[data-body="${name}"]`);
  const note = (name, text) => {
    const element = document.querySelector(`[data-note="${name}"]`);
    if (element) element.textContent = text;
  };

  /* -- figures -------------------------------------------------------------------------------- */

  const percent = (share, digits = 1) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(share === 1 ? 0 : digits)} %`);
  const count = (value) => (value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en"));
  const many = (value, word) => `${count(value)} ${word}${value === 1 ? "" : "s"}`;
  const rate = (value) => (value >= 100 ? count(value) : value.toFixed(value >= 10 ? 1 : 2));
  function seconds(value) {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size >= 100) return `${value.toFixed(0)} s`;
    if (size >= 10) return `${value.toFixed(1)} s`;
    return size >= 0.0995 || size === 0 ? `${value.toFixed(2)} s` : `${(1000 * value).toFixed(0)} ms`;
  }
  /* Long names differ at their ends as often as at their beginnings. */
  const shorten = (text, length) => (text.length > length ? `${text.slice(0, Math.ceil((length - 1) / 2))}…${text.slice(-Math.floor((length - 1) / 2))}` : text);
  const byName = (a, b) => a.localeCompare(b, "en", { numeric: true });
  const grade = (share) => (share === null ? "none" : share >= 0.99 ? "good" : share >= 0.9 ? "risk" : "bad");

  /* -- overview ------------------------------------------------------------------------------- */

  function tile(label, value, detail, mark = "none") {
    return h("div", { class: "fm-tile", "data-grade": mark }, h("span", { class: "fm-label" }, label),
      h("strong", {}, value), h("span", { class: "fm-detail" }, detail));
  }

  function overview({ live }) {
    const t = live.tiles, verdict = live.verdict;
    const tiles = [
      tile("Goodput", percent(t.attainment), t.judged + t.late ? `${count(t.met)} of ${count(t.judged + t.late)} in SLO · last minute ${percent(t.last_minute)}` : "no run with an SLO ended", grade(t.attainment)),
      tile("Runs in SLO", `${rate(t.met_per_s)}/s`, `${rate(t.ended_per_s)}/s ended · ${count(t.runs)} under way${t.late ? `, ${count(t.late)} late` : ""}`),
      tile("First token p95", seconds(t.ttft[1]), `p50 ${seconds(t.ttft[0])}`),
      tile("Done p95", seconds(t.e2e[1]), `p50 ${seconds(t.e2e[0])}`),
      tile("Waiting calls", count(t.held), t.parked ? `${count(t.parked)} parked: too late already` : "none is parked", t.parked ? "risk" : "none"),
      tile("Slots in use", t.slots ? percent(t.running / t.slots, 0) : "–", `${count(t.running)} of ${count(t.slots)} slots`),
      tile("Output", `${rate(t.tokens_per_s)}`, "tokens/s"),
    ];
    if (t.price_per_hour !== null) {
      tiles.push(tile("Card cost", `${t.price_per_hour.toFixed(2)}/h`,
        t.price_per_1000_met === null ? "no run in SLO to share it" : `${t.price_per_1000_met.toFixed(2)} for 1,000 runs in SLO`));
    }
    const troubles = live.failed.map((text) => h("p", { class: "fm-trouble" }, text[0].toUpperCase() + text.slice(1)));
    for (const [hook, times] of Object.entries(live.faults)) {
      troubles.push(h("p", { class: "fm-trouble" }, `The router failed ${times} times in ${hook}; see the scheduler's log.`));
    }
    const button = h("button", { class: "fm-theme", type: "button", title: "light or dark", "aria-label": "light or dark" }, "◐");
    button.addEventListener("click", window.fmwareToggleTheme);
    body("overview").replaceChildren(
      h("header", { class: "fm-verdict", "data-state": verdict.state },
        h("div", {}, h("h1", {}, verdict.headline), h("p", {}, verdict.detail), ...troubles),
        h("div", { class: "fm-meta" }, h("span", { class: "fm-live" }, "live"), h("span", { class: "fm-lost" }, "no answer, figures are old"), h("span", {}, `policy ${live.policy}`), button)),
      h("div", { class: "fm-tiles" }, ...tiles));
  }

  /* -- who is to blame ------------------------------------------------------------------------ */

  const bar = (share, mark) => h("div", { class: "fm-bar", "data-grade": mark || "none" },
    h("i", { style: `width:${Math.min(100, 100 * share).toFixed(1)}%` }));
  const empty = (text) => h("p", { class: "fm-empty" }, text);
  function table(heads, rows) {
    return h("table", {}, h("thead", {}, h("tr", {}, ...heads.map((head) => h("th", {}, head)))),
      h("tbody", {}, ...rows.map((row) => h("tr", {}, ...row.map((cell) => (cell instanceof HTMLTableCellElement ? cell : h("td", {}, cell)))))));
  }
  const named = (...parts) => h("td", { class: "fm-named" }, ...parts);
  const figure = (text, mark) => h("td", { class: "fm-number", "data-grade": mark || null }, text);

  function blame({ live }) {
    note("blame", live.culprits.length ? "last 5 minutes, by node and card" : "");
    body("blame").replaceChildren(live.culprits.length
      ? table(["node", "card", "why", "misses", "", "lost each"], live.culprits.map((c) => [
        named(h("b", {}, c.node || "–"), h("small", {}, c.workflow)),
        named(c.card || "–", h("small", {}, c.accelerator)),
        c.cause, figure(count(c.runs)), bar(c.share, "bad"), figure(c.lost_s > 0 ? seconds(c.lost_s) : "–")]))
      : empty(live.tiles.late ? "Runs under way are late: fm.explain(future) says why." : live.tiles.judged ? "No run missed its SLO in the last 5 minutes." : "No run with an SLO has ended yet."));
  }

  /* -- workflow ------------------------------------------------------------------------------- */

  const AT_ONCE = 2;
  let shown = null;  /* the workflow that was chosen */
  const BOX = { width: 208, height: 78, gapX: 46, gapY: 16, pad: 6 };

  function statistics(rows, name) {
    const sum = { running: 0, waiting: 0, calls: 0, slack: null, misses: 0, ran: null, waited: null };
    (rows ? rows.node : []).forEach((node, i) => {
      if (node.split("[")[0] !== name) return;
      for (const column of ["running", "waiting", "calls", "misses"]) sum[column] += rows[column][i];
      const waited = rows.waited_s[i], ran = rows.ran_s[i], slack = rows.slack_s[i];
      if (waited !== null) sum.waited = Math.max(sum.waited || 0, waited);
      if (ran !== null) sum.ran = Math.max(sum.ran || 0, ran);
      if (slack !== null) sum.slack = sum.slack === null ? slack : Math.min(sum.slack, slack);
    });
    return sum;
  }

  function box(node, at, facts, most) {
    const isCall = node.model !== null || facts.calls + facts.running + facts.waiting > 0;
    const text = (x, y, content, klass) => s("text", { x, y, class: klass }, content);
    const marks = [];
    if (isCall) {
      marks.push(text(12, 50, `${count(facts.running)} running · ${count(facts.waiting)} waiting`, facts.waiting ? "fm-busy" : "fm-soft"));
      if (facts.slack !== null) marks.push(text(12, 67, `slack ${seconds(facts.slack)}`, facts.slack < 0 ? "fm-late" : "fm-soft"));
      if (facts.misses) {
        marks.push(s("rect", { x: BOX.width - 80, y: 54, width: 72, height: 18, rx: 9, class: "fm-pill" }));
        marks.push(s("text", { x: BOX.width - 44, y: 67, class: "fm-pilltext" }, `${count(facts.misses)} miss${facts.misses === 1 ? "" : "es"}`));
      }
    }
    const heat = most ? Math.min(1, facts.misses / most) : 0;
    const title = `${node.name}${node.model ? ` (${node.model})` : ""}: ${facts.running} running, ${facts.waiting} waiting, ` +
      `${facts.calls} ended in 5 min, waited ${seconds(facts.waited)} and ran ${seconds(facts.ran)} on average, ${facts.misses} misses`;
    return s("g", { transform: `translate(${at.x},${at.y})`, class: isCall ? "fm-call" : "fm-plain" },
      s("title", {}, title),
      s("rect", { width: BOX.width, height: BOX.height, rx: 8, class: "fm-box" }),
      s("rect", { width: BOX.width, height: BOX.height, rx: 8, class: "fm-heat", style: `opacity:${(0.28 * heat).toFixed(2)}` }),
      s("rect", { width: 4, height: BOX.height - 16, x: 0, y: 8, rx: 2, class: node.answers ? "fm-answer" : "fm-kind" }),
      text(12, 20, shorten(node.name, 22), "fm-name"),
      text(12, 34, node.model ? shorten(node.model, 24) : isCall ? "map or loop" : "plain code", "fm-soft"), ...marks);
  }

  function draw(nodes, rows) {
    const place = (node) => ({ x: BOX.pad + node.column * (BOX.width + BOX.gapX), y: BOX.pad + node.row * (BOX.height + BOX.gapY) });
    const at = new Map(nodes.map((node) => [node.name, place(node)]));
    const facts = new Map(nodes.map((node) => [node.name, statistics(rows, node.name)]));
    const most = Math.max(0, ...[...facts.values()].map((f) => f.misses));
    const links = nodes.flatMap((node) => node.after.filter((name) => at.has(name)).map((name) => {
      const a = at.get(name), b = at.get(node.name), x1 = a.x + BOX.width, y1 = a.y + BOX.height / 2, y2 = b.y + BOX.height / 2;
      const bend = Math.max(20, (b.x - x1) / 2);
      return s("path", { d: `M${x1},${y1} C${x1 + bend},${y1} ${b.x - bend},${y2} ${b.x},${y2}`, class: "fm-link" });
    }));
    const width = Math.max(...[...at.values()].map((p) => p.x)) + BOX.width + BOX.pad;
    const height = Math.max(...[...at.values()].map((p) => p.y)) + BOX.height + BOX.pad;
    return s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, style: `--natural:${width}px`, role: "img", "aria-label": "graph of the workflow" },
      ...links, ...nodes.map((node) => box(node, at.get(node.name), facts.get(node.name), most)));
  }

  function workflow({ live, graphs }) {
    const names = Object.keys(graphs).sort(byName);
    if (!names.length) {
      note("workflow", "");
      body("workflow").replaceChildren(empty("No run has been submitted yet. Submit one: client.compute(workflow(...))"));
      return;
    }
    const total = (name, ...columns) => columns.flatMap((column) => (live.nodes[name] || {})[column] || []).reduce((sum, one) => sum + one, 0);
    const missesOf = (name) => total(name, "misses"), callsOf = (name) => total(name, "running", "waiting", "calls");
    note("workflow", "calls now; slack when they start, and misses, in the last 5 minutes");
    const chosen = names.includes(shown) ? [shown]
      : [...names].sort((a, b) => missesOf(b) - missesOf(a) || callsOf(b) - callsOf(a) || byName(a, b)).slice(0, AT_ONCE);
    const tab = (text, name, misses) => {
      const button = h("button", { type: "button", class: "fm-tab", title: name, "aria-pressed": String(name === null ? chosen.length > 1 || names.length === 1 : name === shown) },
        text, misses ? h("em", {}, count(misses)) : null);
      button.addEventListener("click", () => { shown = name; workflow({ live, graphs }); });
      return button;
    };
    const tabs = names.length > 1
      ? [tab(names.length > AT_ONCE ? "most misses" : "all", null, 0), ...names.map((name) => tab(shorten(name, 28), name, missesOf(name)))] : [];
    const drawn = chosen.map((name) => h("div", { class: "fm-graph" }, chosen.length > 1 ? h("h3", {}, name) : null, draw(graphs[name], live.nodes[name])));
    const old = [...body("workflow").querySelectorAll(".fm-graph")].map((element) => element.scrollLeft);
    const row = h("div", { class: "fm-tabs" }, ...tabs), top = body("workflow").querySelector(".fm-tabs")?.scrollTop || 0;
    body("workflow").replaceChildren(row, ...drawn);
    row.scrollTop = top;
    drawn.forEach((element, i) => { element.scrollLeft = old[i] || 0; });
  }

  /* -- replicas ------------------------------------------------------------------------------- */

  let readings = [], readVersion = -1, cells = null;

  function utilisation(live, fleet) {
    if (readVersion !== fleet.version) { readings = []; readVersion = fleet.version; cells = null; }
    const busy = live.replicas.busy_ms;
    readings.push({ at: live.now * 1000, busy });
    while (readings.length > 2 && readings[0].at < live.now * 1000 - UTILISATION_MS) readings.shift();
    const first = readings[0], span = live.now * 1000 - first.at;
    return fleet.data.map((row, i) => (span > 500 ? (busy[i] - first.busy[i]) / span : live.replicas.running[i]) / row[4]);
  }

  function replicas({ live, fleet }) {
    const now = live.replicas, data = fleet.data;
    if (live.fleet !== fleet.version) return;  /* an answer that was overtaken, of replicas as they were */
    const used = utilisation(live, fleet);
    const missing = live.missing.slice(0, MOST_MISSING).join(", ") + (live.missing.length > MOST_MISSING ? " and more" : "");
    note("replicas", data.length ? `${many(data.length, "replica")}, ${many(live.light_workers, "light worker")}${missing && ` · missing: ${missing}`}` : "");
    if (!data.length) {
      body("replicas").replaceChildren(empty("No replica is ready yet. Workers load their models and announce themselves."));
      return;
    }
    if (data.length <= TABLE_ROWS) rows(data, now, used);
    else heat(data, now, used);
  }

  function health(standing, drift) {
    const slow = drift !== undefined && drift > 1;
    const text = standing !== undefined ? standing : drift === undefined ? "ready" : `${(slow ? drift : 1 / drift).toFixed(1)} times ${slow ? "slower" : "faster"} than its profile`;
    return h("td", {}, h("span", { class: "fm-health", "data-grade": standing !== undefined || slow ? "risk" : "good" }, text));
  }

  function rows(data, now, used) {
    const order = data.map((_, i) => i).sort((a, b) => byName(data[a][1], data[b][1]) || byName(data[a][0], data[b][0]));
    body("replicas").replaceChildren(table(
      ["replica", "model", "card", "health", "running", "waiting", "utilisation", "", "KV", "misses"],
      order.map((i) => {
        const [replica, model, accelerator, card, slots, engine] = data[i];
        return [named(h("b", { title: engine }, replica)), named(model), named(card, h("small", {}, accelerator)), health(now.standing[i], now.drift[i]),
          figure(`${now.running[i]} / ${slots}`), figure(count(now.waiting[i]), now.waiting[i] ? "risk" : null),
          bar(used[i]), figure(percent(used[i], 0)), figure(now.kv[i] === null ? "–" : `${now.kv[i]} %`), figure(count(now.misses[i]), now.misses[i] ? "bad" : null)];
      })));
  }

  function heat(data, now, used) {
    const kinds = new Map();
    data.forEach((row, i) => {
      const kind = `${row[1]} on ${row[2]}`;
      if (!kinds.has(kind)) kinds.set(kind, []);
      kinds.get(kind).push(i);
    });
    if (cells === null) {
      cells = new Array(data.length);
      const blocks = [...kinds].sort(([a], [b]) => byName(a, b)).map(([kind, members]) => h("div", { class: "fm-kindblock" },
        h("h3", {}, kind, h("small", { "data-kind": kind })),
        h("div", { class: "fm-cells" }, ...members.map((i) => (cells[i] = h("i", {}))))));
      body("replicas").replaceChildren(h("div", { class: "fm-kinds" }, ...blocks), h("p", { class: "fm-legend" },
        h("span", {}, "utilisation of the last minute: idle"), h("i", { class: "fm-scale" }), h("span", {}, "full"),
        h("span", {}, "· red border: runs missed their SLO there · hollow: not ready")));
    }
    data.forEach((row, i) => {
      const cell = cells[i];
      cell.style.setProperty("--used", Math.max(0, Math.min(1, used[i])).toFixed(3));
      cell.dataset.grade = now.misses[i] ? "bad" : now.standing[i] !== undefined ? "risk" : "";
      cell.title = `${row[0]} on card ${row[3]}: ${now.standing[i] ?? "ready"}, ${now.running[i]} of ${row[4]} slots, ${now.waiting[i]} waiting, ` +
        `${percent(used[i], 0)} used, ${now.misses[i]} misses`;
    });
    for (const [kind, members] of kinds) {
      const total = (column) => members.reduce((sum, i) => sum + column(i), 0);
      const element = [...body("replicas").querySelectorAll("[data-kind]")].find((item) => item.dataset.kind === kind);
      element.textContent = `${many(members.length, "replica")} · ${count(total((i) => now.running[i]))} of ` +
        `${count(total((i) => data[i][4]))} slots · ${count(total((i) => now.waiting[i]))} waiting · ` +
        `${percent(total((i) => used[i]) / members.length, 0)} used`;
    }
  }

  /* -- tables --------------------------------------------------------------------------------- */

  function groups({ live }) {
    note("groups", live.groups.length ? "last 5 minutes" : "");
    body("groups").replaceChildren(live.groups.length
      ? table(["", "name", "goodput", "", "runs", "first token p50 · p95", "done p50 · p95"], live.groups.slice(0, 40).map((g) => [
        h("td", { class: "fm-soft" }, g.kind), named(h("b", {}, g.name || "–")), figure(percent(g.attainment), grade(g.attainment)),
        bar(g.attainment === null ? 0 : g.attainment, grade(g.attainment)), figure(g.late ? `${count(g.ended)} + ${count(g.late)} late` : count(g.ended)),
        figure(`${seconds(g.ttft[0])} · ${seconds(g.ttft[1])}`), figure(`${seconds(g.e2e[0])} · ${seconds(g.e2e[1])}`)]))
      : empty("No run has ended in the last 5 minutes."));
  }

  function provisioning({ live }) {
    const panel = document.querySelector('[data-panel="provisioning"]'), plan = live.provisioning;
    panel.hidden = plan === null && document.body.className !== "fm-alone";
    if (plan === null) { body("provisioning").replaceChildren(empty("No provisioner runs: replicas are those of the deployment.")); return; }
    const by = live.provisioner;
    note("provisioning", by.error || `by ${by.mode.replace("_", " ")} · ${by.cost_per_hour.toFixed(2)} an hour`);
    body("provisioning").replaceChildren(table(["model", "accelerator", "ready", "requested", "desired", "why"],
      plan.map((p) => [named(h("b", {}, p.model)), named(p.accelerator), figure(count(p.ready)), figure(count(p.requested)), figure(count(p.desired)), p.reason])));
  }

  function notes({ live, predictions }) {
    note("attainment", "share of runs within their SLO");
    note("throughput", "per second, by verdict");
    note("latency", "seconds");
    note("waiting", "most at once");
    const s_ = live.slack;
    note("slack", `seconds until they must start${s_.without ? ` · ${count(s_.without)} without an SLO` : ""}`);
    if (predictions) legend(predictions);
  }

  /* -- what the points of predictions stand for ------------------------------------------------ */

  const LOOKS = [["#3b82f6", "circle", "●"], ["#f0883e", "triangle", "▲"], ["#009e73", "square", "■"], ["#bc8cff", "diamond", "◆"],
    ["#d55e00", "inverted_triangle", "▼"], ["#39c5cf", "hex", "⬢"], ["#d4a72c", "star", "★"], ["#f778ba", "plus", "✚"]];
  const OTHERS = ["#8b949e", "circle", "●"];

  /* Each kind with its name, error and look, which is one of its own unless there are many and others have more points. */
  window.fmwareKinds = function ({ kinds, kind }) {
    const found = kinds.map((k) => ({ name: `${k.model} on ${k.accelerator}`, error: k.error, points: 0 }));
    for (const i of kind) found[i].points += 1;
    const few = found.length <= LOOKS.length;  /* looks that stay as they are while points come */
    (few ? found : [...found].sort((a, b) => b.points - a.points || byName(a.name, b.name))).forEach((one, rank) => { [one.colour, one.mark, one.sign] = LOOKS[rank] || OTHERS; });
    return found;
  };

  function legend(points) {
    const element = document.querySelector('[data-legend="predictions"]');
    if (!element) return;
    const found = window.fmwareKinds(points).sort((a, b) => byName(a.name, b.name));
    const own = found.filter((one) => one.colour !== OTHERS[0]), others = found.length - own.length;
    note("predictions", found.length ? "durations of attempts, with their median error" : "");
    const item = (sign, colour, text) => h("span", { class: "fm-kind-named" }, h("b", { style: `color:${colour}` }, sign), ` ${text}`);
    element.replaceChildren(...own.map((one) => item(one.sign, one.colour, `${one.name}${one.error === null ? "" : ` ${percent(one.error, 0)}`}`)),
      ...(others ? [item(OTHERS[2], OTHERS[0], many(others, "other"))] : []));
  }

  const PANELS = { overview, blame, workflow, replicas, groups, provisioning };
  window.fmwarePanels = function (data) {
    notes(data);
    for (const [name, panel] of Object.entries(PANELS)) if (body(name)) panel(data);
  };
})();
