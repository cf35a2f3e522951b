// The diagram: boxes are buttons in reading order, arrows are hand-laid paths with moving dots.
import { figure, h, number, svg, table } from "dom";

export const ICONS = { running: "●", active: "●", degraded: "▲", hanging: "◼", down: "✕", idle: "○", "not started": "◌", unknown: "◌" };
const WIDTH = 1340, BELOW = 24, BOX_WIDTH = 180, BOX_HEIGHT = 96;
const SPEED = 170, MOST_DOTS = 6, FRAME_MS = 33;
const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Diagram {
  constructor(design, select) {
    this.design = design;
    const turns = design.arrows.flatMap((arrow) => [...arrow.path.matchAll(/V([\d.]+)/g)].map((found) => Number(found[1])));
    this.height = Math.max(...design.boxes.map((box) => box.y + BOX_HEIGHT), ...turns) + BELOW;
    this.arrows = design.arrows.map((arrow) => this.makeArrow(arrow));
    this.boxes = new Map(design.boxes.map((box) => [box.id, this.makeBox(box, select)]));
    this.drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${this.height}`, "aria-hidden": "true", class: "arrows" },
      svg("defs", {}, svg("marker", { id: "head", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" },
        svg("path", { d: "M0 0 L8 4 L0 8 Z" }))),
      this.arrows.map((one) => [one.wait, one.line]), this.arrows.map((one) => [one.text, one.held]));
    this.dots = svg("g", { class: "dots" });
    this.drawing.append(this.dots);
    this.legend = h("p", { className: "legend" });
    this.table = h("details", { className: "figures" });
    this.stage = h("div", { className: "stage", role: "group", "aria-label": `Diagram: ${design.title}` },
      this.drawing, [...this.boxes.values()].map((one) => one.button));
    this.stage.style.setProperty("--height", this.height);
    this.element = h("div", {}, this.stage, this.legend, this.table);
    this.perDot = 1;
    this.moving = [];
    this.last = 0;
  }

  makeArrow(arrow) {
    const { x, y, second_y, anchor } = arrow.label_at;
    return {
      arrow, rate: arrow.rate, waits: arrow.waits, due: Math.random(),
      line: svg("path", { d: arrow.path, class: "arrow", "marker-end": "url(#head)" }),
      wait: svg("path", { d: arrow.path, class: "wait" }),
      held: svg("text", { x, y: second_y, "text-anchor": anchor }),
      text: svg("text", { x, y, "text-anchor": anchor }),
    };
  }

  makeBox(box, select) {
    const state = h("span", { className: "state" });
    const values = box.figures.map(() => h("b"));
    const outgoing = h("span", { className: "outgoing" });
    const button = h("button", { type: "button", className: "box", "data-box": box.id, onclick: () => select(box.id) },
      h("span", { className: "name" }, box.label), state,
      box.figures.slice(0, 3).map((f, i) => h("span", { className: "figure" }, ` ${f.label} `, values[i])), outgoing);
    button.style.left = `${(box.x / WIDTH) * 100}%`;
    button.style.top = `${(box.y / this.height) * 100}%`;
    button.style.width = `${(BOX_WIDTH / WIDTH) * 100}%`;
    button.style.height = `${(BOX_HEIGHT / this.height) * 100}%`;
    return { box, button, state, values, outgoing };
  }

  update(live) {
    for (const [id, { box, button, state, values, outgoing }] of this.boxes) {
      const now = live.boxes[id];
      if (!now) continue;
      button.dataset.state = now.state;
      state.textContent = `${ICONS[now.state] || "◌"} ${now.state}`;
      values.forEach((element, i) => { element.textContent = figure(now.figures[i], box.figures[i].unit); });
      outgoing.textContent = this.outgoing(id, live);
    }
    this.arrows.forEach((one, i) => this.updateArrow(one, live.arrows[i], live));
    const most = Math.max(...this.arrows.map((one) => one.rate || 0));
    this.perDot = Math.max(1, 10 ** Math.ceil(Math.log10(Math.max(most, 1) / MOST_DOTS)));
    this.legend.textContent = still.matches ? "Rates are beside the arrows." : `A dot is ${number(this.perDot)} ${this.perDot === 1 ? "event" : "events"}.`;
    if (this.table.open || !this.table.childElementCount) this.fillTable(live);
    this.run();
  }

  updateArrow(one, now, live) {
    one.rate = now.rate;
    one.waits = now.waits;
    const waiting = now.waits > 0;
    one.wait.setAttribute("stroke-width", waiting ? Math.min(4 + 3 * Math.log10(1 + now.waits), 18) : 0);
    one.text.textContent = now.rate === null ? "" : figure(now.rate, "/s");
    one.held.textContent = waiting ? `${number(now.waits)} waiting` : "";
    one.line.classList.toggle("broken", ["down", "hanging"].includes(live.boxes[one.arrow.to]?.state));
  }

  outgoing(id, live) {
    return this.design.arrows
      .map((arrow, i) => [arrow, live.arrows[i]])
      .filter(([arrow]) => arrow.from === id)
      .map(([arrow, now]) => `→ ${this.boxes.get(arrow.to).box.label}: ${arrow.label}${now.rate === null ? "" : ` ${figure(now.rate, "/s")}`}`)
      .join("\n");
  }

  fillTable(live) {
    const rows = this.design.boxes.map((box) => [box.label, live.boxes[box.id].state,
      box.figures.map((f, i) => `${f.label} ${figure(live.boxes[box.id].figures[i], f.unit)}`).join(", ")]);
    const arrows = this.design.arrows.map((arrow, i) => [`${this.boxes.get(arrow.from).box.label} to ${this.boxes.get(arrow.to).box.label}`,
      arrow.label, figure(live.arrows[i].rate, "/s"), number(live.arrows[i].waits)]);
    this.table.replaceChildren(h("summary", {}, "The figures as a table"),
      table("Boxes", ["box", "state", "figures"], rows),
      table("Arrows", ["from, to", "what moves", "rate", "waiting"], arrows));
  }

  mark(ids) {
    for (const [id, { button }] of this.boxes) button.classList.toggle("marked", ids.includes(id));
  }

  current(id) {
    for (const [other, { button }] of this.boxes) {
      if (other === id) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  run() {
    if (still.matches || this.frame || !this.arrows.some((one) => one.rate > 0)) return;
    this.last = performance.now();
    this.frame = requestAnimationFrame((now) => this.move(now));
  }

  move(now) {
    this.frame = null;
    const idle = !this.element.isConnected || document.hidden || still.matches || this.drawing.clientWidth === 0;
    if (idle) { this.dots.replaceChildren(); this.moving = []; return; }
    const passed = Math.min(now - this.last, 200) / 1000;
    if (passed * 1000 >= FRAME_MS) {
      this.last = now;
      this.spawn(passed);
      this.moving = this.moving.filter((dot) => this.step(dot, passed));
    }
    if (this.moving.length || this.arrows.some((one) => one.rate > 0)) this.frame = requestAnimationFrame((next) => this.move(next));
  }

  spawn(passed) {
    for (const one of this.arrows) {
      one.due += ((one.rate || 0) / this.perDot) * passed;
      for (; one.due >= 1; one.due -= 1) {
        const circle = svg("circle", { r: 4 });
        this.dots.append(circle);
        one.length ??= one.line.getTotalLength();
        this.moving.push({ one, circle, at: 0 });
      }
    }
  }

  step(dot, passed) {
    dot.at += SPEED * passed;
    if (dot.at >= dot.one.length) { dot.circle.remove(); return false; }
    const point = dot.one.line.getPointAtLength(dot.at);
    dot.circle.setAttribute("transform", `translate(${point.x.toFixed(1)} ${point.y.toFixed(1)})`);
    return true;
  }
}
