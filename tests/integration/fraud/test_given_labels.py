"""Labels only where the world gives one, on a real stream."""

from services.fraud.ingestion.events import (
    LABEL,
    STREAM,
    VERDICT,
    VERDICTS_STREAM,
    LabelEvent,
    Transaction,
    VerdictEvent,
)
from services.fraud.review import labels
from services.fraud.serving.app import EXAMPLE_TRANSACTION
from services.fraud.simulator.live import BUCKET, HeldLabels
from services.platform.streaming.connection import ensure_bucket
from services.platform.streaming.consumer import Message


def transaction(name):
    return Transaction(**{**EXAMPLE_TRANSACTION, "transaction_id": name})


def verdict(name, said, outcome):
    of = transaction(name)
    return VerdictEvent(
        decision_id=f"d-{name}", transaction_id=name, event_time=of.event_time, verdict=said,
        outcome=outcome, waited_s=1.0, by="ann" if said else "timeout", transaction=of,
    )  # fmt: skip


async def given(held, *names):
    return [name for name in names if await held.is_given(LabelEvent.of(transaction(name), True))]


async def test_no_label_comes_of_a_payment_that_was_not_made(nc):
    js = nc.jetstream()
    bucket = await ensure_bucket(js, BUCKET)
    held = await HeldLabels.open(js, bucket)
    decided = {"t1": "approve", "t2": "decline", "t3": "review", "t4": "review", "t5": "review",
               "t6": "review"}  # fmt: skip
    for name, outcome in decided.items():
        await held.note(transaction(name), outcome, f"d-{name}")
    said = {"t3": ("fraud", "decline"), "t4": ("genuine", "approve"), "t5": (None, "approve")}
    for name, (word, outcome) in said.items():
        data = verdict(name, word, outcome).model_dump_json().encode()
        await js.publish(f"{VERDICT}.d-{name}", data)
    names = (*decided, "backfilled")
    assert await given(held, *names) == ["t1", "t4", "t5", "backfilled"]
    # Another simulation goes on with what this one noted.
    again = await HeldLabels.open(js, bucket)
    assert await given(again, *names) == ["t1", "t4", "t5", "backfilled"]


async def test_what_an_analyst_calls_fraud_is_labelled_once(nc, config):
    js = nc.jetstream()
    batch = [
        Message(f"{VERDICT}.d-{name}", verdict(name, *said).model_dump_json().encode(), seq, 0, "")
        for seq, (name, said) in enumerate(
            {"t1": ("fraud", "decline"), "t2": ("genuine", "approve"), "t3": (None, "decline")}
            .items()
        )
    ]  # fmt: skip
    for _ in range(2):
        assert await labels.publish_labels(js, config.shards, [*batch, *batch[:1]]) == 2
    assert (await js.stream_info(STREAM)).state.messages == 1
    stored = await js.get_last_msg(STREAM, f"{LABEL}.>")
    label = LabelEvent.model_validate_json(stored.data)
    assert (label.transaction_id, label.fraud) == ("t1", True)
    assert label.customer_id == EXAMPLE_TRANSACTION["customer_id"]
    assert (await js.stream_info(VERDICTS_STREAM)).state.messages == 0
