"""The handbook's protocol: test rows and card precision."""

import numpy as np
import pytest

from services.fraud.evaluation.handbook import (
    TEST_WEEK,
    TRAIN_WEEK,
    _day,
    _read,
    card_precision,
    evaluation_rows,
)
from tests.conftest import DATA

FILE = DATA / "handbook" / "transactions.parquet"


def test_cards_known_to_be_compromised_are_left_out():
    train, first = _day(TRAIN_WEEK[1]), _day(TEST_WEEK[0])
    # Card 1 had a fraud in the training week, card 2 on the first test day, card 3 never.
    day = np.array([train, first, first, first, first + 1, first + 1])
    card = np.array([1, 1, 2, 3, 2, 3])
    fraud = np.array([True, False, True, False, False, False])
    assert evaluation_rows(day, card, fraud).tolist() == [False, False, True, True, True, True]
    # A fraud between training and test is known to the test day 8 days later, not 7.
    day = np.array([train + 1, first, first + 1])
    card = np.array([4, 4, 4])
    fraud = np.array([True, False, False])
    assert evaluation_rows(day, card, fraud).tolist() == [False, True, False]


def test_card_precision_by_hand():
    day = np.array([1, 1, 1, 2, 2, 2])
    card = np.array([1, 2, 3, 1, 2, 3])
    fraud = np.array([True, False, False, True, True, False])
    score = np.array([0.9, 0.8, 0.1, 0.9, 0.8, 0.7])
    # Day 1: cards 1, 2 -> one of two. Day 2: card 1 was detected before; cards 2, 3 -> one of two.
    assert card_precision(day, card, fraud, score, 2) == 0.5


@pytest.mark.skipif(not FILE.exists(), reason="the handbook's file is missing")
def test_the_published_number_of_rows_of_test_week():
    frame = _read(FILE)
    found = evaluation_rows(
        frame["day"].to_numpy(), frame["customer"].to_numpy(), frame["fraud"].to_numpy()
    )
    assert found.sum() == 58_264


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "other.parquet"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not the handbook's file"):
        _read(path)
