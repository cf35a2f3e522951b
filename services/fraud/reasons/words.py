"""A feature's value in words, and the sentence of a reason. The phrases are the declarations'."""

import math

from features.spec import DAY, HOUR
from services.fraud.features.states import FEATURE_SET
from services.fraud.problem import CURRENCY

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_PERIODS = {"1h": "an hour", "1d": "a day", "7d": "a week", "30d": "a month"}
_MINUTE = 60.0


def worded(feature: str, value: float) -> str:
    """A value of a feature, for people.

    >>> worded("amount", 912.5), worded("device_risk_7d", 0.25), worded("hour_of_day", 3.5)
    ('912.50 EUR', '25.0 %', '03:30')
    >>> worded("customer_seconds_since_last", 7200.0), worded("customer_device_is_new", 1.0)
    ('2.0 hours', 'yes')
    """
    if math.isnan(value):
        return "not known"
    if feature.endswith("_is_new"):
        return "yes" if value > 0.5 else "no"
    if "_risk_" in feature:
        return f"{value:.1%}".replace("%", " %")
    if "_seconds_" in feature:
        return _duration(value)
    if feature == "hour_of_day":
        return f"{int(value):02d}:{int(value % 1 * 60):02d}"
    if feature == "day_of_week":
        return _DAYS[int(value) % 7]
    if "ratio" in feature:
        return f"{value:.1f} times"
    if "zscore" in feature:
        return f"{value:+.1f} standard deviations"
    if "amount" in feature or "price" in feature:
        return f"{value:,.2f} {CURRENCY}"
    return f"{value:,.1f}"


def _duration(seconds: float) -> str:
    for unit, size in (("days", DAY), ("hours", HOUR), ("minutes", _MINUTE)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def phrase(feature: str) -> str:
    """What a feature is, in a few words, from its declaration.

    >>> phrase("device_risk_7d"), phrase("amount")
    ("the device's share of chargebacks (over a week)", 'the amount')
    """
    text = FEATURE_SET.declared[feature].phrase
    for half_life, words in _PERIODS.items():
        text = text.replace(f"({half_life})", f"(over {words})")
    return text


def sentence(feature: str, value: float, usual: float, own: bool) -> str:
    """A feature beside what is usual.

    >>> sentence("amount", 912.0, 40.0, True)
    'the amount: 912.00 EUR, usually 40.00 EUR for this customer'
    """
    whose = "for this customer" if own else "in genuine payments"
    shown = worded(feature, value)
    return f"{phrase(feature)}: {shown}, usually {worded(feature, usual)} {whose}"
