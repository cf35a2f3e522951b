"""How far the mix of first reasons lies from training's, on clean windows and under drift.

    python -m benchmarks.reasons_mix --seed 0 --drift null_device=0.3

A model is trained on simulated days as the first champion is. The declines of the days after are
explained; from day 80 to 90 the simulation drifts. Prints windows as JSON; needs no engines.
"""

import argparse
import json

import numpy as np

from services.fraud.evaluation.drill import make_card
from services.fraud.evaluation.simulated_data import SimulatedData, midnight
from services.fraud.features.backfill import WARM_UP_DAYS
from services.fraud.features.states import FEATURES
from services.fraud.model import read_model
from services.fraud.problem import DECLINE, CostModel
from services.fraud.reasons.explainer import (
    ATTACHMENT,
    Explainer,
    explanation_file,
    first_reasons,
)
from services.fraud.reasons.mix import ReasonMix
from services.fraud.retraining.training import choose_threshold, new_candidate
from services.fraud.simulator.drift import Drift
from services.platform.models.attachments import attach
from services.platform.models.onnx import write_card

_FIT_UNTIL, _VALID_UNTIL, _DRIFT_FROM, _DRIFT_UNTIL, _DAYS = 37, 44, 80, 90, 100


def windows(seed: int, drift: Drift) -> list[dict[str, object]]:
    """The windows of the days after training, oldest first."""
    schedule = ((midnight(_DRIFT_FROM), drift), (midnight(_DRIFT_UNTIL), Drift()))
    data = SimulatedData(seed, _DAYS, schedule)
    fit, valid = data.examples(WARM_UP_DAYS, _FIT_UNTIL), data.examples(_FIT_UNTIL, _VALID_UNTIL)
    candidate = new_candidate("xgboost")
    candidate.fit(fit, valid, seed, lambda *_: None)
    threshold = choose_threshold(candidate, valid)
    card = make_card(candidate, threshold, "benchmark", midnight(_VALID_UNTIL) / 1e6)
    file = attach(candidate.export(), {ATTACHMENT: explanation_file(candidate, fit)})
    model = read_model(write_card(file, card))
    explainer, reference = Explainer(model), first_reasons(model, valid)
    outcome = CostModel().outcomes(candidate.score(data.examples(0, _DAYS)), threshold, data.amount)
    mix, vector = ReasonMix(), np.full(len(FEATURES), np.nan)
    for row in np.flatnonzero((outcome == DECLINE) & (data.day >= _VALID_UNTIL)):
        vector[model.columns] = data.vectors[row]
        at = np.datetime64(round(data.time[row] * 1e6), "us").item().isoformat()
        event = {"transaction": {"event_time": at}, "model": card.label}
        mix.add(int(row) + 1, event, explainer.explain(vector, {}).reasons[0].group, reference)
    return [
        {"begin": window["event_time"].isoformat(), "psi": round(window["psi"][0], 3)}
        for window in mix.closed
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drift", default="null_device=0.3")
    arguments = parser.parse_args()
    print(json.dumps(windows(arguments.seed, Drift.parse(arguments.drift)), indent=1))
