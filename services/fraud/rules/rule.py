"""A rule and a set of rules, as data."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from services.fraud.ingestion.events import StrictModel

# A set travels in one message of the stream, whose limit is 1 MB.
MAX_RULES = 200
MAX_EXPRESSION = 500

Action = Literal["decline", "review", "approve", "observe"]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class Rule(StrictModel):
    """One rule.

    Attributes:
        id: Unique in its set, and the same rule in every set.
        when: CEL expression; the rule fires where it is true. See `expression.NUMBERS`, `TEXTS`.
        action: What it does when it fires; `observe` rules only count.
        reason: Why, in words for an analyst.
        owner: Who answers for it.
        trial: What an `observe` rule would do; the back-test measures it so.
        valid_from: First event time at which it may fire; None: always.
        valid_until: Event time from which on it does not fire; None: never.
    """

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,59}$")]
    when: Annotated[str, StringConstraints(min_length=1, max_length=MAX_EXPRESSION)]
    action: Action
    reason: Text
    owner: Text
    trial: Literal["decline", "review", "approve"] = "decline"
    valid_from: AwareDatetime | None = None
    valid_until: AwareDatetime | None = None

    @model_validator(mode="after")
    def _valid_at_some_time(self) -> "Rule":
        if self.valid_from and self.valid_until and self.valid_from >= self.valid_until:
            raise ValueError("valid_until must be later than valid_from")
        return self


class ListReference(StrictModel):
    """A list of values by the digest of its content, and its number of entries."""

    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    entries: Annotated[int, Field(ge=0)]


class RuleSet(StrictModel):
    """Rules, and the lists that they name. Immutable: a change is another set.

    Attributes:
        rules: In the order of the file; their order has no meaning.
        lists: By name.
    """

    rules: Annotated[tuple[Rule, ...], Field(max_length=MAX_RULES)]
    lists: Mapping[Name, ListReference] = {}

    @model_validator(mode="after")
    def _unique(self) -> "RuleSet":
        seen: set[str] = set()
        for rule in self.rules:
            if rule.id in seen:
                raise ValueError(f"two rules have the id {rule.id!r}: rename one")
            seen.add(rule.id)
        return self

    @property
    def digest(self) -> str:
        """Hash of the content."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def label(self, version: int) -> str:
        """How decisions name the set: its version and the start of its digest.

        >>> RuleSet(rules=()).label(3)
        '3:f1cdd6be'
        """
        return f"{version}:{self.digest[:8]}"
