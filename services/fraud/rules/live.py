"""The rules that a scorer applies: it follows what is published, and keeps what it has.

At the start it takes, in this order, the last set it knew, from its folder; or the shipped rules.
What is announced is checked before it takes over: a set that does not compile, names what there is
not or takes too long is refused, and the old one stays. NATS may be away at any time.
"""

import asyncio
import logging
from contextlib import suppress
from pathlib import Path

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from prometheus_client import Counter, Gauge
from pydantic import ValidationError

from services.fraud.ingestion.events import Transaction
from services.fraud.rules import store
from services.fraud.rules.evaluation import CompiledRules
from services.fraud.rules.files import Rules, shipped_rules
from services.fraud.rules.rule import Rule, RuleSet
from services.fraud.rules.store import Announcement
from services.platform.streaming.messages import validation_message
from services.platform.types import Floats

log = logging.getLogger(__name__)

RULE_HITS = Counter("rule_hits_total", "Decisions in which a rule fired", ["rule", "action"])
RULE_ERRORS = Gauge("rule_errors", "Failed evaluations of rules since the set was loaded")
RULES_VERSION = Gauge("rules_version", "Version of the loaded rules; 0: those that are shipped")
RULES_REFUSED = Counter("rules_refused_total", "Sets of rules refused when loading")

# A new set acts within a second.
_POLL_S = 0.5


class LiveRules:
    """The rules in use. A request reads `rules` once and uses it to its end.

    Attributes:
        rules: The compiled set.
        refused: Why the last set was refused, empty if it was not.
    """

    def __init__(self, folder: Path) -> None:
        """Load the last known set, or the shipped one.

        Args:
            folder: Keeps the last known set for the next start.
        """
        self._folder = folder
        self.refused = ""
        self._seen = 0
        self.rules, self._version = self._first()
        RULES_VERSION.set(self._version)

    def fired(self, transaction: Transaction, vector: Floats, score: float) -> list[Rule]:
        """The rules that fire, which are counted; see `CompiledRules.fired`."""
        fired = self.rules.fired(transaction, vector, score)
        for rule in fired:
            RULE_HITS.labels(rule.id, rule.action).inc()
        return fired

    def readiness(self) -> dict[str, bool | str | int]:
        """What `/readyz` shows."""
        errors = self.rules.errors
        failing = ", ".join(f"{rule} ({count})" for rule, count in errors.items())
        return {"rules": self.rules.label, "rules_refused": self.refused, "rules_failing": failing}

    async def watch(self, nc: Client) -> None:
        """Take each set that is announced. Runs until cancelled.

        It polls, as promotions are polled (ADR 5).
        """
        while True:
            await self.look(nc)
            RULE_ERRORS.set(sum(self.rules.errors.values()))
            await asyncio.sleep(_POLL_S)

    async def look(self, nc: Client) -> None:
        """Take the announced set, if it is another one and NATS answers."""
        with suppress(NatsError, OSError, TimeoutError):
            await self.follow(nc.jetstream())

    async def follow(self, js: JetStreamContext) -> None:
        """Take the announced set, if it is another one.

        Raises:
            nats.errors.Error, OSError: NATS did not answer, or has not stored a list yet; retry.
        """
        found = await store.announced(js)
        if found is None or found[0] == self._seen:
            return
        revision, data = found
        try:
            note = Announcement.model_validate_json(data)
            if note.rule_set.label(note.version) != self.rules.label:
                texts = await store.list_texts(js, note.rule_set)
                await asyncio.to_thread(self._take, note, Rules(note.rule_set, texts))
            self.refused = ""
        except ValidationError as error:
            self._refuse(f"the announced set is none: {validation_message(error)}")
        except ValueError as error:  # RuleRefused, ListRefused
            self._refuse(str(error))
        self._seen = revision

    def _take(self, note: Announcement, rules: Rules) -> None:
        compiled = _checked(note.version, rules)
        # Kept before it acts: a scorer that is killed now starts with the rules it decided by.
        try:
            self._keep(note, rules)
        except OSError as error:
            log.warning("the rules are not kept for the next start: %s", error)
        self.rules, self._version = compiled, note.version
        RULES_VERSION.set(note.version)
        log.info("rules: %s, %d rules", compiled.label, len(compiled.rules))

    def _refuse(self, reason: str) -> None:
        RULES_REFUSED.inc()
        log.error("rules refused, keeping %s: %s", self.rules.label, reason)
        self.refused = reason

    def _first(self) -> tuple[CompiledRules, int]:
        try:
            note = Announcement.model_validate_json((self._folder / "rules.json").read_bytes())
            return _checked(note.version, Rules(note.rule_set, self._texts(note.rule_set))), (
                note.version
            )
        except FileNotFoundError:
            pass  # the first start
        except (OSError, ValueError) as error:
            log.warning("the last known rules cannot be read, taking the shipped ones: %s", error)
        return _checked(0, shipped_rules()), 0

    def _texts(self, rule_set: RuleSet) -> dict[str, bytes]:
        digests = {reference.digest for reference in rule_set.lists.values()}
        return {digest: (self._folder / digest).read_bytes() for digest in digests}

    def _keep(self, note: Announcement, rules: Rules) -> None:
        """Lists first, so that the set never names one that is not there."""
        self._folder.mkdir(parents=True, exist_ok=True)
        files = {**rules.texts, "rules.json": note.model_dump_json().encode()}
        for name, data in files.items():
            partial = self._folder / f"{name}.partial"
            partial.write_bytes(data)
            partial.replace(self._folder / name)
        for path in self._folder.iterdir():
            if path.name not in files:
                path.unlink()


def _checked(version: int, rules: Rules) -> CompiledRules:
    compiled = CompiledRules(rules.rule_set, version, rules.values)
    compiled.check()
    return compiled
