"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const baseName = (metric) => metric.replace(/^(val|test)_/, "");
  const splitOf = (metric) => (metric.startsWith("val_") ? "validation" : metric.startsWith("test_") ? "test" : "training");
  const title = (metric) => `${splitOf(metric)} ${baseName(metric)}`;
  const curved = data.metrics.filter((metric) => data.runs.some((run) => run.curves[metric]));
  const measured = data.metrics.filter((metric) => data.runs.some((run) => metric in run.metrics));
  const AT_FIRST = 40; // runs drawn by default
  const COLOURS = 8;
  const themes = ["auto", "light", "dark"];
  const state = { sort: null, down: false, theme: "auto", drawn: new Set(), a: 0, b: Math.min(1, data.runs.length - 1), one: 0, metric: measured[0] };
  const errors = [];
  const note = (text) => { errors.push(text); document.body.dataset.errors = errors.join("; "); };
  window.addEventListener("error", (event) => note(event.message));
  document.addEventListener("securitypolicyviolation", (event) => note(`blocked: ${event.violatedDirective}`));

  const short = (key) => { const [name, digest, attempt] = key.split("/"); return `${name}/${digest.slice(0, 8)}/${attempt}`; };
  const label = (index) => `${short(data.runs[index].key)} · seed ${data.runs[index].seed}`;
  const find = (name) => {
    const exact = data.runs.findIndex((run) => run.key === name);
    return exact >= 0 ? exact : data.runs.findIndex((run) => run.key.includes(name) || short(run.key).includes(name));
  };
  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const draw = (name, attributes = {}, ...children) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const table = (id, heads, rows) => {
    const cell = (tag, value) => (value instanceof Node ? make(tag, {}, value) : make(tag, { class: typeof value === "number" ? "number" : "long" }, String(value)));
    const number = (place) => rows.some((row) => typeof row[place] === "number");
    const head = make("thead", {}, make("tr", {}, ...heads.map((text, place) => make("th", { scope: "col", class: number(place) ? "number" : "long" }, text))));
    byId(id).replaceChildren(head, make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((value) => cell("td", value))))));
  };
  const figure = (value) => (value === null || value === undefined ? "" : Number(value.toPrecision(4)));

  // Colour by run if there are few, else by configuration.
  const order = () => data.runs.map((_, index) => index).filter((index) => state.drawn.has(index));
  const colours = () => {
    const shown = order();
    if (shown.length <= COLOURS) return new Map(shown.map((index, place) => [index, place]));
    return new Map(shown.map((index) => [index, data.runs[index].group % COLOURS]));
  };

  const ticks = (low, high, count) => {
    const rough = (high - low) / count || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((part) => part * power).find((each) => each >= rough);
    const found = [];
    for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) found.push(Number(value.toPrecision(10)));
    return found;
  };
  const extent = (values, part) => {
    let low = Infinity, high = -Infinity;
    for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
    const room = (high - low) * part || Math.abs(high) * 0.05 || 1;
    return [low - room, high + room];
  };

  const highlight = (index) => {
    document.querySelectorAll(".hot").forEach((each) => each.classList.remove("hot"));
    if (index === null) return;
    document.querySelectorAll(`[data-run="${index}"]`).forEach((each) => each.classList.add("hot"));
  };

  const chart = (metric, width) => {
    const shown = order(), colour = colours(), height = Math.round(Math.max(190, Math.min(260, width * 0.5)));
    const left = 46, right = 10, top = 8, bottom = 34;
    const curveOf = (index) => data.runs[index].curves[metric] || [];
    const points = shown.flatMap(curveOf), without = shown.filter((index) => curveOf(index).length === 0).length;
    const caption = make("figcaption", {}, title(metric) + (without ? ` (${without} of ${shown.length} runs have none)` : ""));
    const tip = make("div", { class: "tip", "aria-live": "off" });
    if (points.length === 0) return make("figure", {}, caption, make("p", { class: "note" }, "nothing to draw"));
    const [x0, x1] = extent(points.map((point) => point[0]), 0.02), [y0, y1] = extent(points.map((point) => point[1]), 0.06);
    const x = (value) => left + (value - x0) / (x1 - x0) * (width - left - right);
    const y = (value) => height - bottom - (value - y0) / (y1 - y0) * (height - top - bottom);
    const byEpoch = splitOf(metric) === "validation";
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title(metric)} of ${shown.length - without} runs`, "data-chart": metric, class: shown.length > COLOURS ? "many" : "few" });
    for (const value of ticks(y0, y1, 5)) svg.append(draw("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "grid" }), draw("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, String(value)));
    for (const value of ticks(x0, x1, width < 400 ? 4 : 6)) if (value >= 0 && (!byEpoch || Number.isInteger(value))) svg.append(draw("text", { x: x(value), y: height - bottom + 16, "text-anchor": "middle" }, String(value)));
    svg.append(draw("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, byEpoch ? "epoch" : "step"));
    for (const index of shown) {
      const curve = curveOf(index);
      if (curve.length === 0) continue;
      svg.append(draw("polyline", { class: `s${colour.get(index)}`, "data-run": index, points: curve.map((point) => `${x(point[0]).toFixed(1)},${y(point[1]).toFixed(1)}`).join(" ") }, draw("title", {}, label(index))));
      if (curve.length <= 12 && shown.length <= AT_FIRST) for (const point of curve) svg.append(draw("circle", { class: `f${colour.get(index)}`, cx: x(point[0]), cy: y(point[1]), r: 2.4 }));
    }
    const cross = draw("line", { class: "cross", y1: top, y2: height - bottom, visibility: "hidden" });
    svg.append(cross);
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect(), scale = width / box.width;
      const px = (event.clientX - box.left) * scale, py = (event.clientY - box.top) * scale;
      let best = null, least = Infinity;
      for (const index of shown) for (const point of curveOf(index)) {
        const distance = (x(point[0]) - px) ** 2 + (y(point[1]) - py) ** 2;
        if (distance < least) { least = distance; best = [index, point]; }
      }
      highlight(best[0]);
      cross.setAttribute("x1", x(best[1][0])); cross.setAttribute("x2", x(best[1][0])); cross.setAttribute("visibility", "visible");
      tip.textContent = `${label(best[0])}: ${best[1][1]} at ${byEpoch ? "epoch" : "step"} ${best[1][0]}`;
    });
    svg.addEventListener("pointerleave", () => { highlight(null); cross.setAttribute("visibility", "hidden"); tip.textContent = ""; });
    return make("figure", {}, caption, svg, tip);
  };

  const widthOf = (id, most) => Math.max(240, Math.min(most, byId(id).clientWidth || 600));

  const drawCurves = () => {
    const space = widthOf("curves", 1160), each = space >= 894 ? (space - 14) / 2 : space;
    const bases = [...new Set(curved.map(baseName))]; // one row per metric: training, then validation
    byId("curves").replaceChildren(...bases.map((base) => make("div", { class: "charts pair-of-charts" },
      ...[base, `val_${base}`].filter((metric) => curved.includes(metric)).map((metric) => chart(metric, Math.floor(each))))));
    const colour = colours(), shown = order(), few = shown.length <= COLOURS;
    const swatch = (place) => draw("svg", { viewBox: "0 0 18 10", "aria-hidden": "true" }, draw("line", { x1: 1, x2: 17, y1: 5, y2: 5, class: `s${place}`, "stroke-width": 3 }));
    const groups = [...new Set(shown.map((index) => data.runs[index].group))].sort((p, q) => p - q);
    byId("legend").replaceChildren(...(few ? shown.map((index) => make("li", {}, swatch(colour.get(index)), label(index))) : groups.map((group) => make("li", {}, swatch(group % COLOURS), `C${group + 1} ${data.groups[group].label}`))));
    byId("drawn").textContent = `${shown.length} of ${data.runs.length} runs are drawn${few ? "" : ", coloured by configuration"}. Identical curves overlap.`;
  };

  const drawStrips = () => {
    const width = widthOf("strips", 1160), row = 52, left = 12, right = 12, bottom = 22;
    const places = data.groups.map((_, place) => place).filter((place) => state.metric in data.groups[place].metrics);
    const found = places.map((place) => data.groups[place].metrics[state.metric]), nameOf = (place) => `C${places[place] + 1} ${data.groups[places[place]].label}`;
    const without = data.groups.map((_, place) => place).filter((place) => !places.includes(place));
    byId("without").textContent = without.length ? `Without ${state.metric}: ${without.map((place) => `C${place + 1}`).join(", ")}.` : "";
    const height = row * found.length + bottom;
    const [x0, x1] = extent(found.flatMap((each) => [...each.values, ...(each.interval || [])]), 0.06);
    const x = (value) => left + (value - x0) / (x1 - x0) * (width - left - right);
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title(state.metric)} over seeds, by configuration`, "data-chart": "strips" });
    for (const value of ticks(x0, x1, width < 400 ? 4 : 8)) svg.append(draw("line", { x1: x(value), x2: x(value), y1: 0, y2: height - bottom, class: "grid" }), draw("text", { x: x(value), y: height - 6, "text-anchor": "middle" }, String(value)));
    found.forEach((each, place) => {
      const middle = place * row + 34, name = nameOf(place), most = Math.floor(width / 6.6);
      svg.append(draw("text", { x: left, y: place * row + 14, class: "strong" }, name.length > most ? `${name.slice(0, most - 1)}…` : name));
      for (const value of each.values) svg.append(draw("circle", { class: `dot f${places[place] % COLOURS}`, cx: x(value), cy: middle, r: 5 }, draw("title", {}, String(value))));
      const mean = x(each.mean);
      if (each.interval) for (const [p, q, v, w] of [[each.interval[0], each.interval[1], 0, 0], [each.interval[0], each.interval[0], -6, 6], [each.interval[1], each.interval[1], -6, 6]]) svg.append(draw("line", { class: "span", x1: x(p), x2: x(q), y1: middle + v, y2: middle + w }));
      if (each.values.length > 1) svg.append(draw("path", { class: "mean", d: `M${mean} ${middle - 7}l6 7l-6 7l-6-7z` }, draw("title", {}, `mean ${each.mean}`)));
    });
    byId("strips").replaceChildren(svg);
    table("spread", ["configuration", "seeds", "mean", "95 % interval of the mean", "standard deviation", "min", "max"], found.map((each, place) => [
      nameOf(place), each.values.length, figure(each.mean), each.interval ? `${figure(each.interval[0])} to ${figure(each.interval[1])}` : "needs 3 seeds", figure(each.sd), figure(each.values[0]), figure(each.values[each.values.length - 1])]));
  };

  const drawVariance = () => {
    byId("variance-section").hidden = data.variance.length === 0;
    if (data.variance.length === 0) return;
    const studies = [...new Set(data.variance.map((each) => `${each.study}: ${each.metric}`))];
    byId("variance").replaceChildren(...studies.map((study) => {
      const rows = data.variance.filter((each) => `${each.study}: ${each.metric}` === study);
      const width = widthOf("variance", 1160), row = 40, most = Math.max(...rows.map((each) => Math.max(each.sd, each.high ?? 0))) || 1;
      const x = (value) => 12 + value / most * (width - 90);
      const svg = draw("svg", { viewBox: `0 0 ${width} ${row * rows.length + 4}`, role: "img", "aria-label": study, "data-chart": "variance" });
      rows.forEach((each, place) => {
        const y = place * row;
        svg.append(draw("text", { x: 12, y: y + 14, class: "strong" }, each.source), draw("rect", { class: "f0", x: 12, y: y + 19, width: Math.max(1, x(each.sd) - 12), height: 13, rx: 2 }), draw("text", { x: x(Math.max(each.sd, each.high ?? 0)) + 6, y: y + 30 }, each.sd.toPrecision(3)));
        if (each.low !== undefined && each.high !== undefined) svg.append(draw("line", { class: "span", x1: x(each.low), x2: x(each.high), y1: y + 25.5, y2: y + 25.5 }));
      });
      return make("figure", {}, make("figcaption", {}, study), svg);
    }));
  };

  const inputOf = (item, index) => (item in data.equal ? data.equal[item] : data.varying[item].values[data.varying[item].of[index]]);
  const rests = (item, index) => { const point = data.consumers[data.runs[index].consumers][item.replace(/^seed /, "")]; return item.startsWith("seed ") && Boolean(point && point[2]); };
  const drawDiff = () => {
    const { a, b } = state;
    const rows = Object.entries(data.varying).filter(([, each]) => each.of[a] !== each.of[b]).map(([item, each]) => [item, each.values[each.of[a]], each.values[each.of[b]], rests(item, a) && rests(item, b) ? "does not" : each.effect]);
    const rank = { "changes bits": 0, "may change bits": 1 };
    rows.sort((p, q) => (rank[p[3]] ?? 2) - (rank[q[3]] ?? 2) || (p[0] < q[0] ? -1 : 1));
    table("diff", ["input", "A", "B", "effect on the bits"], rows);
    byId("diff").hidden = rows.length === 0;
    const bits = data.runs[a].weights === data.runs[b].weights ? "same weights, bit for bit" : "different weights";
    byId("diff-note").textContent = data.runs.length ? `${rows.length === 0 ? "No input differs" : `${rows.length} inputs differ`}; ${bits}.` : "";
  };
  const drawOne = () => {
    const run = data.runs[state.one];
    const facts = { run: run.key, "did the promise hold?": `${run.promise}: ${run.verdict}; ${run.verdict_text}`, weights: run.weights, data: run.data, "arithmetic fingerprint": run.fingerprint, machine: data.machines[run.machine], "resumed after a stop": run.resumed ? "yes" : "no", epochs: run.stopped || run.epochs };
    byId("facts").replaceChildren(...Object.entries(facts).flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, String(text))]));
    table("points", ["seed point", "value", "source", "consumer"], Object.entries(data.consumers[run.consumers]).map(([point, [source, consumer, rests]]) => [point, inputOf(`seed ${point}`, state.one), source, rests ? `${consumer} (unused: ${rests})` : consumer]));
    table("inputs", ["input", "value"], [...Object.keys(data.equal), ...Object.keys(data.varying)].sort().map((item) => [item, inputOf(item, state.one)]));
  };

  const value = (row, place) => row.cells[place].dataset.sort ?? row.cells[place].textContent;
  const sortBy = (button) => {
    const head = button.closest("th"), place = head.cellIndex, down = head.getAttribute("aria-sort") === "ascending";
    document.querySelectorAll("#runs th").forEach((each) => each.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...document.querySelectorAll("#runs tbody tr")];
    const compare = (p, q) => {
      const [u, v] = [value(p, place), value(q, place)], [m, n] = [Number(u), Number(v)];
      return !["run", "weights"].includes(button.dataset.column) && u !== "" && v !== "" && !Number.isNaN(m) && !Number.isNaN(n) ? m - n : u < v ? -1 : u > v ? 1 : 0;
    };
    rows.sort((p, q) => (down ? -1 : 1) * compare(p, q) || p.dataset.run - q.dataset.run);
    document.querySelector("#runs tbody").append(...rows);
    [state.sort, state.down] = [button.dataset.column, down];
  };
  const showTheme = () => {
    const dark = state.theme === "dark" || (state.theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    byId("theme").textContent = `theme: ${state.theme}`;
  };
  const showDrawn = () => {
    document.querySelectorAll("#runs tbody input").forEach((box) => { box.checked = state.drawn.has(Number(box.closest("tr").dataset.run)); });
    drawCurves();
  };

  let own = null; // the URL fragment that this script wrote
  const remember = () => {
    const parts = [["sort", state.sort], ["dir", state.sort && state.down ? "desc" : null], ["theme", state.theme === "auto" ? null : state.theme], ["diff", `${data.runs[state.a]?.key},${data.runs[state.b]?.key}`]];
    own = `#${parts.filter((part) => part[1]).map(([key, text]) => `${key}=${encodeURIComponent(text)}`).join("&")}`;
    try { history.replaceState(null, "", own); } catch { own = null; } // some viewers do not allow it
  };
  const follow = () => {
    if (location.hash === own) return;
    const wanted = new URLSearchParams(location.hash.slice(1));
    if (themes.includes(wanted.get("theme"))) state.theme = wanted.get("theme");
    const button = [...document.querySelectorAll("#runs th button")].find((each) => each.dataset.column === wanted.get("sort"));
    const direction = wanted.get("dir") === "desc" ? "descending" : "ascending";
    if (button) for (let clicks = 0; clicks < 2 && button.closest("th").getAttribute("aria-sort") !== direction; clicks += 1) button.click();
    const pair = (wanted.get("diff") || "").split(",").map((name) => (name ? find(name) : -1));
    if (pair[0] >= 0) state.a = pair[0];
    if (pair[1] >= 0) state.b = pair[1];
    if (measured.includes(wanted.get("metric"))) state.metric = wanted.get("metric");
    if (wanted.get("runs") === "all") data.runs.forEach((_, index) => state.drawn.add(index));
  };

  const start = () => {
    document.body.dataset.ready = "yes";
    const rows = [...document.querySelectorAll("#runs tbody tr")];
    for (const row of rows) {
      const box = make("input", { type: "checkbox", "aria-label": `draw ${label(Number(row.dataset.run))}` });
      box.addEventListener("change", () => { state.drawn[box.checked ? "add" : "delete"](Number(row.dataset.run)); drawCurves(); });
      row.cells[0].prepend(box);
    }
    data.runs.slice(0, AT_FIRST).forEach((_, index) => state.drawn.add(index));
    document.querySelectorAll("#runs th button").forEach((button) => button.addEventListener("click", () => { sortBy(button); remember(); }));
    follow();
    const visible = () => rows.filter((row) => !row.hidden).map((row) => Number(row.dataset.run));
    byId("filter").addEventListener("input", (event) => { const text = event.target.value.toLowerCase(); for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(text); });
    byId("all").addEventListener("click", () => { visible().forEach((index) => state.drawn.add(index)); showDrawn(); });
    byId("none").addEventListener("click", () => { state.drawn.clear(); showDrawn(); });
    byId("theme").addEventListener("click", () => { state.theme = themes[(themes.indexOf(state.theme) + 1) % 3]; showTheme(); remember(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
    showTheme();
    if (data.runs.length === 0) return;
    byId("metric").append(...measured.map((metric) => make("option", { value: metric }, title(metric))));
    for (const [id, redraw] of [["a", drawDiff], ["b", drawDiff], ["one", drawOne]]) {
      byId(id).append(...data.runs.map((_, index) => make("option", { value: index }, label(index))));
      byId(id).addEventListener("change", (event) => { state[id] = Number(event.target.value); redraw(); remember(); });
    }
    byId("metric").addEventListener("change", (event) => { state.metric = event.target.value; drawStrips(); });
    const choose = () => { for (const id of ["a", "b", "one", "metric"]) byId(id).value = state[id]; };
    const redraw = () => { drawCurves(); if (measured.length) drawStrips(); drawVariance(); };
    choose(); showDrawn(); if (measured.length) drawStrips(); drawVariance(); drawDiff(); drawOne();
    let width = document.body.clientWidth;
    window.addEventListener("resize", () => { if (document.body.clientWidth !== width) { width = document.body.clientWidth; redraw(); } });
    window.addEventListener("hashchange", () => { follow(); choose(); showTheme(); showDrawn(); if (measured.length) drawStrips(); drawDiff(); });
  };
  start();
  document.body.dataset.width = document.documentElement.scrollWidth; // a test checks that nothing overflows
  document.body.dataset.view = document.documentElement.clientWidth;
})();
