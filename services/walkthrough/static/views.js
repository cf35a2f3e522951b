// The views beside the diagram: follow one event, newest decisions, models, drift, load, break.
import { events, get, mayChange, post, recording } from "api";
import { figure, h, number, table } from "dom";
import { curves, line, waterfall } from "chart";
import { faultForm, jobForm, notAllowed, numberInput, runFigures, selectInput } from "jobs";

export function followView(design, diagram) {
  const list = h("ol", { className: "stops", "aria-live": "polite" });
  const names = Object.fromEntries(design.boxes.map((box) => [box.id, box.label]));
  const button = h("button", { type: "button", className: "primary", disabled: !mayChange(), onclick: async () => {
    button.disabled = true;
    list.replaceChildren();
    const marked = [];
    try {
      for await (const [kind, data] of events(`/api/follow?design=${design.name}`)) {
        if (kind === "mark") { marked.push(data.box); diagram.mark(marked); list.append(stop(data, names)); }
        if (kind === "problem") list.append(h("li", { className: "bad" }, data.error));
      }
    } catch (error) {
      list.append(h("li", { className: "bad" }, error.message));
    }
    button.disabled = false;
  } }, `Send one ${design.event}`);
  return h("section", { className: "beside" }, h("h2", {}, `Follow one ${design.event}`),
    h("p", {}, `One real ${design.event} goes through the running stack. Each stop has the time since it was sent, measured here. A service's own stages come from its Server-Timing header.`),
    h("div", { className: "row" }, button), notAllowed(), list);
}

function stop(mark, names) {
  const bar = h("span", { className: "bar" });
  bar.style.width = `${Math.max(2, Math.min(100, (Math.log10(1 + mark.at_ms) / 4) * 100))}%`;
  return h("li", {}, h("span", { className: "at" }, figure(mark.at_ms, "ms")), h("span", { className: "track" }, bar),
    h("b", {}, names[mark.box] || mark.box), h("span", {}, mark.stage, mark.took_ms === null ? "" : ` (${mark.took_ms.toFixed(2)} ms)`),
    mark.detail ? h("span", { className: "small" }, mark.detail) : null);
}

export function decisionsView(design) {
  const list = h("div", { className: "decisions" }, h("p", { role: "status" }, "Reading the newest decisions."));
  const detail = h("section", { className: "card", "aria-live": "polite", hidden: true });
  const load = async () => {
    try {
      const views = await get(`/api/decisions?design=${design.name}&count=25`);
      detail.hidden = !views.length;
      if (!views.length) list.replaceChildren(h("p", {}, `No ${design.event} was decided yet: start traffic below the diagram.`));
      else list.replaceChildren(...views.map((view) => h("button", { type: "button", className: view.stopped ? "decision-row stopped" : "decision-row",
        onclick: () => detail.replaceChildren(...decision(design, view)) },
        h("b", {}, `${view.stopped ? "■" : "○"} ${view.decision}`), h("span", {}, view.title), h("span", { className: "score" }, view.score.toFixed(3)))));
      if (views.length) detail.replaceChildren(...decision(design, views.find((view) => view.stopped && view.image) || views.find((view) => view.stopped) || views[0]));
    } catch (error) {
      detail.hidden = true;
      list.replaceChildren(h("p", { className: "bad" }, error.message));
    }
  };
  load();
  return h("section", { className: "view" }, h("h2", {}, "The newest decisions"),
    h("div", { className: "row" }, h("button", { type: "button", onclick: load }, "Read again")),
    h("div", { className: "columns" }, list, detail));
}

function decision(design, view) {
  const facts = Object.entries(view.facts).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]);
  const rows = view.values.map((v) => [v.name, number(v.value), v.usual.map(number).join(" · ")]);
  return [
    h("h3", {}, view.title),
    h("p", {}, h("b", {}, view.decision), `: score ${view.score.toFixed(4)} against ${view.threshold.toFixed(4)}, by ${view.model}. ${view.reason}`),
    view.reasons.length ? h("div", {}, h("h4", {}, "Reasons"), h("ul", {}, view.reasons.map((text) => h("li", {}, text)))) : null,
    view.note ? h("p", { className: "small" }, view.note) : null,
    view.image ? imageWithMask(view) : null,
    h("dl", { className: "pairs" }, facts),
    rows.length ? table("Its most unusual values", ["feature", "value", "usual: 5 % · median · 95 % of the newest decisions"], rows) : null,
    labelButtons(design, view),
    h("p", { className: "small" }, `${view.id}, ${view.at}`),
  ].filter(Boolean);
}

