"""What the page says of a payment after its decision."""

from services.fraud.evaluation.aftermath import first_reason, label, reviewed


def verdict(said, outcome):
    return {"verdict": said, "outcome": outcome, "by": "ann", "waited_s": 1.25}


def test_the_label_follows_from_decision_and_verdict():
    assert "14 days" in label({"decision": "approve", "control": False}, None)
    control = {"decision": "approve", "control": True, "propensity": 0.03}
    assert "counts 33 times" in label(control, None)
    review = {"decision": "review"}
    assert label(review, None).endswith("if it is approved")
    assert label(review, verdict("fraud", "decline")).startswith("fraud, at once")
    assert label(review, verdict("genuine", "approve")).startswith("a chargeback")
    assert label(review, verdict(None, "decline")).startswith("none")


def test_reasons_and_verdict_are_said_in_words():
    report = {"fired": [], "reasons": [{"text": "a new device"}], "note": ""}
    assert first_reason(report) == "a new device"
    assert first_reason({"reasons": [], "note": "by the fallback"}) == "by the fallback"
    assert reviewed(verdict(None, "decline")) == (
        "no verdict, so decline, by ann after 1.2 s in the queue"
    )
