// Elements without markup: text is always text, whatever it contains.

const SVG = "http://www.w3.org/2000/svg";

export function h(name, properties = {}, ...children) {
  return fill(document.createElement(name), properties, children);
}

export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, properties, children) {
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key === "className" ? "class" : key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

// Text in which `code` is marked as in the docs.
export function marked(text) {
  return text.split("`").map((part, i) => (i % 2 ? h("code", {}, part) : part));
}

export function number(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size > 0 && size < 0.005) return value.toExponential(0);
  const digits = size >= 100 || Number.isInteger(value) ? 0 : size >= 10 ? 1 : size >= 0.095 ? 1 : size === 0 ? 0 : 2;
  return value.toLocaleString("en-GB", { maximumFractionDigits: digits });
}

export function figure(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit === "ms" && value >= 1000) return `${number(value / 1000)} s`;
  return unit === "/s" ? `${number(value)}/s` : unit ? `${number(value)} ${unit}` : number(value);
}

// A list of tabs as WAI-ARIA describes it: one tab stop, arrow keys move.
export function tabs(list, entries, selected, choose) {
  list.replaceChildren(
    ...entries.map(([id, title]) =>
      h("button", {
        type: "button", role: "tab", id: `tab-${list.id}-${id}`, "aria-controls": "view",
        "aria-selected": String(id === selected), tabindex: id === selected ? 0 : -1,
        onclick: () => choose(id),
        onkeydown: (event) => {
          const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
          if (!step) return;
          event.preventDefault();
          const index = entries.findIndex(([other]) => other === id);
          const next = entries[(index + step + entries.length) % entries.length][0];
          choose(next);
          document.getElementById(`tab-${list.id}-${next}`).focus();
        },
      }, title)),
  );
}

export function table(caption, headers, rows) {
  return h("div", { className: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h("table", {},
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, headers.map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, i) =>
        i ? h("td", {}, cell) : h("th", { scope: "row" }, cell)))))));
}
