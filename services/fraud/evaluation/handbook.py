"""The Fraud Detection Handbook's protocol, to compare the design's features with published figures.

Source: Le Borgne et al., "Reproducible Machine Learning for Credit Card Fraud Detection -
Practical Handbook", ULB 2022, chapters 3 and 5. The data are simulated, not real.

Test week 2018-08-08 to 08-14, without cards known to be compromised; labels are known after 7
days. The handbook trains on 07-25 to 07-31. A second result trains on all days from mid-May to
07-31, which the same label delay allows.
"""

from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from features.aggregation import backfill
from features.spec import DAY
from services.fraud.candidates import CANDIDATES
from services.fraud.features.kernel import feature_vectors
from services.fraud.features.states import STATES, TABULAR
from services.fraud.ingestion.columns import Events, seconds
from services.fraud.ingestion.events import EPOCH
from services.fraud.problem import CONF
from services.platform.hooks import Evaluation, EvaluationRequest, Table
from services.platform.models.candidates import Examples
from services.platform.progress import ProgressBar
from services.platform.retraining.training import hyperparameters
from services.platform.types import Booleans, Floats, Integers

DELAY_DAYS = 7
TRAIN_WEEK = (date(2018, 7, 25), date(2018, 7, 31))
TRAIN_FROM = date(2018, 5, 15)
TEST_WEEK = (date(2018, 8, 8), date(2018, 8, 14))
TOP_CARDS = 100
# Published figures, for comparison: AUC ROC, average precision, card precision@100.
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
class HandbookResult:
    """Figures on the test week.

    Attributes:
        rows: Number of test transactions.
        trained_on: Number of training transactions.
        auc: Area under the ROC curve.
        ap: Average precision.
        cp100: Card precision at 100 cards a day, see `card_precision`.
    """

    rows: int
    trained_on: int
    auc: float
    ap: float
    cp100: float


def evaluate(
    file: Path, candidate: str, seed: int, bar: ProgressBar, train_from: date
) -> HandbookResult:
    """Run the protocol with a candidate.

    Args:
        file: The handbook's transactions, one Parquet file.
        candidate: Name of the candidate.
        seed: Seed of the training.
        bar: Opens a progress bar with a title.
        train_from: First day of training; the last is 2018-07-31.

    Raises:
        ValueError: the file is not the handbook's.
    """
    with bar("computing features") as step:
        step(0, 1)
        frame = _read(file)
        features = _features(frame)
        step(1, 1)
    return _train_and_evaluate(frame, features, candidate, seed, bar, train_from)


def evaluation(request: EvaluationRequest, bar: ProgressBar) -> Evaluation:
    """Run the protocol and show it beside the published figures. Raises as `evaluate` does."""
    start = TRAIN_WEEK[0] if request.published_week_only else TRAIN_FROM
    found = evaluate(request.file, request.candidate, request.seed, bar, start)
    rows = [
        [f"[dim]{name}, published[/]", *(f"[dim]{figure:.3f}[/]" for figure in figures)]
        for name, figures in PUBLISHED.items()
    ]
    ours = (found.auc, found.ap, found.cp100)
    label = f"{request.candidate} on accumulators, from {start}"
    rows.append([label, *(f"{figure:.3f}" for figure in ours)])
    title = f"Handbook protocol (simulated data), {found.rows:,} test transactions"
    headers = ("model", "AUC ROC", "average precision", "card precision@100")
    return Evaluation(asdict(found), Table(title, headers, rows))


def _train_and_evaluate(
    frame: pd.DataFrame,
    features: Floats,
    candidate: str,
    seed: int,
    bar: ProgressBar,
    train_from: date,
) -> HandbookResult:
    day = frame["day"].to_numpy()
    fraud = frame["fraud"].to_numpy()
    customer = frame["customer"].to_numpy()
    is_train = _between(day, (train_from, TRAIN_WEEK[1]))
    test = evaluation_rows(day, customer, fraud)
    examples = Examples(
        features[is_train], fraud[is_train], frame["amount"].to_numpy()[is_train] * 100
    )
    kind = CANDIDATES.get(candidate)
    if kind.sets or kind.groups:
        required = ", ".join(kind.sets + kind.groups)
        raise ValueError(f"{candidate} needs {required}, which this file does not have")
    model = kind(hyperparameters(CONF, candidate), TABULAR)
    with bar(f"training {candidate}") as step:
        model.fit(examples, examples, seed, step)
    score = model.score(Examples(features[test], fraud[test], np.zeros(int(test.sum()))))
    return HandbookResult(
        rows=int(test.sum()),
        trained_on=int(is_train.sum()),
        auc=float(roc_auc_score(fraud[test], score)),
        ap=float(average_precision_score(fraud[test], score)),
        cp100=card_precision(day[test], customer[test], fraud[test], score, TOP_CARDS),
    )


