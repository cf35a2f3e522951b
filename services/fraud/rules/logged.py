"""Logged decisions of the lake, as the back-test and the audit read them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from services.fraud.features.decisions import of_current_set, read_decisions
from services.fraud.ingestion.label_weights import WEIGHT
from services.fraud.ingestion.outcomes import settle
from services.fraud.ingestion.tables import LABELS_TABLE, NOT_SYNTHETIC
from services.fraud.problem import OUTCOMES
from services.fraud.rules.backtest import DecidedTransactions
from services.fraud.rules.expression import TEXTS
from services.platform.storage.lake import Lake
from services.platform.types import Floats, Integers


def decided_transactions(lake: Lake) -> DecidedTransactions:
    """The logged decisions whose dispute window has closed, with their outcome.

    Decisions of load tests are left out. The lake knows no scenario of a decision.

    Raises:
        OSError: S3 did not answer.
        ValueError: there are none.
    """
    logged, labels = (
        read_decisions(lake, where=NOT_SYNTHETIC),
        lake.read(LABELS_TABLE, ["transaction_id", "fraud"]),
    )
    if logged is None or labels is None:
        raise ValueError("no logged decisions: `whiteboard simulate fraud`")
    rows = settle(of_current_set(logged), labels).rows
    if not len(rows):
        raise ValueError(
            "no decision's dispute window has closed yet: let `whiteboard simulate fraud` run on, "
            "or measure on simulated days with `--simulated`"
        )
    fraud = rows["fraud"].to_numpy().astype(bool)
    return DecidedTransactions(
        vectors=vectors_of(rows),
        scores=rows["score"].to_numpy(),
        model_outcome=model_outcomes(rows),
        texts=texts_of(rows),
        time_us=times_us(rows),
        fraud=fraud,
        amount=rows["amount_minor"].to_numpy().astype(np.float64),
        customer=pd.factorize(rows["customer_id"].to_numpy(zero_copy_only=False))[0],
        scenario=np.where(fraud, "fraud", "genuine").tolist(),
        weight=rows[WEIGHT].to_numpy(),
    )


def vectors_of(rows: pa.Table) -> Floats:
    """(N, F) the logged vectors of N decisions."""
    flat = pc.list_flatten(rows["features"]).to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float64).reshape(len(rows), -1)


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
