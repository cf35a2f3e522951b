"""Small files of transactions, their mapping, and what a replay makes of them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from services.fraud.ingestion.events import LabelEvent, Transaction
from services.fraud.ingestion.mapping import FileMapping
from services.fraud.ingestion.replay import LabelCounts, replayed_events
from services.fraud.ingestion.transaction_file import TransactionFile

COLUMNS = {
    "transaction_id": "id",
    "event_time": "when",
    "customer_id": "who",
    "merchant_id": "shop",
    "amount": "eur",
    "fraud": "bad",
}
NOW = datetime(2024, 6, 1, tzinfo=UTC)


def mapping(**options: Any) -> FileMapping:
    """The mapping of these files."""
    return FileMapping.model_validate({"columns": COLUMNS, **options})


def write_csv(path: Path, rows: Sequence[str], header: str = "id,when,who,shop,eur,bad") -> Path:
    """A CSV file of these lines."""
    path.write_text("\n".join([header, *rows, ""]))
    return path


class Replayed:
    """A file's replay, with nothing sent."""

    def __init__(self, path: Path, read_by: FileMapping | None = None, **options: Any) -> None:
        self.counts = LabelCounts()
        with TransactionFile(path, read_by or mapping(), **{"now": NOW, **options}) as source:
            self.events = list(replayed_events(source, counts=self.counts))
        self.source = source
        self.rejected = source.rejections.examples
        found = [one.event for one in self.events]
        self.transactions = [event for event in found if isinstance(event, Transaction)]
        self.labels = {e.transaction_id: e.fraud for e in found if isinstance(e, LabelEvent)}

    @property
    def ids(self) -> list[str]:
        """Ids of the transactions, in order."""
        return [event.transaction_id for event in self.transactions]