def evaluation_rows(day: Integers, customer: np.ndarray, fraud: Booleans) -> Booleans:
    """(N,) whether a transaction is in the test week, on a card not known to be compromised.

    A card is known to be compromised on a test day if it had a fraud in the training week, or after
    it but more than `DELAY_DAYS` days before that test day.

    Args:
        day: (N,) days since the epoch.
        customer: (N,) card numbers.
        fraud: (N,) outcomes.
    """
    first_train = _day(TRAIN_WEEK[0])
    selected = np.zeros(len(day), dtype=bool)
    for test_day in range(_day(TEST_WEEK[0]), _day(TEST_WEEK[1]) + 1):
        known_days = (day >= first_train) & (
            day <= max(test_day - DELAY_DAYS - 1, _day(TRAIN_WEEK[1]))
        )
        known = np.unique(customer[known_days & fraud])
        selected |= (day == test_day) & ~np.isin(customer, known)
    return selected


def card_precision(
    day: Integers, customer: np.ndarray, fraud: Booleans, score: Floats, k: int
) -> float:
    """Mean over days of the share of compromised cards among the k cards with the highest scores.

    A card detected on one day is removed from the following days (handbook, chapter 4.4).

    Args:
        day: (N,) days.
        customer: (N,) card numbers.
        fraud: (N,) outcomes.
        score: (N,) scores.
        k: Cards a day.

    Examples:
        >>> import numpy as np
        >>> day, card = np.array([1, 1, 1]), np.array([1, 2, 3])
        >>> fraud, score = np.array([True, False, False]), np.array([0.9, 0.8, 0.1])
        >>> card_precision(day, card, fraud, score, k=2)
        0.5
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
    """The file's transactions up to the end of the test week, in order of time."""
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
    """(N, len(TABULAR)) features, each as of just before its transaction in stream order."""
    events, order = _events(frame)
    n = len(frame)
    source = order % n
    snapshot_index = np.where(events.is_transaction, source, -1)
    states = backfill(STATES, events, snapshot_index)
    missing = np.full(n, np.nan)
    time = seconds(frame["us"].to_numpy())
    request = np.column_stack([time, frame["amount"].to_numpy(), missing, missing])
    return feature_vectors({name: done.snapshots for name, done in states.items()}, request)[
        :, : len(TABULAR)
    ]


def _events(frame: pd.DataFrame) -> tuple[Events, Integers]:
    """2N events in order of time: the transactions, and each label a week later.

    Also (2N,) the order: event i is transaction `order[i]`, or the label of `order[i] - N`.
    """
    n = len(frame)
    us = frame["us"].to_numpy()
    times = np.concatenate([us, us + int(DELAY_DAYS * DAY * 1e6)])
    order = np.argsort(times, kind="stable")
    source, is_transaction = order % n, order < n
    missing_keys = np.full(2 * n, None, dtype=object)
    return Events(
        seq=np.arange(1, 2 * n + 1),
        time=seconds(times[order]),
        is_transaction=is_transaction,
        amount=np.where(is_transaction, frame["amount"].to_numpy()[source], 0.0),
        chargeback=frame["fraud"].to_numpy()[source] & ~is_transaction,
        keys={
            "customer_id": frame["customer"].to_numpy()[source].astype(object),
            "merchant_id": frame["merchant"].to_numpy()[source].astype(object),
            "device_id": missing_keys,
            "ip": missing_keys,
        },
    ), order


def _day(when: date) -> int:
    return when.toordinal() - EPOCH.date().toordinal()


def _between(day: Integers, days: tuple[date, date]) -> Booleans:
    return (day >= _day(days[0])) & (day <= _day(days[1]))
