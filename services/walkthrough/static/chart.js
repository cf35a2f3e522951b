import { figure, h, number, svg } from "dom";

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

// A line, with a limit where there is one.
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

// Curves of several models over the same axes, with marks at both ends of each axis.
const LEFT = 46, TOP = 12, WIDE = 300, HIGH = 190;
export function curves(title, across, up, series, { logX = false, logY = false, diagonal = false } = {}) {
  const shown = series.map((one) => [one.name, one.points.filter(([x, y]) => (!logX || x > 0) && (!logY || y > 0))]).filter(([, points]) => points.length);
  const [x, xEnds] = scale(shown.flatMap(([, points]) => points.map((p) => p[0])), logX, WIDE, 1);
  const [y, yEnds] = scale(shown.flatMap(([, points]) => points.map((p) => p[1])), logY, HIGH, diagonal ? 1 : 0);
  const at = ([a, b]) => `${(LEFT + x(a)).toFixed(1)},${(TOP + HIGH - y(b)).toFixed(1)}`;
  const summary = shown.map(([name, points]) => `${name}: ${points.length} points`).join(", ");
  return h("figure", { className: "curve" }, h("figcaption", {}, title),
    svg("svg", { viewBox: `0 0 ${LEFT + WIDE + 14} ${TOP + HIGH + 40}`, role: "img", "aria-label": `${title}, ${up} by ${across}; ${summary}` },
      svg("path", { class: "axes", d: `M${LEFT} ${TOP} V${TOP + HIGH} H${LEFT + WIDE}` }),
      diagonal ? svg("polyline", { class: "perfect", points: `${at([0, 0])} ${at([1, 1])}` }) : null,
      shown.map(([, points], i) => svg("polyline", { class: `series s${i}`, points: points.map(at).join(" ") })),
      diagonal ? shown.map(([, points], i) => points.map((p) => svg("circle", { class: `s${i}`, r: 3.5, cx: at(p).split(",")[0], cy: at(p).split(",")[1] }))) : null,
      svg("text", { x: LEFT, y: TOP + HIGH + 16 }, number(xEnds[0])), svg("text", { x: LEFT + WIDE, y: TOP + HIGH + 16, "text-anchor": "end" }, number(xEnds[1])),
      svg("text", { x: LEFT + WIDE / 2, y: TOP + HIGH + 32, "text-anchor": "middle" }, across),
      svg("text", { x: LEFT - 5, y: TOP + HIGH, "text-anchor": "end" }, number(yEnds[0])), svg("text", { x: LEFT - 5, y: TOP + 9, "text-anchor": "end" }, number(yEnds[1])),
      svg("text", { x: 12, y: TOP + HIGH / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${TOP + HIGH / 2})` }, up)),
    h("p", { className: "small keys" }, shown.map(([name], i) => h("span", { className: `key s${i}` }, name))));
}

// Where a request's time goes: each stage begins where the one before ended; what follows the answer is set apart.
export function waterfall(stages) {
  const path = stages.filter((one) => one.on_path), after = stages.filter((one) => !one.on_path);
  const total = path.reduce((sum, one) => sum + one.mean_ms, 0);
  let begin = 0;
  const row = (one, left, wide, kind) => {
    const bar = h("span", { className: `stage ${kind}` });
    bar.style.marginLeft = `${(100 * left).toFixed(2)}%`;
    bar.style.width = `${Math.max(0.4, 100 * Math.min(wide, 1 - left)).toFixed(2)}%`;
    return h("tr", {}, h("th", { scope: "row" }, one.name), h("td", {}, figure(one.mean_ms, "ms")), h("td", { className: "track" }, bar));
  };
  const rows = path.map((one) => {
    const left = begin;
    begin += one.mean_ms / total;
    return row(one, left, one.mean_ms / total, "on-path");
  });
  return h("table", { className: "waterfall" }, h("caption", {}, `In the service: ${figure(total, "ms")}, means of the last half minute`),
    h("thead", {}, h("tr", {}, ["stage", "mean", "when in the request"].map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, rows, after.map((one) => h("tr", {}, h("th", { scope: "row" }, one.name), h("td", {}, figure(one.mean_ms, "ms")), h("td", {}, "after the answer")))));
}

// A function from values to a length, and the values at both ends.
function scale(values, log, length, most) {
  const top = Math.max(...values, most || -Infinity), bottom = log ? Math.min(...values) : 0;
  const map = log ? Math.log : (v) => v;
  const span = map(top) - map(bottom) || 1;
  return [(v) => ((map(v) - map(bottom)) / span) * length, [bottom, top]];
}
