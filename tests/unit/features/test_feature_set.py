"""A declared set: its hash, its checks, and the function compiled from it."""

from dataclasses import replace

import numpy as np
import pytest

from features.aggregation import contributions
from features.feature_set import FeatureSet
from features.groups import Column, Feature, Group, Passthrough
from features.online.layout import RowLayout
from features.reading import FeatureReader, compile_reading, source_of
from features.spec import SEQ, SUMS, TIME, Measure, State
from tests.identical import assert_identical

COUNT = Measure("count", "Events.", "transaction")
SPENT = Measure("spent", "Amounts.", "amount")
SHOP = State("shop_state", ("shop",), (COUNT, SPENT), shard="shop")
MEAN = Feature("mean_7d", "Mean.", "the mean", "ratio(shop.spent, shop.count)", "7d")
SHOPS = Group("shops", "Shops.", {"shop": SHOP}, (MEAN,))
FLOOR = Column("floor", "Floor area.", "the size of the shop")
KIND = Column("kind", "Kind of shop.", "the kind of shop", ("food", "shoes"))
OWN = Passthrough("own", "The data set's own columns.", (FLOOR, KIND))


def make(**changes):
    declared = {
        "design": "toy",
        "event_columns": ("transaction", "amount"),
        "request": ("seconds",),
        "time": "seconds",
        "states": (SHOP,),
        "groups": (SHOPS, OWN),
        "transform": "",
    }
    return FeatureSet(**(declared | changes))


def test_columns_of_the_data_set_pass_through_unchanged():
    features = make()
    assert features.request_features == ("seconds", "floor", "kind")
    assert features.features == ("mean_7d", "floor", "kind")
    rows = np.zeros((3, SHOP.width))
    floor = FLOOR.encode([12.5, None, 1e300])
    kind = KIND.encode(["shoes", "food", "books"])
    request = np.column_stack([np.full(3, 1.0e9), floor, kind])
    found = FeatureReader(features).vectors({"shop_state": rows}, request)
    assert_identical(found[:, 1:], request[:, 1:])
    assert found[:, 2].tolist()[:2] == [1.0, 0.0]
    assert np.isnan(found[1, 1])
    assert np.isnan(found[2, 2])


def test_a_set_of_the_data_sets_own_columns_alone_needs_no_state():
    features = make(states=(), groups=(OWN,))
    request = np.array([[1.0e9, 2.0, 1.0]])
    assert FeatureReader(features).vectors({}, request).tolist() == [[2.0, 1.0]]


def test_rows_as_redis_answers_them_and_rows_of_a_cache_are_read_by_one_machine_code():
    """Each more would be compiled while a request waits."""
    layout, request = RowLayout.of(SHOP), np.array([[1.0e9, 0.0, 0.0]])
    stored = np.zeros((1, SHOP.width))
    stored[0, SEQ], stored[0, TIME] = 5.0, 1.0e9
    read = layout.decode_one(layout.values(stored)[0])
    assert stored.flags.writeable != read.flags.writeable
    features = make()
    compiled = compile_reading(features)
    found = np.empty((2, 1, len(features.features)))
    for row, out in zip((stored, read), found, strict=True):
        compiled(row, request, out)
    assert_identical(found[0], found[1])
    assert len(compiled.signatures) == 1


def test_a_feature_reads_its_measures_by_name():
    rows = np.zeros((1, SHOP.width))
    rows[0, SEQ], rows[0, TIME] = 5.0, 1.0e9
    rows[0, SHOP.column("count", "7d")], rows[0, SHOP.column("spent", "7d")] = 4.0, 10.0
    request = np.array([[1.0e9, 0.0, 0.0]])
    assert FeatureReader(make()).vectors({"shop_state": rows}, request)[0, 0] == 2.5
    # The same with the measures in another order: their positions follow from the names.
    turned = replace(SHOP, measures=(SPENT, COUNT))
    rows[0, SUMS:] = 0.0
    rows[0, turned.column("count", "7d")], rows[0, turned.column("spent", "7d")] = 4.0, 10.0
    features = make(states=(turned,), groups=(replace(SHOPS, states={"shop": turned}), OWN))
    assert FeatureReader(features).vectors({"shop_state": rows}, request)[0, 0] == 2.5
    assert source_of(features, "read") != source_of(make(), "read")


