// What a click changes: faults and commands, each with what it is, how it goes, and what it did.
import { get, mayChange, post, recording } from "api";
import { h, number } from "dom";

const KINDS = { kill: "Kill", hang: "Hang 10 s", away: "Away 10 s", slow: "Slow 10 s" };
const ENDED = ["done", "failed"];
// Phases of a command that came to a result.
const COMPLETE = ["done", "refused"];

export function notAllowed() {
  if (recording) return h("p", { className: "note" }, "This is a recording: nothing can be changed here.");
  if (mayChange()) return null;
  return h("p", { className: "note" }, "To change anything, open the page by ", h("code", {}, "whiteboard open"), ", which knows the token.");
}

export function faultForm(design, box) {
  const expected = h("p", { className: "small", role: "status" }, box.faults.kill || "");
  const result = h("div", { className: "result", role: "status" });
  const tell = (kind) => { expected.textContent = `Before: ${box.faults[kind]}`; };
  const buttons = Object.keys(KINDS).filter((kind) => box.faults[kind]).map((kind) =>
    h("button", { type: "button", className: "danger", disabled: !mayChange(),
      onfocus: () => tell(kind), onmouseenter: () => tell(kind),
      onclick: () => strike(design, box, kind, buttons, result) }, KINDS[kind]));
  tell("kill");
  return h("div", {}, expected, h("div", { className: "row" }, buttons), notAllowed(), result);
}

async function strike(design, box, kind, buttons, result) {
  for (const button of buttons) button.disabled = true;
  try {
    await post(`/api/fault?design=${design.name}`, { process: box.process, kind, seconds: 10 });
    let report;
    do {
      await pause(1000);
      report = await get("/api/fault");
      result.replaceChildren(...outcome(report));
    } while (!ENDED.includes(report.phase));
  } catch (error) {
    result.replaceChildren(h("p", { className: "bad" }, error.message));
  }
  for (const button of buttons) button.disabled = false;
}

function outcome(report) {
  const rows = [
    ["answers", `${number(report.answers)}, ${number(report.failed)} failed`],
    ["in budget", report.in_budget === null ? "no answer to measure" : `${(report.in_budget * 100).toFixed(1)} %`],
    ["degraded", number(report.degraded)],
    ["most in the outbox", `${number(report.outbox)}, ${number(report.dropped)} dropped`],
    ["most waiting for a worker", number(report.waiting)],
    ["running again after", report.down_s === null ? "not yet" : `${report.down_s} s`],
  ];
  if (report.damage) rows.push(...damageRows(report.damage));
  return [
    h("p", {}, h("b", {}, `${report.process}, ${report.kind}: ${report.phase}`), ` (${report.seconds} s)`),
    report.error ? h("p", { className: "bad" }, report.error) : null,
    report.uncounted ? h("p", { className: "bad" }, `Not counted: ${report.uncounted}`) : null,
    h("dl", { className: "pairs" }, rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    report.phase === "counting" ? h("p", {}, "It is mended. What was lost, doubled or skewed is counted once the lake has everything: up to a minute or two.") : null,
    ...(report.damage?.said ?? []).map((sentence) => h("p", { className: "small" }, sentence)),
    h("p", { className: "small" }, "Answers are those of the design's own service. With no traffic there are none: start it below the diagram."),
  ].filter(Boolean);
}

function damageRows(damage) {
  return [
    ["came in", `${number(damage.came_in)}, ${number(damage.unanswered)} unanswered`],
    ["lost", number(damage.lost)],
    ["doubled", number(damage.doubled)],
    ["skewed", `${number(damage.skewed)} of ${number(damage.compared)} computed again`],
    ["EUR it cost", damage.eur === null ? "not known" : damage.eur.toFixed(2)],
  ];
}

// A command with its inputs. `make` returns the request; the newest run is shown beneath; `after` follows its end.
export function jobForm(design, verb, label, inputs, make, show = () => null, after = () => null) {
  const state = h("div", { className: "result", role: "status" });
  const start = h("button", { type: "submit", className: "primary", disabled: !mayChange() }, label);
  const stop = h("button", { type: "button", hidden: true, onclick: () => post(`/api/jobs/stop?design=${design.name}&verb=${verb}`) }, "Stop");
  const follow = async () => {
    for (;;) {
      const job = (await get("/api/jobs")).find((one) => one.design === design.name && one.verb === verb);
      const running = job?.phase === "running";
      start.disabled = running || !mayChange();
      stop.hidden = !running;
      if (job) state.replaceChildren(...jobTold(job, show));
      if (!running || !form.isConnected) return;
      await pause(1000);
    }
  };
  const form = h("form", { onsubmit: async (event) => {
    event.preventDefault();
    try {
      await post("/api/jobs", { verb, design: design.name, ...make() });
      await follow();
      await after();
    } catch (error) {
      state.replaceChildren(h("p", { className: "bad" }, error.message));
    }
  } }, h("div", { className: "row" }, inputs, start, stop), state);
  if (!recording) queueMicrotask(() => follow().catch(() => {}));
  return form;
}

function jobTold(job, show) {
  const shown = job.figures ? show(job.figures) : null;
  return [
    h("p", {}, h("code", {}, job.command), ` ${job.phase}, ${number(job.seconds)} s`),
    shown,
    job.output && !(COMPLETE.includes(job.phase) && shown) ? h("pre", { tabindex: 0 }, job.output) : null,
  ].filter(Boolean);
}

export function numberInput(label, value, min, max) {
  const input = h("input", { type: "number", value, min, max, required: true });
  return [h("label", {}, `${label} `, input), () => Number(input.value)];
}

export function selectInput(label, options) {
  const input = h("select", {}, options.map((name) => h("option", { value: name }, name)));
  return [h("label", {}, `${label} `, input), () => input.value];
}

export function trafficForm(design) {
  const [rate, rateValue] = numberInput("Simulated traffic, events a second", design.traffic_rate > 50 ? 50 : design.traffic_rate, 1, 500);
  const [seconds, secondsValue] = numberInput("for seconds", 60, 5, 600);
  return jobForm(design, "simulate", "Start traffic", [rate, seconds],
    () => ({ rate: rateValue(), seconds: secondsValue() }), runFigures);
}

export function runFigures(figures) {
  const wanted = Object.entries(figures).filter(([, value]) => typeof value === "number");
  return h("dl", { className: "pairs" }, wanted.flatMap(([name, value]) => [h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, number(value))]));
}

const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });
