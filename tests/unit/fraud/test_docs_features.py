"""The feature and the measure that docs/features.md adds: one file, and every name follows."""

import sys
from types import ModuleType

import numpy as np
import pytest

from features.aggregation import backfill
from features.reading import FeatureReader
from services.fraud.features import states
from services.fraud.features.request import request_columns
from tests.docs_features import PATH, ROOT, patched
from tests.identical import assert_identical


@pytest.fixture
def changed(monkeypatch):
    module = ModuleType("changed_states")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    text = patched((ROOT / PATH).read_text())
    exec(compile(text, str(PATH), "exec"), module.__dict__)
    return module


def test_the_names_follow_and_the_other_states_keep_their_hash(changed):
    old, new = states.FEATURE_SET, changed.FEATURE_SET
    assert set(new.features) - set(old.features) == {"merchant_small_share_1d"}
    assert new.hash != old.hash
    differing = {a.name for a, b in zip(old.views, new.views, strict=True) if a.hash != b.hash}
    assert differing == {"merchant_state"}
    assert new.declared["merchant_small_share_1d"].phrase == "small payments at the merchant"


def test_the_new_feature_is_computed_and_the_others_keep_their_bytes(changed, simulated):
    features = changed.FEATURE_SET
    seen = simulated.events.is_transaction
    index = np.where(seen, np.cumsum(seen) - 1, -1)
    folded = backfill(features.states, simulated.events, index)
    rows = {name: done.snapshots for name, done in folded.items()}
    vectors = FeatureReader(features).vectors(rows, request_columns(simulated.transactions))
    known = vectors[:, features.columns(states.TABULAR)]
    assert_identical(known, simulated.vectors[:, : len(states.TABULAR)])

    [column] = features.columns(("merchant_small_share_1d",))
    table = simulated.transactions.to_pandas()
    mine = table[table["merchant_id"] == table["merchant_id"].value_counts().index[0]]
    at = mine.index[-1]
    age = (mine.loc[at, "event_time"] - mine["event_time"]).dt.total_seconds().iloc[:-1]
    weight = 2.0 ** (-age / 86_400.0)
    small = mine["amount_minor"].iloc[:-1] < 500
    assert small.any()
    assert vectors[at, column] == pytest.approx((weight * small).sum() / weight.sum(), rel=1e-9)
