"""The Fraud Detection Handbook's protocol, so that our features meet published figures.

Source: Le Borgne et al., "Reproducible Machine Learning for Credit Card Fraud Detection -
Practical Handbook", ULB 2022, chapters 3 and 5. The data are simulated, not real.

Test week 2018-08-08 to 08-14, without cards known to be compromised; labels are known after 7
days. The handbook trains on 07-25 to 07-31; a second figure trains on all days from mid-May to
then, which the same delay allows.
"""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from features.aggregation import backfill
from features.spec import DAY, Booleans, Floats, Integers
from services.fraud.candidates import CANDIDATES
from services.fraud.features.states import STATES, TABULAR, contributions, vectors
from services.fraud.ingestion.events import EPOCH, Events, seconds
from services.fraud.retraining.training import hyperparameters
from services.platform.models.candidates import Examples
from services.platform.progress import Bar

DELAY_DAYS = 7
TRAIN_WEEK = (date(2018, 7, 25), date(2018, 7, 31))
TRAIN_FROM = date(2018, 5, 15)
TEST_WEEK = (date(2018, 8, 8), date(2018, 8, 14))
TOP_CARDS = 100
# Published for scale: AUC ROC, average precision, card precision@100.
PUBLISHED = {
    "logistic regression (ch. 3)": (0.871, 0.606, 0.291),
    "random forest (ch. 3)": (0.867, 0.658, 0.287),
    "XGBoost, default (ch. 3)": (0.862, 0.639, 0.273),
    "XGBoost, tuned (ch. 7)": (0.869, 0.687, 0.303),
    "feed-forward net, tuned (ch. 7)": (0.876, 0.675, 0.303),
    "LSTM, tuned (ch. 7)": (0.876, 0.665, 0.297),
}
_COLUMNS = ("TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD")


@dataclass(frozen=True)
class Result:
    """Figures on the test week. rows: test transactions. trained_on: training transactions."""

    rows: int
    trained_on: int
    auc: float
    ap: float
    cp100: float


def evaluate(file: Path, candidate: str, seed: int, bar: Bar, train_from: date) -> Result:
    """Run the protocol with a candidate.

    Args:
        bar: Opens a progress bar with a title.
        train_from: First day of training; it ends on 2018-07-31.

    Raises:
        ValueError: the file is not the handbook's.
    """
    with bar("reading and folding features") as step:
        step(0, 1)
        frame = _read(file)
        x = _features(frame)
        step(1, 1)
    return _fit_and_judge(frame, x, candidate, seed, bar, train_from)


def _fit_and_judge(
    frame: pd.DataFrame,
    x: Floats,
    candidate: str,
    seed: int,
    bar: Bar,
    train_from: date,
) -> Result:
    day = frame["day"].to_numpy()
    fraud = frame["fraud"].to_numpy()
    customer = frame["customer"].to_numpy()
    trained = _between(day, (train_from, TRAIN_WEEK[1]))
    test = rows_of_test_week(day, customer, fraud)
    examples = Examples(x[trained], fraud[trained], frame["amount"].to_numpy()[trained] * 100)
    chosen = CANDIDATES.get(candidate)
    if chosen.sets or chosen.groups:
        wanted = ", ".join(chosen.sets + chosen.groups)
        raise ValueError(f"{candidate} needs {wanted}, which this file does not have")
    model = chosen(hyperparameters(candidate), TABULAR)
    with bar(f"training {candidate}") as step:
        model.fit(examples, examples, seed, step)
    score = model.score(Examples(x[test], fraud[test], np.zeros(int(test.sum()))))
    return Result(
        rows=int(test.sum()),
        trained_on=int(trained.sum()),
        auc=float(roc_auc_score(fraud[test], score)),
        ap=float(average_precision_score(fraud[test], score)),
        cp100=card_precision(day[test], customer[test], fraud[test], score, TOP_CARDS),
    )


