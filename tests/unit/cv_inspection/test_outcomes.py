"""The join of inspections with operators' labels."""

import pyarrow as pa

from services.cv_inspection.ingestion.outcomes import with_labels


def test_repeated_inspections_count_once_and_the_newest_label_counts():
    inspections = pa.table({"inspection_id": ["a", "b", "a"], "seq": [1, 2, 3]})
    labels = pa.table({"inspection_id": ["a", "a", "c"], "label": ["pit", "good", "pit"],
                       "seq": [1, 2, 3]})  # fmt: skip
    found = with_labels(inspections, labels)
    assert found.to_dict("records") == [{"inspection_id": "a", "seq": 1, "label": "good"}]
