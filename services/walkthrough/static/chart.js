import { figure, svg } from "dom";

// A line without axes; the figure beside it says the value.
export function sparkline(values, label) {
  const known = values.filter((v) => v !== null && v !== undefined);
  const top = Math.max(...known, 1e-9);
  const points = values
    .map((v, i) => (v === null || v === undefined ? null : `${(i / 119) * 160},${30 - (v / top) * 28}`))
    .filter(Boolean);
  return svg("svg", { class: "spark", viewBox: "0 0 160 32", role: "img", "aria-label": `${label}, last two minutes` },
    svg("polyline", { points: points.join(" ") }));
}

// A line with its highest value and a limit.
export function line(values, label, unit, limit = null) {
  const known = values.filter((v) => v !== null && v !== undefined);
  const top = Math.max(...known, limit ?? 0, 1e-9) * 1.1;
  const y = (v) => 128 - (v / top) * 112;
  const points = values.map((v, i) => (v === null || v === undefined ? null : `${(i / 119) * 600},${y(v)}`)).filter(Boolean);
  return svg("svg", { class: "line", viewBox: "0 0 600 140", role: "img",
    "aria-label": `${label}: now ${figure(known.at(-1) ?? null, unit)}` },
    limit === null ? null : svg("line", { class: "limit", x1: 0, x2: 600, y1: y(limit), y2: y(limit) }),
    limit === null ? null : svg("text", { x: 4, y: y(limit) - 5 }, `budget ${figure(limit, unit)}`),
    svg("polyline", { points: points.join(" ") }));
}
