"""Each container has the secrets that its process declares, and runs hardened."""

import re
from pathlib import Path

import pytest
import yaml

from infra.local.compose import (
    ENGINES,
    HEALTH_PASSWORD,
    OPERATORS,
    PAGE_TOKEN,
    PAIR,
    STORE_KEY,
    compose_accounts,
    compose_secrets,
    password_name,
    simulator,
)
from services.designs import DESIGNS
from services.platform.access import OPERATOR

ROOT = Path(__file__).resolve().parents[2]
FILE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
COMPOSE = FILE["services"]
FRAUD, CV = (simulator(design) for design in DESIGNS)
ACCOUNTS = compose_accounts(DESIGNS)
# By service, where it is not the same.
ACCOUNT = {"simulator": FRAUD, "stations": CV}
ACCOUNT |= {f"feature-worker-{number}": "feature-worker" for number in (1, 2, 3)}
OURS = {name: ACCOUNT.get(name, name) for name in COMPOSE if ACCOUNT.get(name, name) in ACCOUNTS}
NATS, REDIS, STORE = ENGINES
OPERATES = {password_name(OPERATOR), *PAIR}
LABELS, WEBHOOK = "WHITEBOARD_LABEL_TOKEN", "WHITEBOARD_WEBHOOK_TOKEN"
CLIENTS = "WHITEBOARD_CLIENT_TOKEN"
# Of `.env`, too, but no secrets.
PLAIN = {"WHITEBOARD_FEATURE_WORKERS", "WHITEBOARD_REQUIRE_TOKENS"}
OTHERS = {
    "bootstrap": OPERATES,
    "scheduler": {*OPERATES, LABELS},
    # Its token of changes is what others call the admin's.
    "walkthrough": {*OPERATES, CLIENTS, LABELS, PAGE_TOKEN},
    "load": {CLIENTS, LABELS},
    "nats": {NATS},
    "redis": {REDIS, HEALTH_PASSWORD},
    "seaweedfs": {STORE, STORE_KEY, WEBHOOK},
    **{name: set() for name in ("owner", "mlflow", "prometheus", "coordinator")},
    **{f"bank-{number}": set() for number in range(1, 5)},
}
ENGINE_SERVICES = ("nats", "redis", "seaweedfs", "prometheus")


def asked(value: object) -> set[str]:
    """Variables of `.env` in a part of the file."""
    if isinstance(value, dict):
        return set().union(*map(asked, value.values()))
    if isinstance(value, list):
        return set().union(*map(asked, value))
    return set(re.findall(r"\$\{(\w+)", str(value)))


def secrets_of(service: dict) -> set[str]:
    return asked({name: part for name, part in service.items() if name != "build"}) - PLAIN


def test_each_service_is_checked_and_each_account_is_used():
    assert set(OURS) | set(OTHERS) == set(COMPOSE)
    assert not set(OURS) & set(OTHERS)
    assert set(OURS.values()) == set(ACCOUNTS)
    assert set(OPERATORS) <= set(OTHERS)


@pytest.mark.parametrize("name", OURS)
def test_a_container_has_the_secrets_that_its_process_declares(name):
    access = ACCOUNTS[OURS[name]]
    wanted = {password_name(OURS[name]), *(f"WHITEBOARD_{t.upper()}" for t in access.tokens)}
    wanted |= {PAIR[1]} if "models" in access.watches else set()
    assert secrets_of(COMPOSE[name]) == wanted
    environment = COMPOSE[name]["environment"]
    assert environment["WHITEBOARD_USER"] == OURS[name]
    assert asked(environment["WHITEBOARD_PASSWORD"]) == {password_name(OURS[name])}


@pytest.mark.parametrize("name", OTHERS)
def test_other_containers_have_those_that_are_listed(name):
    assert secrets_of(COMPOSE[name]) == OTHERS[name]


def test_no_two_accounts_and_no_two_tokens_are_the_same_secret():
    made = compose_secrets(DESIGNS)
    assert len(set(made.values())) == len(made)
    kept = compose_secrets(DESIGNS, made)
    assert kept == made
    for account in (OPERATOR, *ACCOUNTS):
        assert made[password_name(account)] != made[HEALTH_PASSWORD]


@pytest.mark.parametrize("name", COMPOSE)
def test_a_container_runs_hardened(name):
    service = COMPOSE[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"] <= 1024
    assert not service.get("privileged")
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    if name == "owner":
        # It gives the engines' volumes to their user, and has no network.
        assert service["cap_add"] == ["CHOWN", "DAC_READ_SEARCH"]
        assert service["network_mode"] == "none"
    elif name in ENGINE_SERVICES:
        assert service["user"] == COMPOSE["owner"]["entrypoint"][2] == "10001:10001"
        assert service["depends_on"] == {"owner": {"condition": "service_completed_successfully"}}
    else:
        # The Dockerfile's own user.
        assert "user" not in service
        assert service["image"].startswith("whiteboard-")
        assert "USER whiteboard" in (ROOT / "Dockerfile").read_text()
    assert "cap_add" not in service or name == "owner"


def test_the_owner_of_volumes_knows_those_of_the_engines():
    mounts = [volume.split(":") for volume in COMPOSE["owner"]["volumes"]]
    assert mounts == [[name, f"/volumes/{name}"] for name in ENGINE_SERVICES]
    for name in ENGINE_SERVICES:
        # Without `nocopy` Docker gives a new volume to the image's user.
        assert any(re.fullmatch(f"{name}:/.*:nocopy", v) for v in COMPOSE[name]["volumes"])


def test_the_registry_is_reached_by_those_that_train_alone():
    assert "ports" not in COMPOSE["mlflow"]
    assert FILE["networks"]["registry"] == {"internal": True}
    on_it = {name for name, s in COMPOSE.items() if "registry" in s.get("networks", [])}
    assert on_it == {"mlflow", "bootstrap", *OPERATORS}
