"""The table of defects that training never saw."""

import numpy as np
import pytest

from services.cv_inspection.evaluation.cross_validation import protocols
from services.cv_inspection.evaluation.cross_validation.folds import FoldResult
from services.cv_inspection.evaluation.cross_validation.unseen import unseen_aucs
from services.platform.hooks import EvaluationRequest
from tests.unit.cv_inspection.vision_fixtures import quiet


def result(defect, novelty, label):
    m = len(label)
    probabilities = np.column_stack([1.0 - np.array(defect), defect])
    return FoldResult(
        np.arange(m), np.array(label), probabilities, np.array(novelty, float),
        np.zeros((m, 2, 2), np.int64), np.zeros((m, 1, 1), bool), 0.5,
    )  # fmt: skip


def test_each_score_ranks_the_left_out_class_against_good_parts_alone():
    # The classes see one of two defects, novelty the other; class 2 was in training.
    found = unseen_aucs(
        result([0.1, 0.2, 0.9, 0.0, 1.0], [1.0, 0.0, 0.5, 9.0, 0.0], [0, 0, 1, 1, 2]), kind=1
    )
    assert found == {"supervised": 0.5, "novelty": 0.75, "both": 1.0}


def test_the_classes_probability_has_no_novelty_in_it(tmp_path, monkeypatch):
    """Otherwise the column `supervised` would be that of both, and `both` count it twice."""
    (tmp_path / "groups.csv").touch()
    seen = []

    def read(folder, candidate, overrides, *_):
        seen.append(overrides)
        raise ValueError("read")

    monkeypatch.setattr(protocols, "read_for_folds", read)
    for unseen in (True, False):
        request = EvaluationRequest(tmp_path, "efficientnet", 0, 1, False, unseen=unseen)
        with pytest.raises(ValueError, match="read"):
            protocols.evaluation(request, quiet)
    assert [one["novelty_weight"] for one in seen] == [0.0, 0.5]
