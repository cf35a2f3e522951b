"""Compare the candidates: recall by fraud scenario, cost, and latency.

For several seeds every candidate is trained on the same days, its threshold is chosen on the same
later days, and it is evaluated on the days after those. Recall is compared with every candidate
declining the same share of transactions; at their own thresholds, candidates that decline more
would have the higher recall.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc
from sklearn.metrics import average_precision_score

from features.spec import DAY
from services.fraud.candidates import CANDIDATES
from services.fraud.features import embedding_log, embeddings, encoder
from services.fraud.features.graph import TransactionLog
from services.fraud.features.request import cart_sets
from services.fraud.ingestion.columns import event_times
from services.fraud.ingestion.tables import TRUTH_TABLE
from services.fraud.problem import CostModel
from services.fraud.retraining.dataset import WARM_UP_DAYS, examples, labelled_rows, point_in_time
from services.fraud.retraining.training import choose_threshold, make_card, new_candidate
from services.fraud.serving.scorer import load_model
from services.fraud.simulator.scenarios import SCENARIOS
from services.platform.evaluation.comparison import (
    CandidateResult,
    ComparisonLabels,
    ServeFiles,
    average_runs,
    p95_ms,
    post_in_turn,
)
from services.platform.models.candidates import Candidate, Examples
from services.platform.models.onnx import write_card
from services.platform.progress import ProgressBar
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.types import Booleans, Floats

VALIDATION_DAYS, TEST_DAYS = 5, 10
DECLINE_SHARE = 0.01
ONNX_CALLS = 3_000
REQUESTS, REQUESTS_PER_SECOND = 1_000, 100.0

_APP = "services.fraud.serving.app:create_app"
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
class _Dataset:
    """N labelled transactions and their split by days.

    Attributes:
        rows: Transactions with columns `fraud` and `scenario`.
        tabular: (N, len(TABULAR)) features.
        scenario: (N,) index into `SCENARIOS`.
        fit: (N,) whether to fit on it.
        valid: (N,) whether to choose the threshold on it.
        test: (N,) whether to evaluate on it.
        log: All transactions, for the graph.
        log_index: (N,) index of each row in `log`.
    """

    rows: pa.Table
    tabular: Floats
    scenario: np.ndarray
    fit: Booleans
    valid: Booleans
    test: Booleans
    log: TransactionLog
    log_index: np.ndarray


def compare(
    settings: Settings, seeds: list[int], bar: ProgressBar, serve: ServeFiles
) -> list[FraudCandidateResult]:
    """Train, evaluate and time every candidate.

    Args:
        settings: Where lake and offline store are.
        seeds: Seeds to train with.
        bar: Opens a progress bar with a title.
        serve: Starts a scorer for each candidate's file.

    Raises:
        ValueError: the lake holds no simulated transactions.
    """
    dataset = _read_dataset(settings, bar)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sorted(CANDIDATES.all())}
    files: dict[str, bytes] = {}
    for seed in seeds:
        vectors, cold, encoder_s = _vectors_with_embeddings(dataset, seed, bar)
        for name in found:
            with bar(f"{name}, seed {seed}") as step:
                candidate = new_candidate(name)
                begin = perf_counter()
                kind = type(candidate)
                fit, valid = (_examples(dataset, vectors, kind, w) for w in ("fit", "valid"))
                candidate.fit(fit, valid, seed, step)
                train_s = perf_counter() - begin + (encoder_s if kind.groups else 0.0)
            threshold = choose_threshold(candidate, valid)
            found[name].append({**_evaluate(dataset, vectors, cold, candidate, threshold),
                                "train_s": train_s})  # fmt: skip
            until = float(event_times(dataset.rows)[dataset.valid].max())
            files[name] = write_card(
                candidate.export(), make_card(candidate, threshold, "comparison", until)
            )
    result = [_summary(name, runs, files[name]) for name, runs in found.items()]
    _time_calls(dataset, vectors, files, result)
    _time_requests(serve, dataset, files, result, bar)
    return result


def _read_dataset(settings: Settings, bar: ProgressBar) -> _Dataset:
    lake = Lake(settings)
    with bar("reading point-in-time features"):
        truth = lake.read(TRUTH_TABLE)
        rows = labelled_rows(lake, 0.0)
        if truth is None or rows is None:
            raise ValueError("the lake holds no simulated transactions: run `whiteboard up`")
        index = pc.index_in(rows["seq"], truth["seq"])
        rows = rows.append_column("scenario", truth["scenario"].take(index))
        rows = rows.filter(pc.is_valid(index))
        time_of = event_times(rows)
        rows = rows.filter(pa.array(time_of >= time_of.min() + WARM_UP_DAYS * DAY))
        unlabelled = rows.drop_columns(["fraud", "scenario"])
        tabular = point_in_time(settings, unlabelled, graph=False)
        log = embeddings.read_transaction_log(lake)
    time_of = event_times(rows)
    test = time_of >= time_of.max() - TEST_DAYS * DAY
    valid = ~test & (time_of >= time_of.max() - (TEST_DAYS + VALIDATION_DAYS) * DAY)
    log_index = np.searchsorted(log.seq, rows["seq"].to_numpy())
    scenario = rows["scenario"].to_numpy()
    return _Dataset(rows, tabular, scenario, ~test & ~valid, valid, test, log, log_index)


def _vectors_with_embeddings(
    dataset: _Dataset, seed: int, bar: ProgressBar
) -> tuple[Floats, Booleans, float]:
    """Vectors with the embeddings of an encoder trained with this seed.

    Returns:
        (N, len(FEATURES)) vectors; (N,) whether a party had no embedding; seconds it took.
    """
    begin = perf_counter()
    log, time_of = dataset.log, event_times(dataset.rows)
    fit = dataset.fit
    known = dataset.rows["seq"].to_numpy()[fit], dataset.rows["fraud"].to_numpy()[fit]
    encoder_examples = encoder.EncoderExamples.of(log, *known, dataset.tabular[fit])
    days = embedding_log.midnights(time_of.min(), time_of[fit].max())
    with bar(f"graph encoder, seed {seed}") as step:
        trained_encoder = encoder.train(
            log, encoder_examples, days, embeddings.encoder_hyperparameters(), seed, step
        )
    midnights = embedding_log.midnights(time_of.min() - DAY, time_of.max())
    with bar("computing the embeddings of each night") as step:
        snapshots = embeddings.embed_at(trained_encoder, log, midnights, step)
    columns = embedding_log.embedding_columns(log, snapshots)[dataset.log_index]
    cold = embedding_log.cold_start(log, snapshots)[dataset.log_index]
    return np.hstack([dataset.tabular, columns]), cold, perf_counter() - begin


def _examples(dataset: _Dataset, vectors: Floats, kind: type[Candidate], which: str) -> Examples:
    chosen = getattr(dataset, which)
    return examples(dataset.rows.filter(pa.array(chosen)), vectors[chosen], kind)


def _evaluate(
    dataset: _Dataset, vectors: Floats, cold: Booleans, candidate: Candidate, threshold: float
) -> dict[str, float]:
    data = _examples(dataset, vectors, type(candidate), "test")
    score = candidate.score(data)
    flagged = score >= np.quantile(score, 1 - DECLINE_SHARE)
    scenario, is_cold = dataset.scenario[dataset.test], cold[dataset.test]
    recall = {
        f"recall_{name}": float(flagged[scenario == code].mean())
        for code, name in enumerate(SCENARIOS)
        if code
    }
    return {
        "ap": float(average_precision_score(data.positive, score)),
        "cost": CostModel().total(score >= threshold, data.positive, data.amount) / TEST_DAYS,
        **recall,
        "cold_start_recall": float(flagged[is_cold & data.positive].mean()),
    }


def _summary(name: str, runs: list[dict[str, float]], file: bytes) -> FraudCandidateResult:
    role = CANDIDATES.get(name).role
    return FraudCandidateResult(name, role, size_mb=len(file) / 1e6, **average_runs(runs))


def _time_calls(
    dataset: _Dataset,
    vectors: Floats,
    files: Mapping[str, bytes],
    result: list[FraudCandidateResult],
) -> None:
    """Time ONNX calls of one row, the candidates in turn for each row."""
    models = {name: load_model(data) for name, data in files.items()}
    chosen = np.nonzero(dataset.test)[0][:ONNX_CALLS]
    items = cart_sets(dataset.rows.take(chosen))
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for i, row in enumerate(chosen):
        filled = int((items[i, :, 0] >= 0).sum())
        sets = {"items": items[i : i + 1, : max(filled, 1)]}
        for name, model in models.items():
            begin = perf_counter()
            model.score(vectors[row : row + 1], sets)
            seconds[name].append(perf_counter() - begin)
    for one in result:
        one.record_call_times(seconds[one.name])


def _time_requests(
    serve: ServeFiles,
    dataset: _Dataset,
    files: Mapping[str, bytes],
    result: list[FraudCandidateResult],
    bar: ProgressBar,
) -> None:
    """Time `POST /score` on one scorer per candidate, in turn; their decisions are discarded."""
    rows = dataset.rows.filter(pa.array(dataset.test)).slice(0, REQUESTS).to_pylist()
    wanted = ("transaction_id", "customer_id", "merchant_id", "device_id", "ip", "amount_minor")
    bodies = [
        {**{k: row[k] for k in wanted}, "event_time": row["event_time"].isoformat(),
         "cart": row["cart"]}
        for row in rows
    ]  # fmt: skip
    with (
        serve(_APP, files) as urls,
        bar("posting to each scorer in turn") as step,
    ):
        routes = {name: f"{url}/score" for name, url in urls.items()}
        posts = [{"json": body} for body in bodies]
        answers = asyncio.run(post_in_turn(routes, posts, REQUESTS_PER_SECOND, step))
    for one in result:
        one.score_p95_ms = p95_ms(answers[one.name])
