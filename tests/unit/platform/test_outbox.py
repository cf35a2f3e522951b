"""The outbox's file: bounded, in order, and whole after a restart."""

from services.platform.streaming.outbox import Outgoing, Spill


def event(number):
    return Outgoing("fraud.decision.0", f"id-{number}", b'{"n": %d}' % number)


def kept(spill):
    found = []
    while spill.count:
        found += [e.id for e in spill.peek(3)]
        spill.confirm()
    return found


def test_it_keeps_order_over_a_restart(tmp_path):
    Spill(tmp_path, 10_000).append([event(n) for n in range(5)])
    again = Spill(tmp_path, 10_000)
    assert again.count == 5
    again.append([event(5)])
    assert kept(again) == [f"id-{n}" for n in range(6)]
    assert Spill(tmp_path, 10_000).count == 0


def test_it_is_bounded_and_says_what_did_not_fit(tmp_path):
    spill = Spill(tmp_path, 200)
    lost = spill.append([event(n) for n in range(50)])
    assert 0 < lost < 50
    assert spill.count == 50 - lost
    assert (tmp_path / "outbox.jsonl").stat().st_size <= 200


def test_a_torn_last_line_is_passed_over(tmp_path):
    Spill(tmp_path, 10_000).append([event(1), event(2)])
    with (tmp_path / "outbox.jsonl").open("ab") as file:
        file.write(b'["fraud.decision.0", "id-3", "{')
    assert kept(Spill(tmp_path, 10_000)) == ["id-1", "id-2"]


def test_what_is_added_while_it_is_read_is_kept(tmp_path):
    spill = Spill(tmp_path, 10_000)
    spill.append([event(1), event(2)])
    assert [e.id for e in spill.peek(10)] == ["id-1", "id-2"]
    spill.append([event(3)])
    spill.confirm()
    assert spill.count == 1
    assert kept(spill) == ["id-3"]


def test_what_is_not_confirmed_comes_again(tmp_path):
    spill = Spill(tmp_path, 10_000)
    spill.append([event(n) for n in range(4)])
    spill.peek(2)
    spill.confirm()
    assert [e.id for e in spill.peek(2)] == [e.id for e in spill.peek(2)] == ["id-2", "id-3"]
