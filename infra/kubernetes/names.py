"""Names that several manifests share: namespaces, ports, labels, and the common settings."""

from collections.abc import Sequence
from typing import Any

from services.platform.design import HttpApp, Process
from services.platform.settings import Settings

Manifest = dict[str, Any]

NAMESPACE, ENGINES_NAMESPACE = "whiteboard", "whiteboard-engines"
SETTINGS, REGISTRY = "settings", "mlflow"
# Every service listens here in its container, as in Compose.
HTTP_PORT, REGISTRY_PORT = 8080, 5000
NATS_PORT, NATS_MONITOR_PORT, REDIS_PORT, S3_PORT = 4222, 8222, 6379, 8333
# NATS' monitoring page, of the Service that its chart makes for the servers.
NATS_MONITOR = f"nats-headless.{ENGINES_NAMESPACE}.svc.cluster.local:{NATS_MONITOR_PORT}"
NAME_LABEL = "app.kubernetes.io/name"


def labels(name: str) -> dict[str, str]:
    """By which selectors find the pods of a process.

    >>> labels("scorer")
    {'app.kubernetes.io/name': 'scorer', 'app.kubernetes.io/part-of': 'whiteboard'}
    """
    return {NAME_LABEL: name, "app.kubernetes.io/part-of": NAMESPACE}


def selector(chosen: dict[str, str]) -> Manifest:
    """Selects pods by their labels."""
    return {"matchLabels": dict(chosen)}


def manifest(api: str, kind: str, name: str, spec: Manifest, **more: Any) -> Manifest:
    """An object of our namespace.

    Args:
        more: What its metadata has besides: other labels, another namespace.
    """
    metadata = {"name": name, "namespace": NAMESPACE, "labels": labels(name), **more}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec}


def account_secret(account: str) -> str:
    """Name of the Secret with an account's password, or with another secret of a home."""
    return f"account-{account}"


def container_port(process: HttpApp | Process, config: Settings) -> int:
    """Where a process listens in its container, or shows its metrics."""
    return HTTP_PORT if isinstance(process, HttpApp) else process.port(config)


def settings_values(apps: Sequence[HttpApp], config: Settings) -> dict[str, str]:
    """The settings that all pods share: where the engines and services are."""
    urls = {
        f"WHITEBOARD_{app.name.upper()}_{key}": value
        for app in apps
        for key, value in (("PORT", str(HTTP_PORT)), ("URL", f"http://{app.name}:{HTTP_PORT}"))
    }
    return {
        # Of its own network namespace.
        "WHITEBOARD_HOST": "0.0.0.0",
        # Under which the engines' namespace asks for them; a gateway's names come here, too.
        "WHITEBOARD_HOSTS": ",".join(f"{app.name}.{NAMESPACE}" for app in apps),
        "WHITEBOARD_NATS_HOST": f"nats.{ENGINES_NAMESPACE}",
        "WHITEBOARD_NATS_PORT": str(NATS_PORT),
        "WHITEBOARD_REDIS_HOST": f"redis-master.{ENGINES_NAMESPACE}",
        "WHITEBOARD_REDIS_PORT": str(REDIS_PORT),
        "WHITEBOARD_S3_ENDPOINT": f"http://seaweedfs-s3.{ENGINES_NAMESPACE}:{S3_PORT}",
        # CronJobs run the nights.
        "WHITEBOARD_NIGHT_UTC": "",
        "WHITEBOARD_SHARDS": str(config.shards),
        **urls,
    }
