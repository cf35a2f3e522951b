// The page: designs, views, and the live state that all of them show.
import { get, recording, watch } from "api";
import { h, number, tabs } from "dom";
import { Diagram } from "diagram";
import { Panel } from "panel";
import { trafficForm } from "jobs";
import { modelsView } from "models";
import { moneyView } from "money";
import { breakView, decisionsView, driftView, followView, loadView } from "views";

const VIEWS = [["diagram", "Diagram"], ["follow", "Follow one"], ["decisions", "Decisions"], ["money", "Money"], ["models", "Models"],
  ["drift", "Drift"], ["load", "Load"], ["break", "Break it"]];
const KEPT = 120;
const main = document.getElementById("view");
const history_ = new Map();
const chosen = { design: "", view: "diagram", box: "" };
let designs = [], shown = null;

async function start() {
  const state = await get("/api/designs");
  designs = state.designs;
  for (const design of designs) history_.set(design.name, []);
  read();
  show();
  watch(onTick, (text) => {
    const status = document.getElementById("connection");
    if (status.textContent !== text) status.textContent = text;
  });
}

function onTick(tick) {
  for (const [name, live] of Object.entries(tick.designs)) {
    const kept = history_.get(name);
    if (!kept) continue;
    kept.push(live);
    if (kept.length > KEPT) kept.shift();
  }
  showProgress(tick.progress || []);
  refresh();
}

// The first start of a home: what is made now, by design.
function showProgress(notes) {
  const place = document.getElementById("progress");
  place.hidden = !notes.length;
  place.replaceChildren(...notes.map(({ design, title, done, total }) => {
    const text = `${designs.find((one) => one.name === design)?.title || design}: ${title}`;
    return h("label", {}, h("span", {}, text), h("progress", total > 1 ? { max: total, value: done } : {}), h("span", {}, total > 1 ? `${number(done)} of ${number(total)}` : ""));
  }));
}

function refresh() {
  const kept = history_.get(chosen.design);
  if (!kept?.length || !shown) return;
  shown.diagram.update(kept.at(-1));
  shown.panel.update(kept);
  shown.live.onTick?.(kept);
}

function read() {
  const [design, view, box] = location.hash.slice(1).split("/");
  chosen.design = designs.some((one) => one.name === design) ? design : designs[0].name;
  chosen.view = VIEWS.some(([id]) => id === view) ? view : "diagram";
  chosen.box = box || "";
}

function go(change) {
  Object.assign(chosen, change);
  const hash = `#${[chosen.design, chosen.view, chosen.box].filter(Boolean).join("/")}`;
  if (location.hash !== hash) history.pushState(null, "", hash);
  show();
}

function show() {
  const design = designs.find((one) => one.name === chosen.design);
  const views = design.event ? VIEWS : VIEWS.filter(([id]) => !["follow", "decisions", "money"].includes(id));
  tabs(document.getElementById("designs"), designs.map((one) => [one.name, one.title]), design.name, (name) => go({ design: name, box: "" }));
  tabs(document.getElementById("views"), views, chosen.view, (view) => go({ view, box: "" }));
  document.title = `${design.title}: ${VIEWS.find(([id]) => id === chosen.view)[1]}`;
  const live = {};
  const diagram = new Diagram(design, (box) => select(box));
  const panel = new Panel(design, () => select(""));
  shown = { design, diagram, panel, live };
  const beside = chosen.view === "follow" ? followView(design, diagram) : null;
  const withStage = ["diagram", "follow", "break"].includes(chosen.view);
  const stage = withStage ? h("div", { className: beside ? "whole sided" : "whole" }, rail(design, diagram),
    h("div", { className: "middle" }, diagram.element, beside ? null : trafficForm(design)), h("div", { className: "side" }, panel.element, beside)) : null;
  const view = { decisions: () => decisionsView(design), money: () => moneyView(design), models: () => modelsView(design),
    drift: () => driftView(design), load: () => loadView(design, live), break: () => breakView(design) }[chosen.view];
  main.replaceChildren(...[stage, view?.()].filter(Boolean));
  main.setAttribute("aria-labelledby", `tab-views-${chosen.view}`);
  if (chosen.box) open(chosen.box);
  refresh();
}

function select(box) {
  const before = chosen.box;
  chosen.box = box;
  history.replaceState(null, "", `#${[chosen.design, chosen.view, box].filter(Boolean).join("/")}`);
  if (box) { open(box); shown.panel.element.querySelector("h2")?.focus({ preventScroll: false }); }
  else {
    shown.panel.hide();
    shown.diagram.current("");
    document.body.classList.remove("with-panel");
    shown.diagram.boxes.get(before)?.button.focus();
  }
}

function open(box) {
  document.body.classList.add("with-panel");
  shown.diagram.current(box);
  shown.panel.show(box, history_.get(chosen.design));
}

function rail(design, diagram) {
  return h("nav", { className: "rail", "aria-label": "The eight steps" }, h("ol", {}, design.steps.map((step) => {
    const light = () => diagram.mark(step.boxes);
    const dark = () => diagram.mark([]);
    return h("li", {}, h("button", { type: "button", title: step.title, onmouseenter: light, onmouseleave: dark, onfocus: light, onblur: dark, disabled: !step.boxes.length,
      onclick: () => select(step.boxes[0]) },
      h("span", { className: "number" }, String(step.number)), h("span", {}, step.title)));
  })));
}

function theme() {
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const kept = recording ? null : localStorage.getItem("theme");
    const now = kept || (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = now;
    button.textContent = now === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Use ${now === "dark" ? "light" : "dark"} colours`);
  };
  button.addEventListener("click", () => {
    localStorage.setItem("theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    apply();
  });
  dark.addEventListener("change", apply);
  apply();
}

addEventListener("popstate", () => { if (designs.length) { read(); document.body.classList.remove("with-panel"); show(); } });
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chosen.box) select("");
});
theme();
start().catch((error) => { main.replaceChildren(h("p", { className: "bad" }, error.message)); });
