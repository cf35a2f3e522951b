"""How far a replay came: what may be sent next, and what is recorded while events are in flight."""

from datetime import UTC, datetime

import pytest

from services.fraud.ingestion.events import SimulatedEvent, Transaction, microseconds
from services.fraud.simulator.gateway import message_id
from services.fraud.simulator.replay import AlreadyReplayed, ReplayRequest, next_record
from services.fraud.simulator.replay_log import ReplayProgress, ReplayRecord

FIRST = datetime(2024, 1, 1, tzinfo=UTC)
LATER = datetime(2024, 2, 1, tzinfo=UTC)


def request(**options):
    return ReplayRequest(rate=100, max_transactions=10, **options)


def reached(time):
    return ReplayRecord("t.csv", ["a"], reached_us=microseconds(time), transactions=3)


def test_a_new_file_begins_at_its_beginning_or_at_a_date():
    assert next_record("t.csv", ["a"], None, request()) == ReplayRecord("t.csv", ["a"])
    record = next_record("t.csv", ["a"], None, request(since=FIRST))
    assert record.since_us == microseconds(FIRST)


def test_a_file_that_was_replayed_is_refused_with_the_options():
    with pytest.raises(AlreadyReplayed, match=r"t\.csv.*2024-01-01.*--resume.*--run"):
        next_record("t.csv", ["a"], reached(FIRST), request())
    with pytest.raises(AlreadyReplayed, match=r"\(in t\.csv\)"):
        next_record("grown.csv", ["a", "b"], reached(FIRST), request())
    with pytest.raises(AlreadyReplayed):
        next_record("t.csv", ["a"], reached(LATER), request(since=FIRST))
    killed_at_once = ReplayRecord("t.csv", ["a"])
    with pytest.raises(AlreadyReplayed, match="its first event"):
        next_record("t.csv", ["a"], killed_at_once, request())


def test_a_later_part_of_the_file_is_not_a_repetition():
    record = next_record("t.csv", ["a"], reached(FIRST), request(since=LATER))
    assert (record.since_us, record.transactions) == (microseconds(LATER), 3)
    assert record.reached_us == microseconds(LATER) - 1


def test_resuming_goes_on_where_it_stopped():
    before = ReplayRecord("t.csv", ["a"], microseconds(FIRST), microseconds(LATER), 3)
    record = next_record("t.csv", ["a", "b"], before, request(resume=True))
    assert (record.since_us, record.reached_us) == (before.since_us, before.reached_us)
    assert record.sketch == ["a", "b"]


def events(*days):
    return [
        SimulatedEvent(
            Transaction(
                transaction_id=f"{number}",
                event_time=datetime(2024, 1, day, tzinfo=UTC),
                customer_id="c",
                merchant_id="m",
                amount_minor=1,
            )
        )
        for number, day in enumerate(days)
    ]


def day_us(day):
    return microseconds(datetime(2024, 1, day, tzinfo=UTC))


def test_it_records_only_what_the_stream_acknowledged():
    progress = ReplayProgress(ReplayRecord("t.csv", ["a"]))
    sent = progress.events(events(1, 2, 3))
    first, second = next(sent), next(sent)
    progress.published(message_id(second.event))
    assert progress.update().reached_us == day_us(1) - 1
    progress.published(message_id(first.event))
    assert progress.update().reached_us == day_us(2) - 1  # others may have the same time
    progress.published(message_id(next(sent).event))
    assert list(sent) == []
    assert progress.update().reached_us == day_us(3)
    assert progress.record.transactions == 3


def test_events_that_the_stream_has_are_not_sent_again():
    made = events(1, 2, 2, 3)
    progress = ReplayProgress(ReplayRecord("t.csv", ["a"]), {message_id(made[1].event)})
    assert [one.event.transaction_id for one in progress.events(made)] == ["0", "2", "3"]
