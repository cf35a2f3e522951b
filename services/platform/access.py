"""What one account may do at the engines: the permission table is the sum of these declarations.

Each process declares its own in `design.py`; the engines' configuration follows from it. What is
not declared is refused by the engine.
"""

from dataclasses import dataclass
from typing import Literal

RedisAccess = Literal["", "read", "write"]

# What clients need to connect; scripts, configuration and other clients are nobody's.
_REDIS_ALWAYS = "+@connection -@dangerous -@scripting -@pubsub"
_REDIS = {
    "": "",
    "read": f"~* +@read {_REDIS_ALWAYS}",
    "write": f"~* +@read +@write +@transaction {_REDIS_ALWAYS}",
}


@dataclass(frozen=True, kw_only=True)
class Access:
    """What an account may do.

    Attributes:
        redis: Its access to the online store.
    """

    redis: RedisAccess = ""

    @property
    def redis_rules(self) -> str:
        """Rules of Redis' ACL; empty: it has no account there."""
        return _REDIS[self.redis]


NOTHING = Access()

OPERATOR = "operator"
# Of commands on this machine: they make streams, train, promote. No account has `@dangerous`.
OPERATOR_REDIS_RULES = f"{_REDIS['write']} +info +dbsize"
