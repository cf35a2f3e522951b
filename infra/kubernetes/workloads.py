"""A process as Kubernetes objects: a Deployment or StatefulSet, and what scales and guards it."""

from infra.kubernetes.names import (
    HTTP_PORT,
    NATS_MONITOR,
    REGISTRY,
    REGISTRY_PORT,
    Manifest,
    labels,
    manifest,
    selector,
)
from infra.kubernetes.pods import command_pod, container, pod, probe, process_pod
from infra.kubernetes.sizes import REGISTRY as REGISTRY_SIZE
from infra.kubernetes.sizes import SIMULATOR, workload
from services.platform.design import WORKER_NICE, HttpApp, Process
from services.platform.settings import Settings

_APPS = "apps/v1"
# The StatefulSet controller's label: which replica a pod is.
_INDEX = "metadata.labels['apps.kubernetes.io/pod-index']"
# Overlays set WORKERS to the number of replicas; the first replica sees to it.
_SHARERS = ("--worker", "$(WORKER)", "--workers", "$(WORKERS)")
# Of what replicas share, an autoscaler keeps between these numbers; overlays move them.
_MIN_REPLICAS, _MAX_REPLICAS = 2, 6


def process_objects(owner: str, process: HttpApp | Process, config: Settings) -> list[Manifest]:
    """All objects of a process.

    A process that owns a position in a stream is a StatefulSet: Kubernetes starts at most one pod
    of an identity, even while a node does not answer. Replicas that share the work are a
    Deployment, with an autoscaler and a disruption budget.
    """
    plan, name = workload(process.name), process.name
    if plan.scaling == "shards":
        return _sharers(name, process_pod(owner, process, config, _SHARERS))
    template = process_pod(owner, process, config)
    if plan.scaling != "any":
        return _owner(name, template, replicas=1)
    made = [_deployment(name, template), _budget(name, labels(name), "25%")]
    if isinstance(process, HttpApp):
        made.append(_service(name, HTTP_PORT))
    if plan.cpu_target:
        made.append(_cpu_autoscaler(name, plan.cpu_target))
    if plan.stream:
        made.append(_backlog_autoscaler(name, *plan.stream, plan.backlog))
    return made


def registry_objects() -> list[Manifest]:
    """The model registry: MLflow with SQLite on one disk, as in Compose."""
    command = (
        "mlflow", "server", "--host", "0.0.0.0", "--port", str(REGISTRY_PORT), "--workers", "1",
        "--allowed-hosts", f"{REGISTRY}:{REGISTRY_PORT}",
        "--backend-store-uri", "sqlite:////data/mlflow.db",
        "--artifacts-destination", "/data/artifacts",
    )  # fmt: skip
    main = container(REGISTRY, "train", command, REGISTRY_SIZE)
    main["ports"] = [{"name": "http", "containerPort": REGISTRY_PORT}]
    # Only the registry runs: its job workers would take another gigabyte.
    main["env"] = [
        {"name": "MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "value": "false"},
        {"name": "MLFLOW_DISABLE_TELEMETRY", "value": "true"},
    ]
    main["startupProbe"] = main["readinessProbe"] = probe("/health", period=3, failures=40)
    main["livenessProbe"] = probe("/health", period=10, failures=6)
    template = pod(REGISTRY, main, [], WORKER_NICE, claim=REGISTRY)
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "10Gi"}},
    }
    return [
        _stateful_set(REGISTRY, template, replicas=1),
        _service(REGISTRY, REGISTRY_PORT),
        manifest("v1", "PersistentVolumeClaim", REGISTRY, claim),
    ]


def simulator_objects() -> list[Manifest]:
    """Simulated traffic, for a cluster without any: as in Compose, ten minutes at a time."""
    commands = {
        "simulator": ("fraud", "--rate", "50"),
        "stations": ("cv", "--rate", "2", "--post-rate", "5"),
    }
    made = []
    for name, options in commands.items():
        command = ("whiteboard", "simulate", *options, "--seconds", "600")
        made.append(_deployment(name, command_pod(name, command, SIMULATOR)))
    return made


