"""The candidates side by side: what each one sees, what it costs, how long it takes.

Every candidate is trained on the same days for several seeds, its threshold chosen on the same
days after them, and judged on the days after those. What fraud it finds is compared where all of
them decline the same share of transactions: at thresholds of their own, whoever declines more
would seem to see more.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc
from sklearn.metrics import average_precision_score

from features.spec import DAY, Booleans, Floats
from infra.local.apps import serving_files
from services.fraud.candidates import CANDIDATES
from services.fraud.features import embeddings as places
from services.fraud.features import encoder
from services.fraud.features.graph import Ledger
from services.fraud.ingestion.tables import TRUTH_TABLE
from services.fraud.problem import Kpi
from services.fraud.retraining.training import (
    WARM_UP_DAYS,
    card_of,
    cart_sets,
    examples,
    labelled_rows,
    new_candidate,
    point_in_time,
    threshold_of,
    times,
)
from services.fraud.serving.app import read_model
from services.fraud.simulator.scenarios import SCENARIOS
from services.platform.evaluation.comparison import Compared, Shown, averaged, p95_ms, post_in_turn
from services.platform.models.candidates import Candidate, Examples
from services.platform.models.onnx import stamp
from services.platform.progress import Bar
from services.platform.settings import Settings
from services.platform.storage.lake import Lake

VALIDATION_DAYS, TEST_DAYS = 5, 10
DECLINED = 0.01
CALLS = 3_000
REQUESTS, REQUESTS_A_SECOND = 1_000, 100.0

_APP = "services.fraud.serving.app:create_app"
SHOWN = Shown(
    stopped=DECLINED,
    subject="transactions",
    cost="cost a day",
    extra=("cold_start_recall", "cold starts"),
    request=("score_p95_ms", "/score p95, ms"),
)


@dataclass
class FraudCompared(Compared):
    """One candidate: cost a day, recall by scenario.

    Attributes:
        cold_start_recall: Recall of frauds with a party that had no place yet.
        train_s: For graph candidates, with the encoder's training and the nights.
    """

    cold_start_recall: float = 0.0
    score_p95_ms: float = 0.0


@dataclass(frozen=True)
class _Material:
    """Labelled history: rows with outcome, tabular vectors, and which days are for what."""

    rows: pa.Table
    tabular: Floats
    scenario: np.ndarray
    fit: Booleans
    valid: Booleans
    test: Booleans
    ledger: Ledger
    at: np.ndarray  # index of each row in the ledger


def compare(settings: Settings, seeds: list[int], bar: Bar) -> list[FraudCompared]:
    """Train, judge and time every candidate.

    Raises:
        ValueError: there is no history to compare on.
    """
    material = _material(settings, bar)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sorted(CANDIDATES.all())}
    files: dict[str, bytes] = {}
    for seed in seeds:
        placed, cold, graph_s = _placed(material, seed, bar)
        for name in found:
            with bar(f"{name}, seed {seed}") as step:
                candidate = new_candidate(name)
                begin = perf_counter()
                kind = type(candidate)
                fit, valid = (_examples(material, placed, kind, w) for w in ("fit", "valid"))
                candidate.fit(fit, valid, seed, step)
                spent = perf_counter() - begin + (graph_s if kind.groups else 0.0)
            threshold = threshold_of(candidate, valid)
            found[name].append({**_judged(material, placed, cold, candidate, threshold),
                                "train_s": spent})  # fmt: skip
            until = float(times(material.rows)[material.valid].max())
            files[name] = stamp(
                candidate.export(), card_of(candidate, threshold, "comparison", until)
            )
    result = [_summary(name, runs, files[name]) for name, runs in found.items()]
    _time_calls(material, placed, files, result)
    _time_requests(settings, material, files, result, bar)
    return result


def _material(settings: Settings, bar: Bar) -> _Material:
    lake = Lake(settings)
    with bar("reading point-in-time features"):
        truth = lake.read(TRUTH_TABLE)
        rows = labelled_rows(lake, 0.0)
        if truth is None or rows is None:
            raise ValueError("no history to compare on: `whiteboard up` makes it")
        where = pc.index_in(rows["seq"], truth["seq"])
        rows = rows.append_column("scenario", truth["scenario"].take(where))
        rows = rows.filter(pc.is_valid(where))
        rows = rows.filter(pa.array(times(rows) >= times(rows).min() + WARM_UP_DAYS * DAY))
        plain = rows.drop_columns(["fraud", "scenario"])
        tabular = point_in_time(settings, plain, graph=False)
        ledger = places.read_ledger(lake)
    time_of = times(rows)
    test = time_of >= time_of.max() - TEST_DAYS * DAY
    valid = ~test & (time_of >= time_of.max() - (TEST_DAYS + VALIDATION_DAYS) * DAY)
    at = np.searchsorted(ledger.seq, rows["seq"].to_numpy())
    scenario = rows["scenario"].to_numpy()
    return _Material(rows, tabular, scenario, ~test & ~valid, valid, test, ledger, at)


def _placed(material: _Material, seed: int, bar: Bar) -> tuple[Floats, Booleans, float]:
    """(N, len(FEATURES)) vectors with places by an encoder of this seed, cold starts, seconds."""
    begin = perf_counter()
    ledger, time_of = material.ledger, times(material.rows)
    fit = material.fit
    known = material.rows["seq"].to_numpy()[fit], material.rows["fraud"].to_numpy()[fit]
    lessons = encoder.Lessons.of(ledger, *known, material.tabular[fit])
    days = places.midnights(time_of.min(), time_of[fit].max())
    with bar(f"graph encoder, seed {seed}") as step:
        made = encoder.train(ledger, lessons, days, places.parameters(), seed, step)
    nights = places.midnights(time_of.min() - DAY, time_of.max())
    with bar("placing everybody, night by night") as step:
        done = places.place_nights(made, ledger, nights, step)
    columns = places.columns(ledger, done)[material.at]
    cold = places.cold(ledger, done)[material.at]
    return np.hstack([material.tabular, columns]), cold, perf_counter() - begin


def _examples(material: _Material, placed: Floats, kind: type[Candidate], which: str) -> Examples:
    chosen = getattr(material, which)
    return examples(material.rows.filter(pa.array(chosen)), placed[chosen], kind)


def _judged(
    material: _Material, placed: Floats, cold: Booleans, candidate: Candidate, threshold: float
) -> dict[str, float]:
    data = _examples(material, placed, type(candidate), "test")
    score = candidate.score(data)
    flagged = score >= np.quantile(score, 1 - DECLINED)
    scenario, unseen = material.scenario[material.test], cold[material.test]
    recall = {
        f"recall_{name}": float(flagged[scenario == code].mean())
        for code, name in enumerate(SCENARIOS)
        if code
    }
    return {
        "ap": float(average_precision_score(data.positive, score)),
        "cost": Kpi().total(score >= threshold, data.positive, data.amount) / TEST_DAYS,
        **recall,
        "cold_start_recall": float(flagged[unseen & data.positive].mean()),
    }


def _summary(name: str, runs: list[dict[str, float]], file: bytes) -> FraudCompared:
    role = CANDIDATES.get(name).role
    return FraudCompared(name, role, size_mb=len(file) / 1e6, **averaged(runs))


def _time_calls(
    material: _Material, placed: Floats, files: Mapping[str, bytes], result: list[FraudCompared]
) -> None:
    """ONNX calls of one row, the candidates taking turns row by row."""
    models = {name: read_model(data) for name, data in files.items()}
    chosen = np.nonzero(material.test)[0][:CALLS]
    items = cart_sets(material.rows.take(chosen))
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for i, row in enumerate(chosen):
        filled = int((items[i, :, 0] >= 0).sum())
        sets = {"items": items[i : i + 1, : max(filled, 1)]}
        for name, model in models.items():
            begin = perf_counter()
            model.score(placed[row : row + 1], sets)
            seconds[name].append(perf_counter() - begin)
    for one in result:
        one.called(seconds[one.name])


def _time_requests(
    settings: Settings,
    material: _Material,
    files: Mapping[str, bytes],
    result: list[FraudCompared],
    bar: Bar,
) -> None:
    """`POST /score` on a scorer a candidate, the scorers taking turns; decisions go nowhere."""
    rows = material.rows.filter(pa.array(material.test)).slice(0, REQUESTS).to_pylist()
    wanted = ("transaction_id", "customer_id", "merchant_id", "device_id", "ip", "amount_minor")
    bodies = [
        {**{k: row[k] for k in wanted}, "event_time": row["event_time"].isoformat(),
         "cart": row["cart"]}
        for row in rows
    ]  # fmt: skip
    with (
        serving_files(_APP, settings, files, heard=False) as urls,
        bar("asking each scorer in turn") as step,
    ):
        routes = {name: f"{url}/score" for name, url in urls.items()}
        posts = [{"json": body} for body in bodies]
        answers = asyncio.run(post_in_turn(routes, posts, REQUESTS_A_SECOND, step))
    for one in result:
        one.score_p95_ms = p95_ms(answers[one.name])