def changed_group(**changes):
    return (replace(SHOPS, features=(replace(MEAN, **changes),)), OWN)


MORE = replace(SHOP, measures=(COUNT, SPENT, Measure("squares", "", "amount * amount")))


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": changed_group(name="average_7d")},
        {"groups": changed_group(half_life="30d")},
        {"groups": changed_group(value="ratio(shop.count, shop.spent)")},
        {"groups": (OWN, SHOPS)},
        {"groups": (SHOPS, replace(OWN, columns=(FLOOR,)))},
        {"groups": (SHOPS, replace(OWN, columns=(FLOOR, replace(KIND, categories=("shoes",)))))},
        {"states": (MORE,), "groups": (replace(SHOPS, states={"shop": MORE}), OWN)},
    ],
)
def test_what_changes_the_meaning_changes_the_hash(changes):
    assert make(**changes).hash != make().hash


def test_words_and_spaces_do_not_change_the_hash():
    said = changed_group(
        documentation="The mean.", phrase="-", value="ratio( shop.spent,shop.count )"
    )
    assert make(groups=said).hash == make().hash
    renamed = replace(
        SHOPS, states={"s": SHOP}, features=(replace(MEAN, value="ratio(s.spent, s.count)"),)
    )
    assert make(groups=(renamed, OWN)).hash == make().hash


def test_a_new_feature_over_present_measures_leaves_the_rows_hash():
    more = replace(MEAN, name="mean_30d", half_life="30d")
    added = make(groups=(replace(SHOPS, features=(MEAN, more)), OWN))
    assert added.hash != make().hash
    assert added.states[0].hash == make().states[0].hash
    assert replace(SHOP, measures=(COUNT,)).hash != SHOP.hash


def test_a_state_depends_on_those_that_it_needs():
    new = Measure("new", "", "first", first_of=SHOP)
    city = State("city_state", ("city",), (new,), shard="city")
    other = replace(city, measures=(replace(new, first_of=MORE),))
    assert city.hash != other.hash
    assert city.together == (SHOP, city)
    with pytest.raises(ValueError, match="shop_state must come before"):
        make(states=(city, SHOP))
    assert make(states=(SHOP, city)).states == (SHOP, city)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": changed_group(value="ratio(shop.spent, shop.cuont)")}, "shop.cuont"),
        ({"groups": changed_group(value="ratoi(shop.spent, shop.count)")}, r"ratoi\(\)"),
        ({"groups": changed_group(value="amount")}, "amount"),
        ({"groups": changed_group(value="shop.spent[0]")}, "Subscript is not allowed"),
        ({"groups": changed_group(value="__import__('os')")}, "only numbers"),
        ({"groups": changed_group(value="1 +")}, "is no expression"),
        ({"groups": changed_group(half_life="3d")}, "no half-life '3d'"),
        ({"groups": changed_group(half_life=None)}, "shop.count"),
        ({"groups": (SHOPS, SHOPS)}, "'mean_7d' is declared twice"),
        ({"groups": (replace(SHOPS, states={"shop": MORE}), OWN)}, "shop_state is not a state"),
        ({"states": (SHOP, replace(SHOP, measures=()))}, "'shop_state' is declared twice"),
        ({"time": "minutes"}, "minutes"),
        ({"states": (replace(SHOP, measures=(replace(COUNT, name="seq"),)),)}, "row's header"),
        ({"states": (replace(SHOP, measures=(replace(COUNT, value="amuont"),)),)}, "amuont"),
    ],
)
def test_a_wrong_declaration_is_refused_with_its_name(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


class Two:
    """Two events."""

    values = {"transaction": np.array([1.0, 0.0]), "amount": np.array([3.0, 0.0])}  # noqa: RUF012

    def __len__(self):
        return 2


def test_measures_are_computed_from_the_events_columns():
    new = Measure("new", "", "first * amount", first_of=SHOP)
    state = State("s", ("k",), (COUNT, new), shard="k")
    found = contributions(state, Two(), {"shop_state": np.array([True, False])})
    assert found.tolist() == [[1.0, 3.0], [0.0, 0.0]]
