"""Inspections as the drift monitor reads them."""

from services.cv_inspection.monitoring import drift
from services.platform.streaming.consumer import Message
from tests.integration.cv_inspection.inspections import made_inspection


def message(number, seq):
    return Message("", made_inspection(number).model_dump_json().encode(), seq, 0, "")


def test_an_inspection_counts_once_and_a_retried_batch_again():
    observe = drift.Observer()
    found = [observe(message(1, 1)), observe(message(2, 2)), observe(message(1, 3))]
    assert [one is None for one in found] == [False, False, True]
    assert observe(message(2, 2)) is not None
    assert observe(Message("", b"{}", 4, 0, "")) is None


def test_the_oldest_inspections_are_forgotten(monkeypatch):
    monkeypatch.setattr(drift, "_MAX_KNOWN", 2)
    observe = drift.Observer()
    for number in (1, 2, 3):
        observe(message(number, number))
    assert observe(message(3, 4)) is None
    assert observe(message(1, 5)) is not None
