"""The Secrets of an installation: `python -m infra.kubernetes.secrets | kubectl apply -f -`.

Each process has an account of its own at the engines, as under `whiteboard up`: its pod mounts that
password alone, and the engines' configuration, made of the same declarations, refuses the rest. The
passwords are random, and kept in the home, so that a second run prints the same ones.
"""

import sys
from collections.abc import Sequence
from hashlib import sha256

import yaml

from infra.kubernetes.generate import processes
from infra.kubernetes.names import (
    ENGINES_NAMESPACE,
    NAMESPACE,
    Manifest,
    account_secret,
    labels,
)
from infra.kubernetes.pods import PUBLIC_KEY
from infra.local.accounts import nats_authorization, read_accounts, redis_users, s3_identities
from services.platform.design import Design, accounts, registered
from services.platform.models.checks.signature import make_key
from services.platform.secret_files import make_secret, read_secret
from services.platform.settings import (
    CLIENT_TOKEN,
    LABEL_TOKEN,
    PROMOTION,
    WEBHOOK_TOKEN,
    Settings,
    settings,
)

# Redis's operator has the user `default`, which our processes do not use.
_REDIS_OPERATOR = "redis-operator"


def secret_objects(config: Settings, designs: Sequence[Design]) -> list[Manifest]:
    """Secrets of both namespaces, made in the home where they are missing."""
    names = {process.name for _, process in processes(designs)}
    services = {name: access for name, access in accounts(designs).items() if name in names}
    known = read_accounts(config, services)
    token = make_secret(config.home, WEBHOOK_TOKEN)
    others = {
        WEBHOOK_TOKEN: token,
        CLIENT_TOKEN: make_secret(config.home, CLIENT_TOKEN),
        LABEL_TOKEN: make_secret(config.home, LABEL_TOKEN),
        PROMOTION: make_key(config),
        PUBLIC_KEY: read_secret(config.home, PUBLIC_KEY),
    }
    redis = make_secret(config.home, _REDIS_OPERATOR)
    hashed = sha256(redis.encode()).hexdigest()
    users = f"user default on #{hashed} ~* &* +@all\n{redis_users(known)}"
    return [
        *(_mounted(one.name, one.password) for one in known),
        *(_mounted(name, value) for name, value in others.items()),
        _engine("nats-accounts", {"accounts.conf": nats_authorization(known)}),
        _engine("redis-accounts", {"user.acl": users}),
        _engine(_REDIS_OPERATOR, {"password": redis}),
        _engine("seaweedfs-accounts", {"seaweedfs_s3_config": s3_identities(config, known)}),
        _engine("seaweedfs-webhook", {"token": token}),
    ]


def _mounted(name: str, value: str) -> Manifest:
    """A secret of a home: the pod finds a file of that name in its folder `secrets`."""
    return _secret(account_secret(name), NAMESPACE, {name: value})


def _engine(name: str, values: dict[str, str]) -> Manifest:
    return _secret(name, ENGINES_NAMESPACE, values)


def _secret(name: str, namespace: str, values: dict[str, str]) -> Manifest:
    metadata = {"name": name, "namespace": namespace, "labels": labels(name)}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}


def main() -> None:
    """Print them; not to a terminal, where passwords would stay on the screen."""
    if sys.stdout.isatty():
        sys.exit("this prints passwords: pipe it into `kubectl apply -f -`")
    config = settings()
    made = secret_objects(config, registered(config))
    yaml.safe_dump_all(made, sys.stdout, sort_keys=False)


if __name__ == "__main__":
    main()