function imageWithMask(view) {
  const of = (key, more = "") => `/api/image?key=${encodeURIComponent(key)}${more}`;
  const photo = () => h("img", { src: of(view.image), alt: `Image of the part: ${view.title}` });
  if (!view.maps.length) return h("div", { className: "picture" }, photo());
  return h("div", { className: "maps" }, view.maps.map((map) => h("figure", {},
    h("div", { className: "picture mapped" }, photo(), h("img", { className: "map", src: of(map.key, `&channel=${map.channel}`), alt: `${map.title}: orange to yellow, with a white outline, is above the threshold; blue is below` })),
    h("figcaption", {}, h("b", {}, map.title), h("img", { className: "scale", src: "/api/scale", alt: "" }),
      h("span", { className: "ticks" }, h("span", {}, "0"), h("span", {}, `threshold ${number(map.threshold)}`), h("span", {}, `≥ ${number(2 * map.threshold)}`)),
      h("span", { className: "small" }, map.unit)))));
}

function labelButtons(design, view) {
  const status = h("p", { role: "status" });
  const give = async (label) => {
    try {
      status.textContent = (await post(`/api/label?design=${design.name}`, { id: view.id, label })).said;
    } catch (error) {
      status.textContent = error.message;
    }
  };
  return h("div", {}, h("h4", {}, "Your verdict"), h("div", { className: "row" }, view.labels.map((label) =>
    h("button", { type: "button", disabled: !mayChange(), onclick: () => give(label) }, label.replaceAll("_", " ")))), status);
}

export function driftView(design) {
  const [kind, kindValue] = selectInput("Drift", ["none", ...design.drifts]);
  const [strength, strengthValue] = numberInput("strength, %", 50, 5, 100);
  const found = h("div", {}, h("p", {}, "Reading the windows."));
  const read = () => get(`/api/drift?design=${design.name}`).then((drift) => found.replaceChildren(...driftFound(drift)))
    .catch((error) => found.replaceChildren(h("p", { className: "bad" }, error.message)));
  read();
  return h("section", { className: "view" }, h("h2", {}, "Drift"),
    h("p", {}, "The simulator changes what happens from now on. “none” ends every drift."), notAllowed(),
    jobForm(design, "simulate", "Simulate for 60 s", [kind, strength], () => ({
      rate: Math.min(design.traffic_rate, 100), seconds: 60,
      drift: kindValue() === "none" ? "none" : `${kindValue()}=${Math.min(strengthValue() / 100, 1)}`,
    }), runFigures, read), found);
}

function driftFound(drift) {
  const report = `http://${location.hostname}:${drift.report_port}/reports/newest`;
  return [recording ? null : h("p", {}, h("a", { href: report, target: "_blank", rel: "noopener" }, "The newest report"), ": distributions of every column beside training, by Evidently."),
    h("h3", {}, "Alerts"), ...alertList(drift.alerts),
    h("h3", {}, "Windows"),
    ...(drift.maps.length ? drift.maps.flatMap(heatMap) : [h("p", {}, "No window has closed yet: a window is a simulated day of payments, or 200 images.")])].filter(Boolean);
}

function alertList(alerts) {
  if (!alerts) return [h("p", { className: "bad" }, "NATS does not answer: alerts are not known.")];
  if (!alerts.length) return [h("p", {}, "None was raised in 30 days.")];
  return [h("ul", { className: "alerts" }, alerts.map((one) => h("li", {},
    h("b", {}, `▲ ${one.kind}`), ` ${one.said} (${one.model}, ${one.at.slice(0, 16).replace("T", " ")} UTC) `,
    one.examples.map((key) => h("img", { className: "example", src: `/api/image?key=${encodeURIComponent(key)}`, alt: `Image ${key}`, loading: "lazy" })))))];
}

function heatMap(map) {
  const what = map.of === "reasons" ? "Why payments are declined: the first reasons of 200 declines a window," : "Distance of each column of a window";
  return [h("p", {}, `${what} from what ${map.model} was trained on: a row a column, a column a window, the newest on the right. The darkest cell is the statistic's greatest distance; ▲ is an alarm.`),
    h("div", { className: "heats" }, Object.entries(map.statistics).map(([name, rows]) => heatTable(map, name, rows)))];
}

