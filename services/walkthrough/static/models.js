// Models: the candidates, swap and retraining as they go, the gate's decisions, and the history.
import { get } from "api";
import { h, number, table } from "dom";
import { jobForm, notAllowed, selectInput } from "jobs";

export function modelsView(design) {
  const [choice, value] = selectInput("Candidate", design.candidates.map((one) => one.name));
  const past = h("div", { role: "status" }, h("p", {}, "Reading the history."));
  const read = async () => {
    try {
      past.replaceChildren(...models(design, (await get(`/api/history?design=${design.name}`)).reverse()));
    } catch (error) {
      past.replaceChildren(h("p", { className: "bad" }, error.message));
    }
  };
  read();
  return h("section", { className: "view" }, h("h2", {}, "Models"),
    h("p", {}, "A swap trains the candidate if it was never trained, lets it decide in shadow, and asks the gate. It takes minutes, and live traffic makes it shorter."),
    notAllowed(),
    jobForm(design, "swap", "Swap", [choice], () => ({ candidate: value() }), decided, read),
    jobForm(design, "night", "Run the nightly retraining", [], () => ({}), decided, read),
    jobForm(design, "rollback", "Roll back", [], () => ({}), decided, read), past);
}

// What a swap, a night or a rollback came to: the row that it added to the history.
function decided({ said, record }) {
  if (!record) return h("p", {}, said);
  const figures = gateRows(record.figures);
  return h("div", {}, h("p", { className: record.event === "refused" ? "bad" : "good" }, h("b", {}, `${record.model}: ${spaced(record.event)}`)),
    h("ul", {}, record.reasons.map((reason) => h("li", {}, reason))),
    figures.length ? table(`What the gate compared, ${record.model} against version ${record.before}`, ["", "champion", "challenger", ""], figures) : null,
    said.includes(";") ? h("p", { className: "small" }, said) : null);
}

// The gate's figures, champion beside challenger; none where it did not compare.
function gateRows(f) {
  if (!("cost_champion" in f)) return [];
  return [
    [`cost of ${number(f.decisions)} labelled decisions`, eur(f.cost_champion), eur(f.cost_challenger),
      `difference ${eur(f.cost_difference)}, at most ${eur(f.cost_difference_high)} (95 %)`],
    ["p95 of a call", ms(f.champion_p95_ms), ms(f.challenger_p95_ms), `the service's would be ${f.projected_p95_ms.toFixed(1)} ms`],
    ["calibration error", f.ece_champion.toFixed(4), f.ece_challenger.toFixed(4), ""],
  ];
}

// The candidates with the newest that is known of each, and the whole history; newest first.
function models(design, records) {
  const champion = records.find((r) => r.event !== "refused")?.model;
  const rows = design.candidates.map(({ name, role }) => {
    const newest = records.find((r) => r.model.startsWith(`${name}:`));
    // A later version of the champion's candidate may have been refused.
    const now = [champion?.startsWith(`${name}:`) ? "champion" : "", newest && newest.model !== champion ? `${spaced(newest.event)} ${when(newest)}` : ""];
    return [name, role, now.filter(Boolean).join("; ") || "never tried", newest ? figureTexts(newest) || newest.reasons.join("; ") : ""];
  });
  const history = records.map((r) => [when(r), spaced(r.event), r.model, r.reasons.join("; "), figureTexts(r)]);
  return [table("Candidates", ["candidate", "what it is good at", "now", "figures of its newest decision by the gate"], rows),
    history.length ? table("History of promotions, refusals and rollbacks", ["when (UTC)", "what", "model", "why", "figures, champion → challenger"], history)
      : h("p", {}, "No model was promoted yet: the first is, when the first start has trained it.")];
}

const figureTexts = (record) => gateRows(record.figures).map(([name, champion, challenger]) => `${name}: ${champion} → ${challenger}`).join("; ");
const spaced = (text) => text.replaceAll("_", " ");
const when = (record) => record.at.slice(0, 19).replace("T", " ");
const eur = (minor) => `${Math.round(minor / 100).toLocaleString("en-GB")} EUR`;
const ms = (value) => `${value.toFixed(3)} ms`;