def _deployment(name: str, template: Manifest) -> Manifest:
    """Without a number of replicas, which an autoscaler owns; until it acts there is one."""
    surge = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}}
    spec = {"selector": selector(labels(name)), "strategy": surge, "template": template}
    return manifest(_APPS, "Deployment", name, spec)


def _owner(name: str, template: Manifest, replicas: int) -> list[Manifest]:
    """A StatefulSet with the headless Service that it requires."""
    headless = {"clusterIP": "None", "selector": dict(template["metadata"]["labels"])}
    return [
        _stateful_set(name, template, replicas),
        manifest("v1", "Service", name, headless),
    ]


def _sharers(name: str, template: Manifest) -> list[Manifest]:
    """A StatefulSet whose replicas share the work: each knows which one it is."""
    [main] = template["spec"]["containers"]
    main["env"] += [
        {"name": "WORKER", "valueFrom": {"fieldRef": {"fieldPath": _INDEX}}},
        {"name": "WORKERS", "value": "1"},
    ]
    return [*_owner(name, template, replicas=1), _budget(name, labels(name), 1)]


def _stateful_set(name: str, template: Manifest, replicas: int) -> Manifest:
    spec = {
        "replicas": replicas,
        "serviceName": name,
        "podManagementPolicy": "Parallel",
        "selector": selector(template["metadata"]["labels"]),
        "template": template,
    }
    return manifest(_APPS, "StatefulSet", name, spec)


def _service(name: str, port: int) -> Manifest:
    ports = [{"name": "http", "port": port, "targetPort": "http"}]
    return manifest("v1", "Service", name, {"selector": labels(name), "ports": ports})


def _budget(name: str, chosen: dict[str, str], max_unavailable: int | str) -> Manifest:
    """How many pods a drain may take at once: never none, or no node could be drained.

    Args:
        max_unavailable: Of one pod, 25 % is one.
    """
    spec = {"maxUnavailable": max_unavailable, "selector": selector(chosen)}
    return manifest("policy/v1", "PodDisruptionBudget", name, spec)


def _cpu_autoscaler(name: str, per_cent: int) -> Manifest:
    target = {"type": "Utilization", "averageUtilization": per_cent}
    spec = {
        "scaleTargetRef": _target(name),
        "minReplicas": _MIN_REPLICAS,
        "maxReplicas": _MAX_REPLICAS,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        # Up at once; down when it has been quiet for five minutes, a tenth a minute.
        "behavior": {
            "scaleUp": {"stabilizationWindowSeconds": 0},
            "scaleDown": {
                "stabilizationWindowSeconds": 300,
                "policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}],
            },
        },
    }
    return manifest("autoscaling/v2", "HorizontalPodAutoscaler", name, spec)


def _backlog_autoscaler(name: str, stream: str, consumer: str, backlog: int) -> Manifest:
    """KEDA's scaler: what the consumer has not acknowledged yet, divided by `backlog`."""
    trigger = {
        "type": "nats-jetstream",
        "metadata": {
            "natsServerMonitoringEndpoint": NATS_MONITOR,
            "account": "$G",
            "stream": stream,
            "consumer": consumer,
            "lagThreshold": str(backlog),
        },
    }
    spec = {
        "scaleTargetRef": _target(name),
        "pollingInterval": 5,
        "minReplicaCount": _MIN_REPLICAS,
        "maxReplicaCount": _MAX_REPLICAS,
        # Without an answer from NATS, as many as at the least.
        "fallback": {"failureThreshold": 6, "replicas": _MIN_REPLICAS},
        "triggers": [trigger],
    }
    return manifest("keda.sh/v1alpha1", "ScaledObject", name, spec)


def _target(name: str) -> Manifest:
    return {"apiVersion": _APPS, "kind": "Deployment", "name": name}
