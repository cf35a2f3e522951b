"""The accounts at the engines, as each engine's configuration has them.

What is not declared in a process's `Access` is refused by the engine.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from services.platform.access import CLUSTER_REDIS_RULES, OPERATOR_REDIS_RULES, Access
from services.platform.secret_files import make_secret
from services.platform.settings import Settings

_EVERY_ACTION = ["Admin", "Read", "Write", "List", "Tagging"]
_NOWHERE = "nowhere"


@dataclass(frozen=True)
class Account:
    """An account at the engines. Without `access` it may do everything."""

    name: str
    password: str
    access: Access | None


def read_accounts(settings: Settings, services: Mapping[str, Access]) -> list[Account]:
    """The account of `settings`, and one a service; passwords are made where they are missing."""
    given = settings.password.get_secret_value()
    own = Account(settings.user, given or make_secret(settings.home, settings.user), None)
    others = [
        Account(name, make_secret(settings.home, name), access)
        for name, access in services.items()
        if name != settings.user
    ]
    return [own, *others]


def nats_authorization(accounts: Iterable[Account]) -> str:
    """The block of NATS's configuration that has them."""
    users = "".join(f"    {_nats_user(one)}\n" for one in accounts)
    return f"authorization {{\n  users: [\n{users}  ]\n}}\n"


def redis_users(accounts: Iterable[Account], of_cluster: bool = False) -> str:
    """Lines of Redis's access control list: no account may change the configuration.

    Args:
        of_cluster: Whether they may follow a cluster's slots, too.
    """
    more = f" {CLUSTER_REDIS_RULES}" if of_cluster else ""
    return "".join(
        redis_user(one.name, one.password, f"{rules}{more}")
        for one in accounts
        if (rules := one.access.redis_rules if one.access else OPERATOR_REDIS_RULES)
    )


def redis_user(name: str, password: str, rules: str) -> str:
    """A line of Redis's access control list."""
    return f"user {name} on #{sha256(password.encode()).hexdigest()} resetchannels {rules}\n"


def s3_identities(settings: Settings, accounts: Iterable[Account]) -> str:
    """SeaweedFS's configuration of S3, JSON."""
    buckets = {"lake": settings.bucket, "inbox": settings.inbox, "results": settings.results}
    identities = [
        {
            "name": one.name,
            "credentials": [{"accessKey": one.name, "secretKey": one.password}],
            "actions": one.access.s3_actions(buckets) if one.access else _EVERY_ACTION,
        }
        for one in accounts
    ]
    return json.dumps({"identities": identities}, indent=2)


def quoted(text: str) -> str:
    r"""A string of NATS's, Redis's and SeaweedFS's configuration, without control characters.

    >>> print(quoted("it's 50%"), quoted('"'))
    "it's 50%" "\""
    """
    escaped = text.replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}"'


def _nats_user(account: Account) -> str:
    login = f"user: {quoted(account.name)}, password: {quoted(account.password)}"
    if account.access is None:
        return f"{{{login}}}"
    allowed = {
        "publish": account.access.nats_publish,
        "subscribe": account.access.nats_subscribe(account.name),
    }
    # JSON is NATS' configuration, too; without a subject, an empty list would allow all of them.
    permissions = {name: {"allow": subjects or [_NOWHERE]} for name, subjects in allowed.items()}
    return f"{{{login}, permissions: {json.dumps(permissions)}}}"
