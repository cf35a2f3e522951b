"""The skew audit: recompute every logged feature vector from the raw events and compare bytes.

The outcome is recomputed too, from the logged score, amount, costs and price of a review slot.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from time import sleep

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from features.spec import SEQ
from services.fraud.features.decisions import of_current_set, vectors_of
from services.fraud.features.embedding_log import read_snapshots
from services.fraud.features.kernel import feature_vectors
from services.fraud.features.request import request_columns
from services.fraud.features.states import EMBEDDINGS, FEATURES, STATES
from services.fraud.ingestion.columns import EventReader, Events
from services.fraud.ingestion.tables import DECISION_SCHEMA, DECISIONS_TABLE
from services.fraud.ingestion.watermark import FeedTimes, ahead_message
from services.fraud.monitoring.rules import RulesAudit, audit_rules, published_sets
from services.fraud.monitoring.skew_rows import (
    Tables,
    advance,
    differing_seqs,
    embedding_rows,
    empty_tables,
    logged_seqs,
    newest_seq,
    rows_within,
)
from services.fraud.review.policy import codes, recompute
from services.fraud.rules.evaluation import CompiledRules
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.storage.sequences import SequenceReader
from services.platform.types import Floats, Integers

_READ_ATTEMPTS, _RETRY_S = 4, 2.0
_MAX_EXAMPLES = 10
# Events folded and decisions compared at once.
_EVENTS = 100_000
_DECISIONS = 25_000


@dataclass(frozen=True)
class Mismatch:
    """A decision whose vector differs from the one recomputed from its events."""

    transaction_id: str
    decision_id: str
    features: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Audit:
    """Outcome of a skew audit.

    Attributes:
        vectors: Decisions compared.
        mismatches: Decisions whose vector differs, and decisions whose rules or outcome do.
        degraded: Decisions taken without the online store.
        other_set: Decisions of another feature set, which are not compared.
        events: Events folded.
        gaps: Sequences up to the last that are missing in the lake: dead letters, or lost events.
        examples: The first mismatches.
        ahead: A sentence for each feed with transactions far ahead of its others.
        rule_decisions: Decisions whose rules and outcome were recomputed.
        rule_mismatches: Those in which other rules fire, or that lead to another outcome.
        unknown_rules: Decisions of a set of rules that is not in the history.
    """

    vectors: int = 0
    mismatches: int = 0
    degraded: int = 0
    other_set: int = 0
    events: int = 0
    gaps: int = 0
    examples: list[Mismatch] = field(default_factory=list)
    ahead: list[str] = field(default_factory=list)
    rule_decisions: int = 0
    rule_mismatches: int = 0
    unknown_rules: int = 0


def audit_with_rules(config: Settings, within: tuple[int, int] | None = None) -> Audit:
    """`audit`, and the rules and outcome of every logged decision recomputed from its vector.

    Args:
        within: See `audit`.

    Raises:
        ConnectionError, OSError: NATS or S3 did not answer.
        ValueError: the decisions have another number of features.
    """
    return audit(Lake(config), published_sets(config), within)


def audit(
    lake: Lake,
    sets: Mapping[str, CompiledRules] | None = None,
    within: tuple[int, int] | None = None,
) -> Audit:
    """Recompute the vector of every logged decision from the raw events and compare bytes.

    Events and decisions are read a range of their streams at a time: memory holds a range, and
    the rows of all entities.

    Args:
        sets: By label, the sets of rules to recompute; None: rules are not audited.
        within: Only the decisions of these sequences of their stream, behind the first up to the
            second. Events are folded up to the last that these read, and gaps counted up to there.

    Raises:
        OSError: S3 did not answer.
        ValueError: the decisions have another number of features.
    """
    return SkewAudit(lake, sets, within).run()


class SkewAudit:
    """An audit under way: events are folded in stream order, decisions compared beside them.

    A decision is compared once the fold has come to the newest sequence that it logged. The rows
    that it logged earlier are mostly still their entities' rows. Where an entity had gone on
    before the fold came there, which takes workers that lag behind each other, the decision is
    late: late ones are compared in further passes over the events.
    """

    def __init__(
        self,
        lake: Lake,
        sets: Mapping[str, CompiledRules] | None = None,
        within: tuple[int, int] | None = None,
    ) -> None:
        self._lake = lake
        self._sets = sets
        self._is_part = within is not None
        # Decisions first: what is written meanwhile are events, which they may have read.
        self._decisions = DecisionQueue(lake, within)
        self._events = EventReader(lake)
        self._times = FeedTimes()
        self._late: list[pa.Table] = []
        self._found = Audit()

    def run(self) -> Audit:
        """Compare everything. To be called once."""
        last = self._events.last_seq
        if not last or not self._decisions.any:
            return Audit()
        tables, end = empty_tables(), 0
        while end < last:
            begin, end = end, min(end + _EVENTS, last)
            transactions, events = self._range(begin, end)
            self._times.add(transactions)
            gaps = end - begin - len(events)
            self._found = _sum(self._found, Audit(events=len(events), gaps=gaps))
            for decisions in self._decisions.due(end):
                self._compare(tables, events, decisions)
            if self._is_part and not self._decisions.left:
                break
            advance(tables, events)
            if end == last and self._decisions.left:
                last = self._newest_event(last)
        _, none = self._range(last, last)
        for decisions in self._decisions.due(None):
            self._compare(tables, none, decisions)
        self._compare_late()
        return replace(self._found, other_set=self._decisions.other_set, ahead=self._ahead())

    def _ahead(self) -> list[str]:
        """A sentence for each feed with transactions far ahead of its others."""
        clocks = self._times.clocks()
        return [ahead_message(feed, clock) for feed, clock in clocks.items() if clock.ahead]

    def _newest_event(self, last: int) -> int:
        """The last sequence of the events, looked up again: decisions are written before some."""
        for _ in range(_READ_ATTEMPTS):
            self._events.refresh()
            if self._events.last_seq > last:
                break
            sleep(_RETRY_S)
        return self._events.last_seq

    def _compare(self, tables: Tables, events: Events, decisions: pa.Table) -> None:
        """Compare decisions whose newest sequence has been reached; the late ones wait."""
        logged = logged_seqs(decisions)
        rows = rows_within(tables, events, decisions, logged)
        late = differing_seqs(rows, logged)
        if late.any():
            self._late.append(decisions.filter(pa.array(late)))
            decisions = decisions.filter(pa.array(~late))
            logged = {name: seqs[~late] for name, seqs in logged.items()}
            rows = {name: found[~late] for name, found in rows.items()}
        self._judge(decisions, logged, rows)
        if sum(map(len, self._late)) >= _DECISIONS:
            self._compare_late()

    def _compare_late(self) -> None:
        """One more pass over the events, for the rows that were gone when they were looked for."""
        if not self._late:
            return
        decisions = pa.concat_tables(self._late)
        self._late = []
        logged, tables = logged_seqs(decisions), empty_tables()
        rows = {s.name: np.full((len(decisions), s.width), np.nan) for s in STATES}
        last = min(int(newest_seq(logged).max()), self._events.last_seq)
        for begin in range(0, max(last, 1), _EVENTS):
            _, events = self._range(begin, min(begin + _EVENTS, self._events.last_seq))
            found = rows_within(tables, events, decisions, logged)
            for name, part in found.items():
                seqs = np.nan_to_num(part[:, SEQ], nan=-1.0)
                rows[name][seqs == logged[name]] = part[seqs == logged[name]]
            advance(tables, events)
        self._judge(decisions, logged, rows)

    def _judge(
        self, decisions: pa.Table, logged: Mapping[str, Integers], rows: dict[str, Floats]
    ) -> None:
        for view in EMBEDDINGS:
            log = read_snapshots(self._lake, view, np.unique(logged[view.name]).tolist())
            rows[view.name] = embedding_rows(decisions, view, logged[view.name], log)
        self._found = _sum(self._found, judge(decisions, logged, rows))
        if self._sets is not None and len(decisions):
            self._found = _with_rules(self._found, audit_rules(decisions, self._sets))

    def _range(self, begin: int, end: int) -> tuple[pa.Table, Events]:
        """Transactions and events of a range.

        A batch is written table by table, so a gap is read again before it counts.
        """
        for attempt in range(_READ_ATTEMPTS):
            if attempt:
                sleep(_RETRY_S)
                self._events.refresh()
            transactions, labels = self._events.between(begin, end)
            if len(transactions) + len(labels) >= end - begin:
                break
        return transactions, Events.from_tables(transactions, labels)


class DecisionQueue:
    """Logged decisions of the present feature set, in their stream's order, until they are due.

    Attributes:
        any: Whether there are decisions at all.
        other_set: Decisions of another feature set so far.
    """

    def __init__(self, lake: Lake, within: tuple[int, int] | None = None) -> None:
        """List the files.

        Args:
            within: Only these sequences, behind the first up to the second.
        """
        self._reader = SequenceReader(lake, DECISIONS_TABLE, schema=DECISION_SCHEMA)
        self._read, last = within or (0, self._reader.last)
        self._last = min(last, self._reader.last)
        self._waiting: list[pa.Table] = []
        self.any = self._last > self._read
        self.other_set = 0

    @property
    def left(self) -> bool:
        """Whether there are decisions that were not due yet."""
        return bool(self._waiting) or self._read < self._last

    def due(self, end: int | None) -> Iterator[pa.Table]:
        """Decisions whose newest logged sequence is at most `end`, all if None, block by block."""
        waiting, self._waiting = self._waiting, []
        for block in waiting:
            yield from self._split(block, end)
        # Those that wait for the fold are not joined by more.
        while self._read < self._last and sum(map(len, self._waiting)) < _DECISIONS:
            begin, self._read = self._read, min(self._read + _DECISIONS, self._last)
            found = self._reader.between(begin, self._read)
            if found is None or not len(found):
                continue
            block = of_current_set(found)
            self.other_set += len(found) - len(block)
            yield from self._split(block, end)
            # The next block is later still.
            if sum(map(len, self._waiting)) * 10 > len(block):
                break

    def _split(self, block: pa.Table, end: int | None) -> Iterator[pa.Table]:
        due = np.ones(len(block), bool) if end is None else newest_seq(logged_seqs(block)) <= end
        if not due.all():
            self._waiting.append(block.filter(pa.array(~due)))
        if due.any():
            yield block.filter(pa.array(due))


def judge(decisions: pa.Table, logged: Mapping[str, Integers], rows: Mapping[str, Floats]) -> Audit:
    """Compare D logged vectors and outcomes with those that the rows give.

    Raises:
        ValueError: the decisions have another number of features.
    """
    if not len(decisions):
        return Audit()
    recomputed = feature_vectors(rows, request_columns(decisions))
    served = vectors_of(decisions)
    if served.shape[1] != len(FEATURES):
        raise ValueError(f"decisions hold {served.shape[1]} features, {len(FEATURES)} are known")
    # Rules may change the model's outcome: `monitoring/rules.py` recomputes that.
    by_model = pc.coalesce(decisions["model_decision"], decisions["decision"])
    wrong_outcome = recompute(decisions) != codes(by_model)
    differs = _bits(recomputed) != _bits(served)
    unknown_seq = differing_seqs(rows, logged)
    wrong = np.nonzero(differs.any(axis=1) | unknown_seq | wrong_outcome)[0]
    return Audit(
        vectors=len(decisions),
        mismatches=len(wrong),
        degraded=int(pc.sum(decisions["degraded"]).as_py() or 0),
        examples=[
            _example(decisions, int(i), differs[i], _reason(unknown_seq[i], wrong_outcome[i]))
            for i in wrong[:_MAX_EXAMPLES]
        ],
    )


def _sum(a: Audit, b: Audit) -> Audit:
    """The counts of two audits' decisions and events together."""
    counts = {f.name: getattr(a, f.name) + getattr(b, f.name) for f in fields(Audit)}
    return Audit(**{**counts, "examples": counts["examples"][:_MAX_EXAMPLES]})


def _with_rules(found: Audit, rules: RulesAudit) -> Audit:
    reason = "other rules fire, or another outcome follows"
    return _sum(
        found,
        Audit(
            mismatches=rules.mismatches,
            examples=[Mismatch("", decision, (), reason) for decision in rules.examples],
            rule_decisions=rules.decisions,
            rule_mismatches=rules.mismatches,
            unknown_rules=sum(rules.unknown.values()),
        ),
    )


def _bits(values: Floats) -> Integers:
    """The bytes of float64s as integers, with one NaN for all, as in JSON."""
    values = np.where(np.isnan(values), np.nan, values)
    return values.view(np.int64)


def _example(decisions: pa.Table, i: int, differs: np.ndarray, reason: str) -> Mismatch:
    return Mismatch(
        decisions["transaction_id"][i].as_py(),
        decisions["decision_id"][i].as_py(),
        tuple(FEATURES[k] for k in np.nonzero(differs)[0]),
        reason,
    )


def _reason(unknown_seq: bool, wrong_outcome: bool) -> str:
    if unknown_seq:
        return "a logged sequence is not among the events"
    return "the outcome differs" if wrong_outcome else "the vector differs"
