"""Feature sets that differ in what the states make of a declined attempt.

`attempts` is the product's set: every transaction counts, whatever was decided. In `purchases`
amounts, their means and deviations, and a customer's pairs with devices come from approved
transactions; how often a party pays or is used stays a number of attempts. `declines` adds how many
attempts of each party were declined. `both` has both.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from features.feature_set import FeatureSet
from features.groups import Feature, Group, for_each
from features.spec import Measure, State
from services.fraud.features.states import CUSTOMER, DEVICE, FEATURE_SET, IP, MERCHANT, PAIR
from services.fraud.ingestion.columns import EVENT_COLUMNS

ATTEMPTS = "attempts"
# 1 for a transaction that went through; 0 for a declined one, and for a label.
APPROVED = "approved"
_PURCHASES = Measure("purchases", "Approved transactions.", APPROVED)
_OF_PURCHASES = {
    "amount": f"amount * {APPROVED}",
    "amount_squared": f"amount * amount * {APPROVED}",
}
_DECLINES = Measure("declines", "Declined transactions.", f"transaction - {APPROVED}")
_DECLINED = {"customer": CUSTOMER, "merchant": MERCHANT, "device": DEVICE, "ip": IP}
_HALF_LIVES = ("1d", "7d")


def of_purchases(features: FeatureSet) -> FeatureSet:
    """The set in which spending and pairs count approved transactions only."""
    changed = {state.name for state in (CUSTOMER, MERCHANT, PAIR)}

    def change(state: State) -> State:
        if state.name not in changed:
            return state
        measures = (replace(m, value=_OF_PURCHASES.get(m.name, m.value)) for m in state.measures)
        return replace(state, measures=(*measures, _PURCHASES))

    return _changed(features, change, _of_purchases)


def _of_purchases(feature: Feature) -> Feature:
    """The feature, by purchases if it is about spending or a pair."""
    if feature.name == "customer_device_is_new":
        # The sum is 0 before the first purchase only: it decays without reaching 0.
        return replace(feature, value="is_new(pair.purchases)", half_life="30d")
    counts = ("customer.transactions", "merchant.transactions", "device.transactions")
    if feature.value in counts:
        return feature
    value = feature.value
    for owner in ("customer", "merchant", "pair"):
        value = value.replace(f"{owner}.transactions", f"{owner}.purchases")
    return replace(feature, value=value)


def with_declines(features: FeatureSet) -> FeatureSet:
    """The set with the number of declined attempts of each party."""
    counted = {state.name for state in _DECLINED.values()}

    def change(state: State) -> State:
        added = (_DECLINES,) if state.name in counted else ()
        return replace(state, measures=(*state.measures, *added))

    changed = _changed(features, change, lambda feature: feature)
    by_name = {state.name: state for state in changed.states}
    states = {party: by_name[state.name] for party, state in _DECLINED.items()}
    added = tuple(
        feature
        for party in states
        for feature in for_each(
            _HALF_LIVES,
            Feature(
                f"{party}_declines_{{h}}",
                f"Declined attempts of the {party}, half-life {{h}}.",
                f"the {party}'s declined attempts ({{h}})",
                f"{party}.declines",
            ),
        )
    )
    declines = Group("declines", "Declined attempts of each party.", states, added)
    return replace(changed, groups=(*changed.groups, declines))


def _changed(
    features: FeatureSet,
    state: Callable[[State], State],
    feature: Callable[[Feature], Feature],
) -> FeatureSet:
    """The set with its states and features changed, wherever they are named."""
    states: dict[str, State] = {}
    for of in features.states:
        measures = tuple(
            m if m.first_of is None else replace(m, first_of=states[m.first_of.name])
            for m in of.measures
        )
        states[of.name] = state(replace(of, measures=measures))
    groups = tuple(
        replace(
            group,
            states={owner: states[of.name] for owner, of in group.states.items()},
            features=tuple(feature(of) for of in group.features),
        )
        for group in features.groups
        if isinstance(group, Group)
    )
    return replace(features, states=tuple(states.values()), groups=groups)


_PRODUCT = replace(FEATURE_SET, event_columns=(*EVENT_COLUMNS, APPROVED), embedding_groups=())
VARIANTS: Mapping[str, FeatureSet] = {
    ATTEMPTS: _PRODUCT,
    "purchases": of_purchases(_PRODUCT),
    "declines": with_declines(_PRODUCT),
    "both": with_declines(of_purchases(_PRODUCT)),
}
