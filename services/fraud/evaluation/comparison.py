"""Compare the candidates: recall by fraud scenario, cost, and latency.

For several seeds every candidate is trained on the same days, its threshold is chosen on the same
later days, and it is evaluated on the days after those. Recall is compared with every candidate
declining the same share of transactions; at their own thresholds, candidates that decline more
would have the higher recall.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc
from sklearn.metrics import average_precision_score

from features.spec import DAY
from services.fraud.candidates import CANDIDATES
from services.fraud.features import embedding_log, embeddings, encoder
from services.fraud.features.backfill import WARM_UP_DAYS
from services.fraud.features.graph import TransactionLog
from services.fraud.features.request import cart_sets
from services.fraud.features.states import FEATURES, TABULAR
from services.fraud.ingestion.columns import event_times
from services.fraud.ingestion.outcomes import settled_until
from services.fraud.ingestion.tables import TRUTH_TABLE
from services.fraud.ingestion.watermark import FeedClock
from services.fraud.model import read_model
from services.fraud.problem import CostModel
from services.fraud.retraining.dataset import examples
from services.fraud.retraining.labelled import labelled_transactions
from services.fraud.retraining.point_in_time import point_in_time
from services.fraud.retraining.training import choose_threshold, make_card, new_candidate
from services.fraud.simulator.scenarios import SCENARIOS
from services.platform.evaluation.comparison import (
    CandidateResult,
    ComparedCandidate,
    ComparisonLabels,
    ComparisonSpec,
    Inputs,
    ServeFiles,
    compare_candidates,
)
from services.platform.memory import release_memory
from services.platform.models.candidates import Examples
from services.platform.models.onnx import write_card
from services.platform.progress import ProgressBar
from services.platform.retraining.spec import check_mix
from services.platform.runtime.tokens import client_headers
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.types import Booleans, Floats, Floats32, Integers

VALIDATION_DAYS, TEST_DAYS = 5, 10
DECLINE_SHARE = 0.01
ONNX_CALLS = 3_000
REQUESTS, REQUESTS_PER_SECOND = 1_000, 100.0

COMPARISON_LABELS = ComparisonLabels(
    stopped_share=DECLINE_SHARE,
    subject="transactions",
    cost="cost a day",
    extra=("cold_start_recall", "cold starts"),
    request=("score_p95_ms", "/score p95, ms"),
)


@dataclass
class FraudCandidateResult(CandidateResult):
    """One candidate: cost a day, recall by scenario.

    For graph candidates `train_s` includes training the encoder and computing the embeddings.

    Attributes:
        cold_start_recall: Recall of frauds with a party that has no embedding yet.
        score_p95_ms: p95 of `POST /score`, ms.
    """

    cold_start_recall: float = 0.0
    score_p95_ms: float = 0.0


@dataclass(frozen=True)
class LabelledDataset:
    """N labelled transactions, in three parts by days; slices, because copies take much memory.

    Attributes:
        rows: Transactions with columns `fraud` and `scenario`.
        vectors: (N, len(FEATURES)); each seed writes the embeddings of its encoder into them.
        fit: The rows to fit on.
        valid: The rows to choose the threshold on.
        test: The rows to evaluate on.
        log: All transactions, for the graph.
        log_index: (N,) index of each row in `log`.
    """

    rows: pa.Table
    vectors: Floats32
    fit: slice
    valid: slice
    test: slice
    log: TransactionLog
    log_index: Integers


# Of a seed: (N,) whether a party had no embedding, and the seconds of encoder and embeddings.
_SeedData = tuple[Booleans, float]


def compare(
    settings: Settings, seeds: list[int], bar: ProgressBar, serve: ServeFiles
) -> list[CandidateResult]:
    """Train, evaluate and time every candidate.

    Args:
        settings: Where lake and offline store are.
        seeds: Seeds to train with.
        bar: Opens a progress bar with a title.
        serve: Starts a scorer for each candidate's file; their decisions are discarded.

    Raises:
        ValueError: the lake holds no simulated transactions.
    """
    dataset = read_dataset(settings, bar)
    spec = ComparisonSpec(
        result=FraudCandidateResult,
        labels=COMPARISON_LABELS,
        data=partial(_write_embeddings, dataset, bar=bar),
        train=partial(_train, dataset, bar=bar),
        read_model=read_model,
        inputs=partial(_inputs, dataset),
        app="services.fraud.serving.app:create_app",
        route="/score",
        posts=_posts(dataset, client_headers(settings)),
        rate=REQUESTS_PER_SECOND,
    )
    return compare_candidates(spec, CANDIDATES, seeds, bar, serve)


def read_dataset(settings: Settings, bar: ProgressBar) -> LabelledDataset:
    """The lake's simulated transactions whose outcome is known, with their features and split.

    Raises:
        OSError: S3 did not answer.
        ValueError: there are none, or no labels yet.
    """
    lake = Lake(settings)
    with bar("reading point-in-time features"):
        rows, fit, valid, test = _split(*_settled_rows(lake))
        # What was read is several times what is kept.
        release_memory()
        unlabelled = rows.drop_columns(["fraud", "scenario"])
        tabular = point_in_time(settings, unlabelled, graph=False)
        vectors = np.full((len(rows), len(FEATURES)), np.nan, dtype=np.float32)
        vectors[:, : len(TABULAR)] = tabular
        del tabular
        release_memory()
        log = embeddings.read_transaction_log(lake, event_times(rows).min() - DAY)
    log_index = np.searchsorted(log.seq, rows["seq"].to_numpy())
    return LabelledDataset(rows, vectors, fit, valid, test, log, log_index)


def _settled_rows(lake: Lake) -> tuple[pa.Table, Floats]:
    """N transactions with their outcome and scenario, and (N,) until when outcomes are known."""
    truth = lake.read(TRUTH_TABLE, ["scenario"])
    if truth is None or not len(truth):
        raise ValueError("the lake holds no simulated transactions: run `whiteboard up`")
    found = labelled_transactions(lake, _window, int(truth["seq"][-1].as_py()))
    if found is None:
        raise ValueError("the lake holds no labels yet: run `whiteboard up`")
    simulated = pc.is_in(found.settled.rows["seq"], truth["seq"]).to_numpy()
    settled = found.settled.select(simulated)
    rows = settled.rows
    check_mix(
        rows["fraud"].to_numpy(),
        "labelled transactions",
        "frauds",
        settled.fraud_share,
        settled.counted,
    )
    index = pc.index_in(rows["seq"], truth["seq"])
    return rows.append_column("scenario", truth["scenario"].take(index)), settled.until


def _split(rows: pa.Table, until: Floats) -> tuple[pa.Table, slice, slice, slice]:
    """Rows with those to fit on first, then those to validate and to test on; and which are which.

    Args:
        until: (N,) event time, seconds, at which the days to test on end.
    """
    time_of = event_times(rows)
    test = time_of >= until - TEST_DAYS * DAY
    valid = ~test & (time_of >= until - (TEST_DAYS + VALIDATION_DAYS) * DAY)
    parts = [rows.filter(pa.array(part)) for part in (~test & ~valid, valid, test)]
    first, second, end = np.cumsum([len(part) for part in parts]).tolist()
    return pa.concat_tables(parts), slice(0, first), slice(first, second), slice(second, end)


def _window(clock: FeedClock) -> tuple[float, float]:
    """Event times [begin, end), seconds, of the transactions that are compared."""
    return clock.begin + WARM_UP_DAYS * DAY, settled_until(clock)


def _write_embeddings(dataset: LabelledDataset, seed: int, bar: ProgressBar) -> _SeedData:
    begin = perf_counter()
    log, time_of = dataset.log, event_times(dataset.rows)
    fit = dataset.fit
    known = dataset.rows["seq"].to_numpy()[fit], dataset.rows["fraud"].to_numpy()[fit]
    tabular = dataset.vectors[fit, : len(TABULAR)]
    encoder_examples = encoder.EncoderExamples.of(log, *known, tabular)
    days = embedding_log.midnights(time_of.min(), time_of[fit].max())
    with bar(f"graph encoder, seed {seed}") as step:
        trained_encoder = encoder.train(
            log, encoder_examples, days, embeddings.encoder_hyperparameters(), seed, step
        )
    release_memory()
    columns = dataset.vectors[:, len(TABULAR) :]
    midnights = embedding_log.midnights(time_of.min() - DAY, time_of.max())
    with bar("computing the embeddings of each night") as step:
        snapshots = embeddings.embed_at(trained_encoder, log, midnights, step)
        embedding_log.write_embedding_columns(log, dataset.log_index, snapshots, columns)
    cold = embedding_log.cold_start(log, dataset.log_index, columns)
    release_memory()
    return cold, perf_counter() - begin


def _train(
    dataset: LabelledDataset, name: str, seed: int, data: _SeedData, bar: ProgressBar
) -> ComparedCandidate:
    release_memory()
    cold, encoder_s = data
    candidate = new_candidate(name)
    kind = type(candidate)
    with bar(f"{name}, seed {seed}") as step:
        begin = perf_counter()
        fit, valid = (
            examples(dataset.rows[part], dataset.vectors[part], kind)
            for part in (dataset.fit, dataset.valid)
        )
        candidate.fit(fit, valid, seed, step)
        train_s = perf_counter() - begin + (encoder_s if kind.groups else 0.0)
    del fit
    release_memory()
    threshold = choose_threshold(candidate, valid)
    del valid
    test = examples(dataset.rows[dataset.test], dataset.vectors[dataset.test], kind)
    score, is_cold = candidate.score(test), cold[dataset.test]
    until = float(event_times(dataset.rows[dataset.valid]).max())
    card = make_card(candidate, threshold, "comparison", until)
    return ComparedCandidate(
        {**_evaluate(dataset, test, score, is_cold, threshold), "train_s": train_s},
        write_card(candidate.export(), card),
    )


def _evaluate(
    dataset: LabelledDataset, data: Examples, score: Floats, is_cold: Booleans, threshold: float
) -> dict[str, float]:
    flagged = score >= _threshold_of_share(score, _weight(data))
    scenario = dataset.rows[dataset.test]["scenario"].to_numpy()
    recall = {
        f"recall_{name}": float(flagged[scenario == code].mean())
        for code, name in enumerate(SCENARIOS)
        if code
    }
    return {
        "ap": float(average_precision_score(data.positive, score, sample_weight=_weight(data))),
        "cost": _cost(score, threshold, data) / TEST_DAYS,
        **recall,
        "cold_start_recall": float(flagged[is_cold & data.positive].mean()),
    }


def _cost(score: Floats, threshold: float, data: Examples) -> float:
    """Cost of the outcomes that scores lead to, minor units."""
    costs, weight = CostModel(), _weight(data)
    outcome = costs.outcomes(score, threshold, data.amount)
    if weight is None:
        return costs.total(outcome, data.positive, data.amount)
    return float((costs.costs(outcome, data.positive, data.amount) * weight).sum())


def _weight(data: Examples) -> Floats | None:
    """What each example counts; None where each stands for itself."""
    return None if data.weight is None or (data.weight == 1.0).all() else data.weight


def _threshold_of_share(score: Floats, weight: Floats | None) -> float:
    """The score that `DECLINE_SHARE` of the transactions reach."""
    if weight is None:
        return float(np.quantile(score, 1 - DECLINE_SHARE))
    order = np.argsort(-score, kind="stable")
    above = np.cumsum(weight[order])
    return float(score[order[np.searchsorted(above, DECLINE_SHARE * above[-1])]])


def _inputs(dataset: LabelledDataset, _: _SeedData) -> Iterator[Inputs]:
    """Vector and cart of one transaction each."""
    first = dataset.test.start
    items = cart_sets(dataset.rows[dataset.test].slice(0, ONNX_CALLS))
    for i, row in enumerate(range(first, first + len(items))):
        filled = int((items[i, :, 0] >= 0).sum())
        yield dataset.vectors[row : row + 1], {"items": items[i : i + 1, : max(filled, 1)]}


def _posts(dataset: LabelledDataset, headers: Mapping[str, str]) -> list[dict[str, Any]]:
    wanted = ("transaction_id", "customer_id", "merchant_id", "device_id", "ip", "amount_minor")
    rows = dataset.rows[dataset.test].slice(0, REQUESTS).to_pylist()
    return [
        {"json": {**{k: row[k] for k in wanted}, "event_time": row["event_time"].isoformat(),
                  "cart": row["cart"]}, "headers": headers}
        for row in rows
    ]  # fmt: skip
