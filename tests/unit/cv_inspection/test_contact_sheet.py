"""The contact sheet shows both stopped and passed parts."""

from services.cv_inspection.evaluation.run_report import select_for_sheet
from services.cv_inspection.ingestion.events import Decision, InspectionEvent


def event(decision: Decision, defect: float) -> InspectionEvent:
    return InspectionEvent.model_construct(decision=decision, defect=defect)


def test_one_row_is_kept_for_passed_parts() -> None:
    stopped = [event("reject", 0.5 + n / 100) for n in range(40)]
    chosen = select_for_sheet([event("pass", 0.01 * n) for n in range(18)] + stopped)
    assert [e.decision for e in chosen] == ["reject"] * 18 + ["pass"] * 6
    assert [e.defect for e in chosen[:2]] == [0.89, 0.88]
    # Spread over all passed parts.
    assert [e.defect for e in chosen[18:]] == [0.17, 0.14, 0.11, 0.08, 0.05, 0.02]


def test_stopped_parts_fill_the_rest() -> None:
    chosen = select_for_sheet([event("pass", 0.0)] + [event("review", 0.3)] * 40)
    assert [e.decision for e in chosen] == ["review"] * 23 + ["pass"]


def test_few_images_are_all_shown() -> None:
    assert len(select_for_sheet([event("pass", 0.0)] * 3 + [event("reject", 0.9)] * 2)) == 5
    assert select_for_sheet([]) == []