function heatTable(drift, name, rows) {
  const top = Math.max(...rows.flat().map((value) => value ?? 0), 1e-9);
  const cell = (column, i, row, j) => {
    const value = row[i];
    const alarm = drift.alarms[j].includes(`${name}:${column}`);
    const made = h("td", { title: `${column}, ${drift.windows[j]}: ${number(value)}` }, `${alarm ? "▲ " : ""}${value === null ? "" : value.toFixed(2)}`);
    made.style.setProperty("--heat", `${Math.round(((value ?? 0) / top) * 60)}%`);
    return made;
  };
  return h("div", { className: "scroll", tabindex: 0, role: "region", "aria-label": `Heat map of ${name}, ${drift.of || "decisions"}` }, h("table", { className: "heat" },
    h("caption", {}, name),
    h("thead", {}, h("tr", {}, h("td"), drift.windows.map((w) => h("th", { scope: "col" }, w.slice(5, 10))))),
    h("tbody", {}, drift.columns.map((column, i) => h("tr", {}, h("th", { scope: "row" }, column), rows.map((row, j) => cell(column, i, row, j)))))));
}

export function loadView(design, live) {
  const [rate, rateValue] = numberInput("Requests a second", design.load_rate > 200 ? 200 : design.load_rate, 1, 2000);
  const [seconds, secondsValue] = numberInput("for seconds", 30, 5, 300);
  const service = design.boxes.find((box) => box.step === 5 && box.figures.some((f) => f.label === "p95"));
  const charts = h("div", {}), stages = h("div", {}), knee = h("input", { type: "checkbox" });
  live.onTick = (history) => {
    if (!service) return;
    get(`/api/stages?design=${design.name}`).then((found) => stages.replaceChildren(...(found.length ? [waterfall(found)] : []))).catch(() => {});
    charts.replaceChildren(...service.figures.slice(0, 2).flatMap((f, i) => {
      const values = history.map((tick) => tick.boxes[service.id]?.figures[i] ?? null);
      return [h("h3", {}, `${service.label}: ${f.label} ${figure(values.at(-1), f.unit)}`), line(values, f.label, f.unit, f.unit === "ms" ? design.budget_ms : null)];
    }));
  };
  return h("section", { className: "view" }, h("h2", {}, "Load"),
    h("p", {}, `Locust sends requests at a fixed rate, whatever the answers' time. The budget is p95 under ${design.budget_ms} ms.`), notAllowed(),
    jobForm(design, "load", "Run", [rate, seconds, h("label", {}, knee, " then raise the rate to the knee")],
      () => ({ rate: rateValue(), seconds: secondsValue(), knee: knee.checked }), (figures) => loadFigures(design, figures)), charts, stages);
}

function loadFigures(design, figures) {
  if (!figures.knee) return runFigures(figures);
  const steps = figures.knee, last = steps.at(-1), held = steps.filter((one) => one.p95_ms < design.budget_ms && !one.failures).at(-1);
  return h("div", {}, runFigures(figures),
    h("p", {}, `It held ${number(held.rate)} requests/s at a p95 of ${figure(held.p95_ms, "ms")}; at ${number(last.rate)}/s p95 was ${figure(last.p95_ms, "ms")}. The knee is at ${number(figures.measured_knee)} requests/s.`),
    curves("The knee", "requests a second", "p95, ms", [{ name: "p95", points: steps.map((one) => [one.rate, one.p95_ms]) },
      { name: "budget", points: [[steps[0].rate, design.budget_ms], [last.rate, design.budget_ms]] }]));
}

export function breakView(design) {
  const boxes = design.boxes.filter((box, i) => box.process && Object.keys(box.faults).length
    && design.boxes.findIndex((other) => other.process === box.process && Object.keys(other.faults).length) === i);
  return h("section", { className: "view" }, h("h2", {}, "Break it"),
    h("p", {}, "Each says beforehand what will happen, and afterwards what did. Start traffic first, or there is nothing to break."),
    h("div", { className: "cards" }, boxes.map((box) => h("article", { className: "card" }, h("h3", {}, box.label), faultForm(design, box))),
    design.audited ? h("article", { className: "card" }, h("h3", {}, "What was lost, doubled or skewed?"),
      h("p", {}, "The audit computes every logged decision's features again from the stored events. An event that was lost or counted twice leaves a vector that differs."),
      jobForm(design, "audit", "Audit every decision", [], () => ({}), auditFigures)) : null));
}

function auditFigures(found) {
  const rows = [["decisions compared", found.vectors], ["skewed: their features differ", found.mismatches], ["of them, decided without the online store", found.degraded], ["events read", found.events], ["events missing from their sequence", found.gaps]];
  return h("dl", { className: "pairs" }, rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, number(value))]));
}
