"""What the contact sheet shows: a person who opens it sees both what is stopped and what passes."""

from services.cv_inspection.evaluation.run_report import telling
from services.cv_inspection.ingestion.events import InspectionEvent, Outcome


def seen(decision: Outcome, defect: float) -> InspectionEvent:
    return InspectionEvent.model_construct(decision=decision, defect=defect)


def test_a_row_is_kept_for_what_passes_however_much_is_stopped() -> None:
    stopped = [seen("reject", 0.5 + n / 100) for n in range(40)]
    shown = telling([seen("pass", 0.01 * n) for n in range(18)] + stopped)
    assert [event.decision for event in shown] == ["reject"] * 18 + ["pass"] * 6
    assert [event.defect for event in shown[:2]] == [0.89, 0.88]
    # Not only those that were nearly stopped.
    assert [event.defect for event in shown[18:]] == [0.17, 0.14, 0.11, 0.08, 0.05, 0.02]


def test_where_little_passes_the_stopped_have_the_room() -> None:
    shown = telling([seen("pass", 0.0)] + [seen("review", 0.3)] * 40)
    assert [event.decision for event in shown] == ["review"] * 23 + ["pass"]


def test_few_pictures_are_all_shown() -> None:
    assert len(telling([seen("pass", 0.0)] * 3 + [seen("reject", 0.9)] * 2)) == 5
    assert telling([]) == []
