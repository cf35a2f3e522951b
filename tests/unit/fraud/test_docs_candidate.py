"""The candidate that docs/candidates.md adds is one file, and it trains, exports and serves."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from services.fraud.candidates import CANDIDATES
from services.fraud.features.states import FEATURES, TABULAR
from services.platform.models.onnx import write_card
from services.platform.models.tabular import TabularModel
from tests.conftest import card
from tests.identical import assert_identical

PAGE = Path(__file__).parents[3] / "docs" / "candidates.md"


@pytest.fixture
def logistic():
    text = PAGE.read_text().split("```python\n")[1].split("```")[0]
    assert len(text.splitlines()) <= 50
    module = ModuleType("logistic")
    exec(compile(text, str(PAGE), "exec"), module.__dict__)
    yield CANDIDATES.get("logistic")
    del CANDIDATES._known["logistic"]


def test_it_trains_exports_and_is_served(logistic, simulated, tmp_path):
    made = logistic({}, TABULAR)
    data = simulated.examples
    made.fit(data, data, 0, lambda *_: None)
    model = TabularModel(write_card(made.export(), card(candidate="logistic")), "fraud", FEATURES)
    native = made.score(data)
    assert np.abs(model.score(simulated.vectors) - native).max() < 1e-5
    assert native[data.positive].mean() > 3 * native[~data.positive].mean()
    made.save(tmp_path)
    again = logistic({}, TABULAR)
    again.load(tmp_path)
    assert_identical(again.score(data), native)
