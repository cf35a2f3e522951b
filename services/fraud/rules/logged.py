"""Logged decisions of the lake, as the back-test and the audit read them.

Decisions and labels are read a range of their stream at a time; the back-test holds the newest
`MAX_ROWS` decisions.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from services.fraud.features.decisions import of_current_set, vectors_of
from services.fraud.ingestion.columns import event_times
from services.fraud.ingestion.label_weights import DECIDED_BY, label_weights
from services.fraud.ingestion.outcomes import read_outcomes, settled_until
from services.fraud.ingestion.tables import DECISION_SCHEMA, DECISIONS_TABLE, NOT_SYNTHETIC
from services.fraud.ingestion.watermark import FeedTimes, feed_codes, per_feed
from services.fraud.problem import OUTCOMES, CostModel
from services.fraud.rules.backtest import DecidedTransactions
from services.fraud.rules.expression import TEXTS
from services.platform.storage.lake import Lake
from services.platform.storage.sequences import SequenceReader
from services.platform.types import Booleans, Floats, Integers

LoggedCosts = Callable[[pa.ChunkedArray], CostModel]
MAX_ROWS = 500_000
_RANGE = 50_000
_OTHER_SET = (
    "all logged decisions are of another feature set, which rules cannot read: let "
    "`whiteboard simulate fraud` run, or measure on simulated days with `--simulated`"
)
_COLUMNS = [
    "event_time", "transaction_id", "feed", "features", "feature_set", "score", "decision",
    "model_decision", "amount_minor", "costs", *TEXTS[:4], *DECIDED_BY,
]  # fmt: skip


def decided_transactions(
    lake: Lake, costs: LoggedCosts = lambda _: CostModel(), most: int = MAX_ROWS
) -> DecidedTransactions:
    """The newest logged decisions whose dispute window has closed, with their outcome.

    Before any has, they are the newest decisions, without an outcome. Decisions of load tests are
    left out. The lake knows no scenario of a decision.

    Args:
        costs: Makes the cost model of the costs (N,) that they logged, such as `usual_costs`.
        most: How many decisions are read.

    Raises:
        OSError: S3 did not answer.
        ValueError: there are none of this feature set.
    """
    if not _decisions(lake, []).last:
        raise ValueError("no logged decisions: `whiteboard simulate fraud`")
    rows = _newest_before(lake, _settled_until(lake), most)
    outcome, _ = read_outcomes(lake, rows["transaction_id"])
    is_known = outcome >= 0
    if not is_known.any():
        newest = _newest_before(lake, {}, most, otherwise=np.inf)
        if not len(newest):
            raise ValueError(_OTHER_SET)
        return _transactions(newest, costs)
    weight = label_weights(rows, is_known)[is_known]
    return _transactions(rows.filter(pa.array(is_known)), costs, outcome[is_known] == 1, weight)


def _transactions(
    rows: pa.Table,
    costs: LoggedCosts,
    fraud: Booleans | None = None,
    weight: Floats | None = None,
) -> DecidedTransactions:
    return DecidedTransactions(
        vectors=vectors_of(rows),
        scores=rows["score"].to_numpy(),
        model_outcome=model_outcomes(rows),
        texts=texts_of(rows),
        time_us=times_us(rows),
        fraud=fraud,
        amount=rows["amount_minor"].to_numpy().astype(np.float64),
        customer=pd.factorize(rows["customer_id"].to_numpy(zero_copy_only=False))[0],
        scenario=[] if fraud is None else np.where(fraud, "fraud", "genuine").tolist(),
        weight=weight,
        costs=costs(rows["costs"]),
    )


def _settled_until(lake: Lake) -> dict[str, float]:
    """By feed of the logged decisions, the event time before which they are settled, seconds."""
    times = FeedTimes()
    for part in _decisions(lake, ["event_time", "feed"]).parts(_RANGE):
        times.add(part)
    return {name: settled_until(clock) for name, clock in times.clocks().items()}


def _newest_before(
    lake: Lake, until: Mapping[str, float], most: int, otherwise: float = -np.inf
) -> pa.Table:
    """The newest decisions before their feed's time, read backwards range by range.

    Args:
        otherwise: The time of a feed without one.
    """
    reader = _decisions(lake, _COLUMNS)
    found = DECISION_SCHEMA.empty_table().select(["seq", *_COLUMNS])
    for rows in reader.backwards(_RANGE):
        current = of_current_set(rows)
        codes, names = feed_codes(current)
        closed = event_times(current) < per_feed(until, names, otherwise)[codes]
        older = current.filter(pa.array(closed)).select(found.column_names)
        found = pa.concat_tables([older, found])
        if len(found) >= most:
            break
    return found[-most:]


def _decisions(lake: Lake, columns: list[str]) -> SequenceReader:
    return SequenceReader(lake, DECISIONS_TABLE, columns, DECISION_SCHEMA, NOT_SYNTHETIC)


def times_us(rows: pa.Table) -> Integers:
    """(N,) event times, microseconds."""
    return np.asarray(rows["event_time"].cast(pa.int64()).to_numpy())


def model_outcomes(rows: pa.Table) -> Integers:
    """(N,) what the model alone decided, as indices into `OUTCOMES`."""
    made = pc.coalesce(rows["model_decision"], rows["decision"])
    return np.asarray(pc.index_in(made, pa.array(OUTCOMES)).to_numpy())


def texts_of(rows: pa.Table) -> dict[str, Sequence[str]]:
    """The texts that rules name, N each; as `evaluation.transaction_texts` gives them for one."""
    columns = {name: pc.fill_null(rows[name], "") for name in TEXTS[:4]}
    customer, device = columns["customer_id"], columns["device_id"]
    pair = pc.binary_join_element_wise(customer, columns["merchant_id"], "|")
    with_device = pc.binary_join_element_wise(customer, device, "|")
    columns["customer_merchant"] = pair
    columns["customer_device"] = pc.if_else(pc.equal(device, ""), "", with_device)
    return {name: column.to_pylist() for name, column in columns.items()}
