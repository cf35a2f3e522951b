"""Rows of the history, for attacks on it."""

from datetime import UTC, datetime

from services.platform.models.promotion_log import PromotionEvent, PromotionRecord


def record(version: int = 1) -> PromotionRecord:
    """A promotion."""
    return PromotionRecord(
        at=datetime.now(UTC), event=PromotionEvent.promoted, design="fraud", version=version,
        model=f"xgboost:{version}", before=None, reasons=[], figures={},
    )  # fmt: skip
