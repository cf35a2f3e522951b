"""The skew audit of events and decisions that a test holds in memory."""

from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa

from services.fraud.features.states import EMBEDDINGS
from services.fraud.ingestion.columns import Events
from services.fraud.monitoring.skew import Audit, judge
from services.fraud.monitoring.skew_rows import (
    embedding_rows,
    empty_tables,
    logged_seqs,
    rows_within,
)


def compare(
    events: Events, decisions: pa.Table, embedding_logs: Mapping[str, pa.Table | None] | None = None
) -> Audit:
    """Compare the logged vectors with those computed from `events`, all in memory.

    Args:
        events: All events up to the decisions or further, in stream order.
        decisions: D rows of `DECISION_SCHEMA`.
        embedding_logs: By view name, the embedding log.
    """
    logged = logged_seqs(decisions)
    rows = rows_within(empty_tables(), events, decisions, logged)
    for view in EMBEDDINGS:
        log = (embedding_logs or {}).get(view.name)
        rows[view.name] = embedding_rows(decisions, view, logged[view.name], log)
    gaps = int(events.seq[-1]) - len(events)
    return replace(judge(decisions, logged, rows), events=len(events), gaps=gaps)
