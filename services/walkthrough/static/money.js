// Money: sliders for the costs; outcomes, EUR a day and curves follow.
import { get } from "api";
import { figure, h, number, table } from "dom";
import { curves } from "chart";
import { jobForm, notAllowed, runFigures } from "jobs";

const WAIT_MS = 60;

export function moneyView(design) {
  const status = h("p", { role: "status", className: "money-now" }, "Reading the logged decisions.");
  const result = h("div", {});
  const sliders = new Map();
  const form = h("div", { className: "sliders" });
  let asked = 0, timer = null;

  // Only what was moved: a slider's steps may not hold the present cost.
  const chosen = () => Object.fromEntries([...sliders].filter(([, one]) => one.moved).map(([name, one]) => [name, Number(one.input.value)]));
  const follow = async () => {
    const number_ = ++asked;
    const costs = Object.entries(chosen()).map(([name, value]) => `&cost=${name}=${value}`).join("");
    try {
      const state = await get(`/api/money?design=${design.name}${costs}`);
      if (number_ !== asked) return;
      if (!sliders.size) form.replaceChildren(...state.sliders.map((one) => slider(one, state.present[one.name], sliders, later)), reset(state));
      if (change) change.hidden = false;
      status.textContent = summary(state);
      result.replaceChildren(...figures(state));
    } catch (error) {
      if (number_ === asked) status.textContent = error.message;
    }
  };
  const later = () => { clearTimeout(timer); timer = setTimeout(follow, WAIT_MS); };
  const reset = (state) => h("button", { type: "button", onclick: () => {
    for (const [name, one] of sliders) one.reset(state.present[name]);
    later();
  } }, "The present costs");
  const change = design.commands.includes("costs") ? h("div", { hidden: true }, h("h3", {}, "Decide by these costs from now on"), notAllowed(),
    jobForm(design, "costs", "Change the costs", [], () => ({ costs: chosen() }), runFigures)) : null;
  follow();
  return h("section", { className: "view" }, h("h2", {}, "Money"),
    h("p", {}, "Each slider is a cost. The logged decisions of the running stack are decided again by the chosen costs; nothing changes for customers until you say so."),
    form, status, result, change);
}

function slider(one, present, sliders, later) {
  const text = h("output", {});
  const tell = (value) => { text.textContent = figure(value, one.unit); };
  const input = h("input", { type: "range", name: one.name, min: 0, max: Math.max(one.highest, present), step: one.step,
    oninput: () => { state.moved = true; tell(Number(input.value)); later(); } });
  const state = { input, moved: false, reset: (value) => { input.value = value; state.moved = false; tell(value); } };
  state.reset(present);
  sliders.set(one.name, state);
  return h("label", { className: "slider" }, h("span", {}, one.label), input, text);
}

function summary(state) {
  const eur = state.eur_per_day.toLocaleString("en-GB", { maximumFractionDigits: 2 });
  const now = state.eur_per_day_now.toLocaleString("en-GB", { maximumFractionDigits: 2 });
  return `${number(state.changed)} of ${number(state.decisions)} decisions change: ${eur} EUR a day expected, ${now} with the present outcomes.`;
}

function figures(state) {
  const rows = state.outcomes.map((one) => [one.outcome, number(one.now), number(one.chosen)]);
  const models = Object.entries(state.curves);
  const series = (key) => models.map(([role, of]) => ({ name: `${role} ${of.model}`, points: of[key] }));
  return [
    table("Outcomes of the logged decisions", ["outcome", "by the present costs", "by the chosen costs"], rows),
    models.length ? h("p", {}, `By labels: ${models.map(([role, of]) => `${role} ${of.model}, ${number(of.labelled)} labelled, ${number(of.positives)} of them bad`).join("; ")}.`)
      : h("p", {}, "No decision has a final label yet, so there is no curve: a payment's dispute window is 14 simulated days, and an operator's label comes within minutes."),
    models.length ? h("div", { className: "curves" },
      curves("Cost, if one threshold decided", "threshold", "EUR a decision", series("cost"), { logX: true, logY: true }),
      curves("Precision and recall", "recall", "precision", series("precision_recall")),
      curves("Calibration", "mean score", "share that was bad", series("calibration"), { diagonal: true })) : null,
  ].filter(Boolean);
}
