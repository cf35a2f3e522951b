"""Labels of the walkthrough's page: classes of the model that inspected the part."""

import pytest

from services.cv_inspection.evaluation.walkthrough import decision_view, label_event, label_of
from services.cv_inspection.ingestion.events import parse_inspection
from tests.integration.cv_inspection.inspections import made_inspection


def inspections():
    own = {"good": 0.9, "burr": 0.06, "missing_thread": 0.04}
    made = [made_inspection(1), made_inspection(2).model_copy(update={"probabilities": own})]
    return [one.model_dump_json().encode() for one in made]


def test_a_label_is_a_class_of_the_model_in_any_spelling():
    of = f"{2:032x}"
    assert label_event(of, "Missing thread", inspections()).label == "missing_thread"
    assert label_event(of, "OK", inspections()).label == "good"
    with pytest.raises(ValueError, match="'pit' is not one of good, burr, missing_thread"):
        label_event(of, "pit", inspections())
    with pytest.raises(LookupError, match="not among the newest"):
        label_event("f" * 32, "good", inspections())


def test_the_page_offers_the_classes_of_the_model_that_inspected_the_part():
    [_, own] = [decision_view(parse_inspection(data)) for data in inspections()]
    assert own.labels == ("good", "burr", "missing_thread")


def test_a_followed_image_says_which_label_it_gets():
    event = parse_inspection(inspections()[0])
    passed = {"decision": "pass", "audit": False, "propensity": 0.1}
    assert label_of(event.model_copy(update=passed)).startswith("none")
    assert "counts 10 times" in label_of(event.model_copy(update={**passed, "audit": True}))
    assert "stopped" in label_of(event.model_copy(update={**passed, "decision": "reject"}))


def test_the_page_shows_the_maps_that_are_stored():
    event = parse_inspection(inspections()[0])
    stored = {"key": "a/b/c/1.jpg", "mask_key": "a/b/c/1.mask.png"}
    old = decision_view(event.model_copy(update=stored))
    assert [(one.key, one.threshold) for one in old.maps] == [("a/b/c/1.mask.png", 0.5)]
    assert "before maps" in old.note
    mapped = {**stored, "map_key": "a/b/c/1.map.png"}
    without = decision_view(event.model_copy(update=mapped))
    assert [one.title for one in without.maps] == ["Defect score"]
    assert "no map of novelty" in without.note
    both = decision_view(event.model_copy(update={**mapped, "max_novelty": 4.5}))
    assert [(one.channel, one.threshold) for one in both.maps] == [(0, 0.5), (1, 4.5)]
    assert decision_view(event).maps == []
