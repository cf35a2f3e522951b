"""`whiteboard why`: how a report is printed."""

from services.cli import output, why

REPORT = {
    "decision": "decline", "score": 0.5, "threshold": 0.1, "model": "xgboost:1",
    "transaction": {"amount_minor": 1250, "customer_id": "c1", "merchant_id": "m1"},
    "rules": "3:0a1b2c3d", "fired": ["velocity", "stolen-device"], "reasons": [], "note": "",
    "vector": {"amount": 12.5, "score": float("nan")}, "versions": {"ip_state": 3},
    "stage_seconds": {"fetch": 0.0004},
}  # fmt: skip


def test_it_names_the_rules_that_fired_and_their_version():
    with output.out.capture() as printed:
        why._show(REPORT)
    lines = printed.get()
    assert "rules that fired: velocity, stolen-device of version 3:0a1b2c3d" in lines
    assert "stages: fetch 0.40 ms" in lines
    assert "1 features known" in lines
