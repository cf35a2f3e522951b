"""The outbox's file: bounded, in order, and complete after a restart."""

from services.platform.streaming.outbox import OutboxEvent, SpillFile


def event(number):
    return OutboxEvent("fraud.decision.0", f"id-{number}", b'{"n": %d}' % number)


def drain(spill):
    ids = []
    while spill.count:
        ids += [e.id for e in spill.peek(3)]
        spill.confirm()
    return ids


def test_order_survives_a_restart(tmp_path):
    SpillFile(tmp_path, 10_000).append([event(n) for n in range(5)])
    again = SpillFile(tmp_path, 10_000)
    assert again.count == 5
    again.append([event(5)])
    assert drain(again) == [f"id-{n}" for n in range(6)]
    assert SpillFile(tmp_path, 10_000).count == 0


def test_it_is_bounded_and_counts_what_did_not_fit(tmp_path):
    spill = SpillFile(tmp_path, 200)
    dropped = spill.append([event(n) for n in range(50)])
    assert 0 < dropped < 50
    assert spill.count == 50 - dropped
    assert (tmp_path / "outbox.jsonl").stat().st_size <= 200


def test_a_truncated_last_line_is_skipped(tmp_path):
    SpillFile(tmp_path, 10_000).append([event(1), event(2)])
    with (tmp_path / "outbox.jsonl").open("ab") as file:
        file.write(b'["fraud.decision.0", "id-3", "{')
    assert drain(SpillFile(tmp_path, 10_000)) == ["id-1", "id-2"]


def test_events_appended_while_reading_are_kept(tmp_path):
    spill = SpillFile(tmp_path, 10_000)
    spill.append([event(1), event(2)])
    assert [e.id for e in spill.peek(10)] == ["id-1", "id-2"]
    spill.append([event(3)])
    spill.confirm()
    assert spill.count == 1
    assert drain(spill) == ["id-3"]


def test_what_is_not_confirmed_comes_again(tmp_path):
    spill = SpillFile(tmp_path, 10_000)
    spill.append([event(n) for n in range(4)])
    spill.peek(2)
    spill.confirm()
    assert [e.id for e in spill.peek(2)] == [e.id for e in spill.peek(2)] == ["id-2", "id-3"]
