"""Mutated mappings, files of transactions and manifests give a value or an error with a name."""

import pytest

from services.cv_inspection.serving.batch import read_manifest
from services.fraud.ingestion.mapping import FileMapping
from services.platform.settings import Settings
from tests.e2e.mutations import mutations
from tests.unit.fraud.replay_files import Replayed

pytestmark = pytest.mark.e2e

MAPPING = b"""columns: {transaction_id: id, event_time: when, customer_id: who, merchant_id: shop,
  amount: eur, fraud: bad}
time: {unit: s, origin: 2024-01-01}
ids: escape
"""
TRANSACTIONS = b"id,when,who,shop,eur,bad\n" + b"".join(
    b"%d,2024-01-%02d,7,3,12.75,%d\n" % (n, n, n % 2) for n in range(1, 9)
)
MANIFEST = b'"inbox","a/b/c/1.jpg","3HL4kqtJ"\r\n"inbox","a/b/c/f%202+3%2B.jpg",""\r\n'


def read_mapping(path):
    return FileMapping.load(str(path))


def read_transactions(path):
    return Replayed(path, None)


def read_objects(path):
    return read_manifest(Settings(), str(path))


@pytest.mark.parametrize(
    ("read", "name", "sample", "count"),
    [
        (read_mapping, "m.yaml", MAPPING, 500),
        (read_transactions, "t.csv", TRANSACTIONS, 500),
        (read_objects, "m.csv", MANIFEST, 500),
    ],
    ids=["mapping", "transactions", "manifest"],
)
def test_a_mutated_file_is_read_or_named(tmp_path, read, name, sample, count):
    path = tmp_path / name
    errors = []
    for data in mutations(sample, count, seed=2):
        path.write_bytes(data)
        try:
            read(path)
        except ValueError as error:
            errors.append(str(error))
    assert [error for error in errors if name not in error] == []
    assert len(errors) > 0.02 * count
