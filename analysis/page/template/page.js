"use strict";
// The page's script: it chooses, sorts and draws what page.py computed. Text is set as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const get = (id) => document.getElementById(id);
  const state = { filters: {}, metric: "", tau: null, sort: null, opened: null };
  const taus = [...new Set(data.rows.flatMap((row) => row.curve.map((place) => data.points[place].tau)))].sort((a, b) => a - b);
  const metrics = new Map(data.metrics.map((metric) => [metric.name, metric]));
  const FILTERS = ["task", "model", "protocol", "variant"];
  const distinct = (name) => [...new Set(data.rows.map((row) => row[name]))];
  const worded = FILTERS.filter((name) => name === "task" || distinct(name).length > 1); // a column of equal words says nothing

  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name.startsWith("data-") || name.startsWith("aria-") || name === "scope") element.setAttribute(name, value);
      else element[name] = value;
    }
    element.append(...children);
    return element;
  }

  const broken = (text) => text.split(/(?<=_)/).flatMap((part) => [part, make("wbr")]); // long names may break after _

  // The stored point a row shows: its own, or that of its curve whose tau is nearest to the slider's.
  function pointOf(row) {
    if (state.tau === null || row.curve.length === 0) return data.points[row.point];
    const points = row.curve.map((place) => data.points[place]);
    return points.reduce((best, point) => (Math.abs(point.tau - state.tau) < Math.abs(best.tau - state.tau) ? point : best));
  }

  const visible = () => data.rows.filter((row) => FILTERS.every((name) => !state.filters[name] || row[name] === state.filters[name]));
  const shownMetrics = () => (state.metric ? [metrics.get(state.metric)] : data.metrics);

  function columns() {
    const words = ["method", ...worded].map((name) => ({ name, heading: name, word: true, of: (row) => row[name] }));
    const tau = { name: "tau", heading: "τ", of: (row) => pointOf(row).tau };
    const numbers = shownMetrics().map(({ name, heading }) => ({ name, heading, metric: true, of: (row) => pointOf(row).cells[name]?.value ?? null }));
    const seeds = { name: "seeds", heading: "seeds", of: (row) => pointOf(row).records.length };
    return [...words, ...(taus.length ? [tau] : []), ...numbers, seeds];
  }

  function sorted(rows) {
    const column = state.sort && columns().find(({ name }) => name === state.sort.name);
    if (!column) return rows;
    const sign = state.sort.descending ? -1 : 1;
    return [...rows].sort((a, b) => {
      const [x, y] = [column.of(a), column.of(b)];
      if (x === null || y === null) return (x === null) - (y === null); // what is missing comes last, either way
      return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
    });
  }

  function heading(column) {
    const mine = state.sort && state.sort.name === column.name;
    const button = make("button", { type: "button", textContent: column.heading });
    button.addEventListener("click", () => {
      const better = metrics.get(column.name)?.better; // the best first, then the other way
      state.sort = { name: column.name, descending: mine ? !state.sort.descending : better === 1 };
      render();
      get("table").querySelector(`th[data-column="${CSS.escape(column.name)}"] button`).focus();
    });
    const direction = mine ? (state.sort.descending ? "descending" : "ascending") : "none";
    const cell = make("th", { scope: "col", className: column.word ? "word" : "", "aria-sort": direction, "data-column": column.name }, button);
    if (column.name === "method") cell.classList.add("method");
    return cell;
  }

  function line(row) {
    const point = pointOf(row);
    const cells = columns().map((column) => {
      if (column.name === "method") {
        const link = make("a", { href: `#${point.id}` }, ...broken(row.method));
        const flags = point.flags.map((flag) => make("span", { className: "flag", textContent: flag }));
        return make("th", { scope: "row", className: "word method" }, link, ...flags);
      }
      if (column.metric) {
        const cell = point.cells[column.name];
        if (!cell) return make("td", { textContent: "-" });
        const link = make("a", { className: "number", href: `#${point.id}/${encodeURIComponent(column.name)}`, tabIndex: -1, textContent: cell.text });
        return make("td", { "data-metric": column.name, "data-csv": cell.csv }, link, make("span", { className: "spread", textContent: cell.spread }));
      }
      const value = column.of(row);
      return make("td", { className: column.word ? "word" : "", textContent: value === null ? "" : String(value), "data-column": column.name });
    });
    const tr = make("tr", { "data-row": String(data.rows.indexOf(row)) }, ...cells);
    if (row.reference) tr.classList.add("reference");
    if (state.tau !== null && row.curve.length) tr.querySelector('[data-column="tau"]').classList.add("moved");
    tr.addEventListener("click", (event) => {
      if (!event.target.closest("a")) location.hash = point.id;
    });
    return tr;
  }

  function render() {
    const rows = sorted(visible());
    get("table").tHead.replaceChildren(make("tr", {}, ...columns().map(heading)));
    get("table").tBodies[0].replaceChildren(...rows.map(line));
    get("count").textContent = rows.length ? `${rows.length} of ${data.rows.length} rows` : "No row has all of these.";
    renderSlider();
    renderCurves();
  }

  function renderSlider() {
    if (!taus.length) return;
    const text = state.tau === null ? "as reported" : `τ = ${state.tau}`;
    get("tau-value").textContent = text;
    get("tau").setAttribute("aria-valuetext", text);
    get("reported").disabled = state.tau === null;
  }

  // One panel: the curves of one task, in the metric that is chosen, else the NLL.
  function renderCurves() {
    const place = get("curves");
    const rows = visible().filter((row) => row.curve.length);
    get("curves-title").textContent = "";
    if (!rows.length) { Plotly.purge(place); place.replaceChildren(); place.style.height = "0"; return; }
    const task = rows[0].task;
    const metric = metrics.get(state.metric) ?? metrics.get("nll") ?? data.metrics[0];
    const at = (point) => point.cells[metric.name]?.shown ?? null;
    const traces = rows.filter((row) => row.task === task).flatMap((row) => {
      const points = row.curve.map((number) => data.points[number]);
      const name = [row.method, ...worded.slice(1).map((word) => row[word])].join(", ");
      const now = pointOf(row);
      return [
        { x: points.map((point) => point.tau), y: points.map(at), name, legendgroup: name, mode: "lines+markers", line: { color: row.colour }, marker: { symbol: row.symbol, size: 7, color: row.colour },
          hovertemplate: `τ %{x}: %{y:.4f}<extra>${escaped(name)}</extra>` },
        { x: [now.tau], y: [at(now)], legendgroup: name, showlegend: false, mode: "markers", marker: { symbol: "circle-open", size: 16, color: row.colour, line: { width: 2.5 } }, hoverinfo: "skip" },
      ];
    });
    place.style.height = "";
    get("curves-title").textContent = `${metric.heading} against τ on ${task}`;
    const layout = base(380);
    layout.xaxis.tickvals = taus;
    layout.yaxis.title = { text: metric.heading };
    Plotly.react(place, traces, layout, CONFIG);
  }

  const CONFIG = { displayModeBar: false, responsive: true };
  // Plotly reads some markup in its texts
  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("%{", "% {");
  const base = (height) => ({
    height, margin: { l: 60, r: 15, t: 10, b: 45 },
    font: { family: "system-ui, sans-serif", size: 13, color: "#1b1b1b" }, xaxis: { gridcolor: "#ddd", zeroline: false, automargin: true }, yaxis: { gridcolor: "#ddd", zeroline: false, automargin: true },
    legend: { orientation: "h", y: -0.12, yanchor: "top" }, dragmode: false,
  });

  function table(headings, rows, className = "") {
    const head = make("tr", {}, ...headings.map((text) => make("th", { scope: "col", className: "plain", textContent: text })));
    return make("div", { className: "scroll" }, make("table", { className }, make("thead", {}, head), make("tbody", {}, ...rows)));
  }

  function open(id, chosen) {
    const row = data.rows.find((candidate) => [candidate.point, ...candidate.curve].some((place) => data.points[place].id === id));
    const point = data.points.find((candidate) => candidate.id === id);
    if (!row || !point) return;
    state.opened = data.rows.indexOf(row);
    const names = data.metrics.map(({ name }) => name).filter((name) => name in point.cells);
    const mark = (name) => (name === chosen ? "chosen" : "");
    const number = (text, name) => make("td", { textContent: text ?? "-", className: mark(name), "data-metric": name });
    get("details-title").textContent = `${row.method} on ${row.task}${point.tau === null ? "" : `, τ = ${point.tau}`}`;
    const seeds = point.records.map((record) => {
      const facts = make("a", { href: `${record.folder}/facts.json` }, make("code", { textContent: record.key }));
      const spec = make("a", { href: `${record.folder}/spec.json`, textContent: "spec" });
      const fit = make("a", { href: `${record.fit}/facts.json`, textContent: "fit" });
      const key = make("td", { className: "word" }, facts, " ", spec, " ", fit);
      return make("tr", {}, make("th", { scope: "row", textContent: record.seed }), ...names.map((name) => number(record.metrics[name], name)), make("td", { textContent: record.commit }), key);
    });
    const total = (title, part) => make("tr", {}, make("th", { scope: "row", textContent: title }), ...names.map((name) => number(point.cells[name][part] || "-", name)), make("td"), make("td"));
    const bins = [make("h3", { textContent: `Accuracy against confidence, ${sum(point)} predictions` }), make("div", { id: "reliability" }), make("details", {}, make("summary", { textContent: "The diagram's numbers" }),
          table(["confidence", "predictions", "mean confidence", "accuracy"], point.bins.map(([count, confidence, accuracy], n) => make("tr", {}, ...[`(${(n / data.bins).toFixed(1)}, ${((n + 1) / data.bins).toFixed(1)}]`, count, confidence ?? "-", accuracy ?? "-"].map((text) => make("td", { textContent: text }))))))];
    const warnings = point.warnings.length ? [make("div", { className: "warnings" }, ...point.warnings.map((text) => make("p", { textContent: text })))] : [];
    get("details-body").replaceChildren(
      make("p", { className: "hint", textContent: `Protocol ${row.protocol}, model ${row.model}${row.variant ? `, variant ${row.variant}` : ""}; settings ${point.id}; draws ${point.draws.join(", ")}${point.flags.map((flag) => `; ${flag}`).join("")}` }),
      ...warnings, ...bins,
      make("h3", { textContent: "Numbers and records" }),
      table(["seed", ...names, "commit", "record"], [...seeds, total("mean", "csv"), total("standard error", "sem")], "records"),
      make("p", { className: "hint" }, "Fractions and nats, as in the CSV files. ", make("code", { textContent: `bench show ${point.records[0].key}` }), " prints a record."),
      make("h3", { textContent: "Settings" }),
      table(["setting", "value"], point.settings.map(([name, value]) => make("tr", {}, make("th", { scope: "row", className: "word", textContent: name }), make("td", { className: "setting", textContent: value }))), "settings"),
    );
    if (!get("details").open) get("details").showModal();
    get("details").scrollTop = 0;
    drawReliability(point, row);
  }

  const sum = (point) => point.bins.reduce((total, [count]) => total + count, 0);

  function drawReliability(point, row) {
    const some = point.bins.filter(([count]) => count > 0);
    const total = sum(point);
    const middle = point.bins.map((_, n) => (n + 0.5) / data.bins);
    const layout = base(340);
    layout.xaxis.range = layout.yaxis.range = [0, 1.02];
    Plotly.newPlot("reliability", [
      { type: "bar", x: middle, y: point.bins.map(([count]) => count / total), customdata: point.bins.map(([count]) => count), name: "share of predictions", marker: { color: "#c8c8c8" }, hovertemplate: "%{customdata} predictions<extra></extra>" },
      { x: [0, 1], y: [0, 1], mode: "lines", line: { color: "#555", dash: "dash", width: 1 }, name: "calibrated", hoverinfo: "skip" },
      { x: some.map((bin) => bin[1]), y: some.map((bin) => bin[2]), customdata: some.map(([count]) => count), mode: "lines+markers", name: "accuracy", line: { color: row.colour }, marker: { symbol: row.symbol, size: 8, color: row.colour }, hovertemplate: "confidence %{x:.3f}, accuracy %{y:.3f}, %{customdata} predictions<extra></extra>" },
    ], layout, CONFIG);
  }

  function follow() {
    const [id, metric] = location.hash.slice(1).split("/");
    if (data.points.some((point) => point.id === id)) open(id, metric && decodeURIComponent(metric));
    else if (get("details").open) get("details").close();
  }

  function choice(name, label, options, chosen, act) {
    const select = make("select", { id: `filter-${name}` }, ...options.map(([value, text]) => make("option", { value, textContent: text, selected: value === chosen })));
    select.addEventListener("change", () => { act(select.value); render(); });
    return make("label", {}, label, select);
  }

  get("filters").append(
    ...FILTERS.filter((name) => worded.includes(name) || name === "model").map((name) =>
      choice(name, name, [["", `all ${name === "variant" ? "variants" : `${name}s`}`], ...distinct(name).map((value) => [value, value || "(none)"])], "", (value) => { state.filters[name] = value; })),
    choice("metric", "metric", [["", "all metrics"], ...data.metrics.map(({ name, heading: text }) => [name, text])], "", (value) => { state.metric = value; }),
  );
  get("filters").addEventListener("submit", (event) => event.preventDefault());
  if (taus.length) {
    const own = data.rows.filter((row) => row.curve.length).map((row) => taus.indexOf(data.points[row.point].tau));
    const slider = get("tau");
    slider.max = taus.length - 1;
    slider.value = Math.max(0, ...own);
    taus.forEach((tau, n) => {
      const tick = make("span", { textContent: tau });
      tick.style.left = `${(100 * n) / Math.max(1, taus.length - 1)}%`;
      get("ticks").append(tick);
    });
    slider.addEventListener("input", () => { state.tau = taus[slider.valueAsNumber]; render(); });
    get("reported").addEventListener("click", () => { state.tau = null; slider.value = Math.max(0, ...own); render(); slider.focus(); });
    get("slider").hidden = false;
  } else get("no-slider").hidden = false;
  get("close").addEventListener("click", () => get("details").close());
  get("details").addEventListener("click", (event) => { if (event.target === get("details")) get("details").close(); });
  get("details").addEventListener("close", () => {
    history.replaceState(null, "", location.pathname + location.search);
    get("table").querySelector(`tr[data-row="${state.opened}"] th a`)?.focus();
  });
  addEventListener("hashchange", follow);
  render();
  follow();
})();
