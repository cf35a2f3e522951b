"""The secrets of Docker Compose, which its `.env` hands to the containers that need each.

A password an account, and what each engine knows of the accounts: the same texts that it reads
under `whiteboard up`, base64, because an `.env` file has one line a value.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256

from infra.local.accounts import Account, nats_authorization, redis_users, s3_identities
from services.platform.access import OPERATOR, Access
from services.platform.design import SCHEDULER, WALKTHROUGH, Design, accounts
from services.platform.models.checks.signature import new_pair
from services.platform.secret_files import new_secret
from services.platform.settings import Settings

PAGE_TOKEN = "WHITEBOARD_PAGE_TOKEN"
HEALTH_PASSWORD = "WHITEBOARD_COMPOSE_HEALTH_PASSWORD"
STORE_KEY = "WHITEBOARD_STORE_KEY"
TOKENS = ("WHITEBOARD_WEBHOOK_TOKEN", "WHITEBOARD_LABEL_TOKEN", "WHITEBOARD_CLIENT_TOKEN")
# The key that promotion signs models with, and the one by which serving verifies them.
PAIR = ("WHITEBOARD_COMPOSE_SIGNING_KEY", "WHITEBOARD_COMPOSE_VERIFY_KEY")
# What engines know of accounts.
ENGINES = tuple(f"WHITEBOARD_COMPOSE_{engine}_ACCOUNTS" for engine in ("NATS", "REDIS", "S3"))
# Their containers run commands of people, and train: with the operator's account.
OPERATORS = (SCHEDULER.name, WALKTHROUGH.name)


def compose_accounts(designs: Sequence[Design]) -> dict[str, Access]:
    """The accounts in Compose besides the operator: a process's, and those of the simulators."""
    processes = {n: access for n, access in accounts(designs).items() if n not in OPERATORS}
    return processes | {simulator(one): one.simulator_access for one in designs}


def simulator(design: Design) -> str:
    """Name of the account of a design's simulator."""
    return f"{design.name}-simulator"


def password_name(account: str) -> str:
    """The variable with an account's password.

    >>> password_name("lake-writer"), password_name("operator")
    ('WHITEBOARD_COMPOSE_LAKE_WRITER_PASSWORD', 'WHITEBOARD_COMPOSE_PASSWORD')
    """
    name = "" if account == OPERATOR else f"{account.upper().replace('-', '_')}_"
    return f"WHITEBOARD_COMPOSE_{name}PASSWORD"


def compose_secrets(
    designs: Sequence[Design], known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """All secrets by variable: those that are known, new ones, and what follows from them."""
    declared = compose_accounts(designs)
    passwords = [password_name(account) for account in (OPERATOR, *declared)]
    random = (*passwords, HEALTH_PASSWORD, STORE_KEY, *TOKENS, PAGE_TOKEN)
    made = {name: new_secret() for name in random} | dict(zip(PAIR, new_pair(), strict=True))
    given = made | {name: value for name, value in (known or {}).items() if name in made}
    everyone = [
        Account(OPERATOR, given[password_name(OPERATOR)], None),
        *(Account(name, given[password_name(name)], access) for name, access in declared.items()),
    ]
    texts = (
        nats_authorization(everyone),
        f"user default off\n{_health(given[HEALTH_PASSWORD])}{redis_users(everyone)}",
        s3_identities(Settings(bucket="lake", inbox="inbox", results="results"), everyone),
    )
    encoded = (b64encode(text.encode()).decode() for text in texts)
    return given | dict(zip(ENGINES, encoded, strict=True))


def _health(password: str) -> str:
    """The account of Redis's health check."""
    return f"user health on #{sha256(password.encode()).hexdigest()} resetchannels +ping\n"
