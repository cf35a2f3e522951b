"""The search for the rate at which p95 passes the budget."""

import pytest

from services.platform.capacity.knee_search import Step, find_knee

BUDGET_MS = 50.0


class Queue:
    """An M/M/1 queue that answers 1,000 requests a second; its knee is at 940."""

    def __init__(self, pauses=(), fails_from=float("inf")):
        self.asked = []
        self.pauses, self.fails_from = list(pauses), fails_from

    def __call__(self, rate):
        self.asked.append(rate)
        p95_ms = 3_000 / (1_000 - rate) if rate < 1_000 else 5_000.0
        if rate in self.pauses:
            self.pauses.remove(rate)
            p95_ms = 400.0
        return Step(rate, float(rate), p95_ms, int(rate >= self.fails_from))


@pytest.mark.parametrize("begin", [1, 500, 781, 976, 3_000])
def test_the_knee_is_found_from_below_and_from_above(begin):
    found = find_knee(Queue(), begin, BUDGET_MS)
    assert found.rate == pytest.approx(940, rel=0.1)
    assert [step.asked for step in found.steps] == sorted({step.asked for step in found.steps})


def test_each_step_asks_for_more():
    queue = Queue(fails_from=5)
    find_knee(queue, 1, BUDGET_MS)
    assert queue.asked == [1, 2, 3, 4, 5, 5]


def test_a_pause_is_no_knee():
    queue = Queue(pauses=[500, 625])
    assert find_knee(queue, 500, BUDGET_MS).rate == pytest.approx(940)
    assert queue.asked == [500, 500, 625, 625, 781, 976, 976]


def test_a_failed_request_is_a_miss_at_any_latency():
    found = find_knee(Queue(fails_from=700), 500, BUDGET_MS)
    assert found.rate == found.steps[-1].rate == 781
    assert found.steps[-1].p95_ms < BUDGET_MS


def test_a_stack_that_holds_no_rate_is_an_error():
    with pytest.raises(RuntimeError, match="at any rate"):
        find_knee(Queue(fails_from=0), 20, BUDGET_MS)
