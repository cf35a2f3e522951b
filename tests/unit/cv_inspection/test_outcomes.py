"""The join of inspections with labels, and what each label stands for."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from services.cv_inspection.features.labelled_images import LabelledImages
from services.cv_inspection.ingestion.audit import is_audited, label_weights
from services.cv_inspection.ingestion.outcomes import with_labels
from services.cv_inspection.model import MAX_NOVELTY, read_model
from services.cv_inspection.monitoring.drift import reference
from services.cv_inspection.problem import ESCAPE_COST_MINOR, CostModel
from services.cv_inspection.retraining.training import make_card, novelty_limit
from services.platform.models.onnx import write_card

COUNT, SHARE, THRESHOLD = 2_000, 0.1, 0.2


def test_repeated_inspections_count_once_and_the_newest_label_counts():
    inspections = pa.table({"inspection_id": ["a", "b", "a"], "seq": [1, 2, 3],
                            "audit": [True, False, True],
                            "propensity": [0.5, 1.0, 0.5]})  # fmt: skip
    labels = pa.table({"inspection_id": ["a", "a", "c"], "label": ["pit", "good", "pit"],
                       "seq": [1, 2, 3]})  # fmt: skip
    found = with_labels(inspections, labels)
    assert found.to_dict("records") == [
        {"inspection_id": "a", "seq": 1, "audit": True, "propensity": 0.5, "label": "good",
         "weight": 2.0}
    ]  # fmt: skip


def shift(seed):
    """P(defect), whether there is a defect, and what a person looked at or a customer returned."""
    rng = np.random.default_rng(seed)
    score = rng.beta(0.2, 2, COUNT)
    defect = rng.random(COUNT) < 0.7 * score + 0.03
    stopped = score >= THRESHOLD
    audit = ~stopped & np.array([is_audited(f"{seed}-{i}", SHARE) for i in range(COUNT)])
    returned = ~stopped & ~audit & defect & (rng.random(COUNT) < 0.6)
    rows = pd.DataFrame({"propensity": np.where(stopped, 1.0, SHARE), "audit": audit})
    return score, defect, stopped | audit | returned, label_weights(rows)


def test_costs_by_labels_are_the_true_ones_on_average_at_any_threshold():
    """Whether or not customers have returned some of what escaped."""
    costs = CostModel()
    amount = np.full(COUNT, float(ESCAPE_COST_MINOR))
    for threshold in (0.05, THRESHOLD, 0.5):
        errors = []
        for seed in range(60):
            score, defect, labelled, weight = shift(seed)
            of = costs.costs(score >= threshold, defect, amount)
            errors.append((of * weight)[labelled].sum() / of.sum() - 1)
        assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(len(errors))
        # Counting each label once is far off: it misses nine in ten passed parts.
        assert np.std(errors) / np.sqrt(len(errors)) < 0.06


def test_labels_of_stopped_parts_alone_never_lower_the_threshold_and_audits_do():
    best = {}
    for audits in (False, True):
        score, defect, labelled, weight = (np.concatenate(x) for x in zip(*map(shift, range(20)),
                                                                          strict=True))  # fmt: skip
        seen = labelled & ((weight > 0) if audits else (score >= THRESHOLD))
        amount = np.full(int(seen.sum()), float(ESCAPE_COST_MINOR))
        best[audits] = CostModel().best_threshold(score[seen], defect[seen], amount, weight[seen])
    assert best[True] < THRESHOLD <= best[False]


@pytest.mark.parametrize(("share", "drawn"), [(0.0, 0.0), (0.02, 0.02), (1.0, 1.0)])
def test_the_share_is_drawn(share, drawn):
    found = np.mean([is_audited(f"{i:032x}", share) for i in range(20_000)])
    assert found == pytest.approx(drawn, abs=0.005)


def images(label, weight=None):
    label = np.array(label)
    blank = np.zeros((len(label), 1, 1, 3), np.uint8)
    made = LabelledImages.from_arrays(
        blank, label, np.zeros((len(label), 1, 1), bool), np.arange(len(label)),
        np.zeros((len(label), 4)), ESCAPE_COST_MINOR,
    )  # fmt: skip
    return made if weight is None else replace(made, weight=weight)


def test_good_parts_are_drawn_for_training_as_often_as_they_count():
    """Ten good parts that were stopped, ten of audits that stand for ten each, two defects."""
    weight = np.array([1.0] * 10 + [10.0] * 10 + [1.0] * 2)
    of = images([0] * 20 + [1, 2], weight)
    rng = np.random.default_rng(0)
    drawn = np.concatenate([of.balanced(rng) for _ in range(500)])
    counts = np.bincount(drawn, minlength=22)
    assert (counts[20:] == 500).all()
    assert counts[:10].sum() / counts[:20].sum() == pytest.approx(10 / 110, abs=0.03)
    # Without weights all count alike.
    plain = np.concatenate([images([0] * 20 + [1, 2]).balanced(rng) for _ in range(500)])
    assert np.bincount(plain)[:10].sum() / 1_000 == pytest.approx(0.5, abs=0.06)


def test_limits_and_reference_are_those_of_the_line_not_of_what_was_stopped():
    novelty = np.concatenate([np.full(50, 9.0), np.linspace(0, 1, 100)])
    weight = np.concatenate([np.full(50, 1.0), np.full(100, 1_000.0)])
    assert novelty_limit(novelty) == 9.0
    assert novelty_limit(novelty, weight) <= 1.0
    of = images(np.zeros(150, np.int64), weight)
    made = reference(of, novelty, novelty)
    assert np.mean(made.sample[:, 0] > 1.0) < 0.01


def test_an_infinite_limit_is_left_out_of_the_card(vision_candidate, vision_file):
    """JSON has no infinity: such a card could not be read again."""
    assert novelty_limit(np.zeros(0)) == math.inf
    limits = {MAX_NOVELTY: math.inf}
    made = make_card(vision_candidate, 0.1, "test", limits=limits)
    assert read_model(write_card(vision_file, made)).max_novelty == math.inf
