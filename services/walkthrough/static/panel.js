// A box in full: what was decided and why, live figures, code, command, faults, question, at scale.
import { figure, h, marked } from "dom";
import { sparkline } from "chart";
import { ICONS } from "diagram";
import { faultForm } from "jobs";

export class Panel {
  constructor(design, close) {
    this.design = design;
    this.close = close;
    this.element = h("aside", { className: "panel", "aria-label": "Box", hidden: true });
  }

  show(id, history) {
    const box = this.design.boxes.find((one) => one.id === id);
    if (!box) return this.hide();
    const step = this.design.steps.find((one) => one.number === box.step);
    this.box = box;
    this.state = h("p", { className: "state" });
    this.figures = h("dl", { className: "live" });
    this.element.hidden = false;
    this.element.replaceChildren(
      h("div", { className: "title" }, h("h2", { tabindex: -1 }, box.label),
        h("button", { type: "button", className: "quiet", onclick: this.close, "aria-label": "Close the box" }, "✕")),
      this.state,
      step ? h("section", {}, h("h3", {}, `Step ${step.number}: ${step.title}`), h("p", { className: "decision" }, marked(step.decision)),
        step.why.split("\n\n").filter(Boolean).map((text) => h("p", {}, marked(text)))) : null,
      h("section", {}, h("h3", {}, "Live"), this.figures),
      box.question ? h("details", {}, h("summary", {}, box.question), h("p", {}, marked(box.answer))) : null,
      h("section", {}, h("h3", {}, "See for yourself"), box.command ? command(box.command) : null,
        box.file ? h("p", { className: "small" }, "Code: ", h("code", {}, `${box.file}:${box.line}`)) : null,
        step ? h("p", { className: "small" }, "Step: ", h("code", {}, step.file)) : null),
      box.process && Object.keys(box.faults).length ? h("section", {}, h("h3", {}, "Break it"), faultForm(this.design, box)) : null,
      h("section", {}, h("h3", {}, "On AWS"), h("p", {}, marked(box.aws)), h("h3", {}, "At scale"), h("p", {}, marked(box.at_scale))));
    this.update(history);
    return undefined;
  }

  hide() {
    this.box = null;
    this.element.hidden = true;
    this.element.replaceChildren();
  }

  update(history) {
    if (!this.box) return;
    const newest = history.at(-1)?.boxes[this.box.id];
    if (!newest) return;
    this.element.dataset.state = newest.state;
    this.state.textContent = `${ICONS[newest.state] || "◌"} ${newest.state}`;
    this.figures.replaceChildren(...this.box.figures.flatMap((f, i) => [
      h("dt", {}, f.label),
      h("dd", {}, h("b", {}, figure(newest.figures[i], f.unit)),
        sparkline(history.map((tick) => tick.boxes[this.box.id]?.figures[i] ?? null), f.label))]));
    if (!this.box.figures.length) this.figures.replaceChildren(h("dt", {}, "It runs on command, so it has no live figure."));
  }
}

export function command(text) {
  const copied = h("button", { type: "button", className: "quiet", "aria-label": `Copy ${text}`, onclick: async () => {
    await navigator.clipboard.writeText(text);
    copied.textContent = "copied";
    setTimeout(() => { copied.textContent = "copy"; }, 1500);
  } }, "copy");
  return h("p", { className: "command" }, h("code", {}, text), copied);
}