def rows_of_test_week(day: Integers, customer: np.ndarray, fraud: Booleans) -> Booleans:
    """(N,) the test week's transactions of cards not yet known to be compromised.

    A card is known on a test day if it had a fraud in the training week, or since, `DELAY_DAYS`
    and a day before that test day or earlier.
    """
    first_train = _day(TRAIN_WEEK[0])
    chosen = np.zeros(len(day), dtype=bool)
    for test_day in range(_day(TEST_WEEK[0]), _day(TEST_WEEK[1]) + 1):
        known_days = (day >= first_train) & (
            day <= max(test_day - DELAY_DAYS - 1, _day(TRAIN_WEEK[1]))
        )
        known = np.unique(customer[known_days & fraud])
        chosen |= (day == test_day) & ~np.isin(customer, known)
    return chosen


def card_precision(
    day: Integers, customer: np.ndarray, fraud: Booleans, score: Floats, k: int
) -> float:
    """Mean over days of the share of frauds among the k cards with the highest scores.

    A card found on one day is not looked at again on the next (handbook, chapter 4.4).
    """
    frame = pd.DataFrame({"day": day, "customer": customer, "fraud": fraud, "score": score})
    found: set[object] = set()
    shares = []
    for _, today in frame.groupby("day"):
        cards = today.groupby("customer").max()
        top = cards[~cards.index.isin(list(found))].nlargest(k, "score")
        hits = top.index[top["fraud"]]
        shares.append(len(hits) / k)
        found.update(hits)
    return float(np.mean(shares))


def _read(file: Path) -> pd.DataFrame:
    """The file's transactions up to the test week, in order of time."""
    with duckdb.connect() as db:
        try:
            frame = db.execute(
                f"SELECT {', '.join(_COLUMNS)} FROM read_parquet(?) WHERE TX_DATETIME < ? "
                "ORDER BY TX_DATETIME, TRANSACTION_ID",
                [str(file), date.fromordinal(TEST_WEEK[1].toordinal() + 1)],
            ).df()
        except duckdb.Error as error:
            why = str(error).splitlines()[0]
            raise ValueError(f"{file.name} is not the handbook's file: {why}") from None
    frame.columns = pd.Index(["time", "customer", "merchant", "amount", "fraud"])
    frame["fraud"] = frame["fraud"] == 1
    frame["us"] = (frame["time"] - pd.Timestamp(EPOCH.date())) // pd.Timedelta(microseconds=1)
    frame["day"] = (seconds(frame["us"].to_numpy()) // DAY).astype(np.int64)
    return frame


def _features(frame: pd.DataFrame) -> Floats:
    """(N, F) feature vectors, each as of strictly before its transaction in stream order."""
    events, order = _events(frame)
    n = len(frame)
    source = order % n
    slots = np.where(events.sighting, source, -1)
    folded = backfill(STATES, events, contributions, slots)
    nothing = np.full(n, np.nan)
    time = seconds(frame["us"].to_numpy())
    own = np.column_stack([time, frame["amount"].to_numpy(), nothing, nothing])
    return vectors({name: done.before for name, done in folded.items()}, own)[:, : len(TABULAR)]


def _events(frame: pd.DataFrame) -> tuple[Events, Integers]:
    """Transactions and, a week after each, its label; and where each event comes from."""
    n = len(frame)
    us = frame["us"].to_numpy()
    both = np.concatenate([us, us + int(DELAY_DAYS * DAY * 1e6)])
    order = np.argsort(both, kind="stable")
    source, sighting = order % n, order < n
    none = np.full(2 * n, None, dtype=object)
    return Events(
        seq=np.arange(1, 2 * n + 1),
        time=seconds(both[order]),
        sighting=sighting,
        amount=np.where(sighting, frame["amount"].to_numpy()[source], 0.0),
        chargeback=frame["fraud"].to_numpy()[source] & ~sighting,
        keys={
            "customer_id": frame["customer"].to_numpy()[source].astype(object),
            "merchant_id": frame["merchant"].to_numpy()[source].astype(object),
            "device_id": none,
            "ip": none,
        },
    ), order


def _day(when: date) -> int:
    return when.toordinal() - EPOCH.date().toordinal()


def _between(day: Integers, days: tuple[date, date]) -> Booleans:
    return (day >= _day(days[0])) & (day <= _day(days[1]))
