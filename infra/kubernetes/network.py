"""Who reaches whom: from what each process declares in its `Access`, and nothing else.

Everything is refused in both directions first. An arrow from a process to an engine is allowed at
both of its ends: the process may go out to that engine, and the engine lets that process in.
"""

from collections.abc import Mapping, Sequence

from infra.kubernetes.names import (
    ENGINES_NAMESPACE,
    HTTP_PORT,
    NAME_LABEL,
    NAMESPACE,
    NATS_MONITOR_PORT,
    NATS_PORT,
    REDIS_PORT,
    REGISTRY,
    REGISTRY_PORT,
    S3_PORT,
    Manifest,
    container_port,
    labels,
    manifest,
    selector,
)
from infra.kubernetes.pods import OPERATOR_LABEL, TRAINING_LABEL
from services.platform.access import Access
from services.platform.design import HttpApp, Process
from services.platform.settings import Settings

# The pods of each engine, as its chart or operator labels them, and where they listen.
ENGINES = {
    "nats": ({NAME_LABEL: "nats", "app.kubernetes.io/component": "nats"}, NATS_PORT),
    "redis": ({"app": "redis"}, REDIS_PORT),
    "seaweedfs": ({NAME_LABEL: "seaweedfs", "app.kubernetes.io/component": "s3"}, S3_PORT),
}
# The part of SeaweedFS that sends its notifications.
_FILER = {NAME_LABEL: "seaweedfs", "app.kubernetes.io/component": "filer"}
_NAMESPACE_NAME = "kubernetes.io/metadata.name"
# The cluster's owner gives these labels to the namespaces of gateways and of Prometheus.
CLIENTS, METRICS = {"whiteboard/clients": "true"}, {"whiteboard/metrics": "true"}
_KEDA = {_NAMESPACE_NAME: "keda"}


def engines_of(access: Access) -> tuple[str, ...]:
    """The engines that a process needs.

    >>> engines_of(Access(redis="read", loads=("lake",)))
    ('redis', 'seaweedfs')
    """
    needs = {
        "nats": access.nats_publish or access.listens,
        "redis": access.redis,
        "seaweedfs": access.loads or access.stores,
    }
    return tuple(engine for engine in ENGINES if needs[engine])


def policies(processes: Sequence[HttpApp | Process], config: Settings) -> list[Manifest]:
    """All network policies."""
    apps = [process.name for process in processes if isinstance(process, HttpApp)]
    return [
        *(_refuse_all(), _names()),
        *(_process(process, config) for process in processes),
        *(_operator(apps), _training(), _registry()),
        *(_refuse_others(),),
        *(_engine(engine, processes) for engine in ENGINES),
    ]


def _process(process: HttpApp | Process, config: Settings) -> Manifest:
    port = container_port(process, config)
    callers = [_namespaces(METRICS)]
    if isinstance(process, HttpApp):
        callers += [_namespaces(CLIENTS), _pods(OPERATOR_LABEL)]
        callers += [_engine_pods(_FILER)] if process.object_events else []
    return _policy(
        process.name,
        labels(process.name),
        ingress=[{"from": callers, "ports": _ports(port)}],
        egress=[_to_engine(engine) for engine in engines_of(process.access)],
    )


def _operator(apps: Sequence[str]) -> Manifest:
    """Commands: all engines, and the services, whose latency they measure."""
    to_apps = {"to": [_named(apps)], "ports": _ports(HTTP_PORT)}
    return _policy("operator", OPERATOR_LABEL, egress=[*map(_to_engine, ENGINES), to_apps])


def _training() -> Manifest:
    to_registry = {"to": [_pods(labels(REGISTRY))], "ports": _ports(REGISTRY_PORT)}
    return _policy("training", TRAINING_LABEL, egress=[to_registry])


def _registry() -> Manifest:
    """It has no passwords: who reaches it may change it."""
    callers = {"from": [_pods(TRAINING_LABEL)], "ports": _ports(REGISTRY_PORT)}
    return _policy(REGISTRY, labels(REGISTRY), ingress=[callers])


def _refuse_all() -> Manifest:
    return _policy("refuse-all", {}, ingress=[], egress=[])


def _names() -> Manifest:
    """Every pod may ask the cluster's name server."""
    server = {**_namespaces({_NAMESPACE_NAME: "kube-system"}), **_pods({"k8s-app": "kube-dns"})}
    ports = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    return _policy("name-server", {}, egress=[{"to": [server], "ports": ports}])


def _refuse_others() -> Manifest:
    """Servers of one engine, and their operators, know each other; no other pod reaches them."""
    within = {"from": [_pods({})]}
    return _policy("engines", {}, ENGINES_NAMESPACE, ingress=[within])


def _engine(engine: str, processes: Sequence[HttpApp | Process]) -> Manifest:
    chosen, port = ENGINES[engine]
    ours = _namespaces({_NAMESPACE_NAME: NAMESPACE})
    callers = [process.name for process in processes if engine in engines_of(process.access)]
    allowed = [{**ours, **_named(callers)}, {**ours, **_pods(OPERATOR_LABEL)}]
    ingress: list[Manifest] = [{"from": allowed, "ports": _ports(port)}]
    if engine == "nats":
        watchers = [_namespaces(_KEDA), _namespaces(METRICS)]
        ingress.append({"from": watchers, "ports": _ports(NATS_MONITOR_PORT)})
    return _policy(engine, chosen, ENGINES_NAMESPACE, ingress=ingress)


def _to_engine(engine: str) -> Manifest:
    chosen, port = ENGINES[engine]
    return {"to": [_engine_pods(chosen)], "ports": _ports(port)}


def _engine_pods(chosen: Mapping[str, str]) -> Manifest:
    return {**_namespaces({_NAMESPACE_NAME: ENGINES_NAMESPACE}), **_pods(chosen)}


def _namespaces(chosen: Mapping[str, str]) -> Manifest:
    return {"namespaceSelector": selector(dict(chosen))}


def _pods(chosen: Mapping[str, str]) -> Manifest:
    return {"podSelector": selector(dict(chosen)) if chosen else {}}


def _named(names: Sequence[str]) -> Manifest:
    chosen = {"key": NAME_LABEL, "operator": "In", "values": list(names)}
    return {"podSelector": {"matchExpressions": [chosen]}}


def _ports(port: int) -> list[Manifest]:
    return [{"protocol": "TCP", "port": port}]


def _policy(
    name: str, chosen: Mapping[str, str], namespace: str = NAMESPACE, **rules: list[Manifest]
) -> Manifest:
    """A policy for pods with the given labels; a direction that it names is refused otherwise."""
    spec = {
        **_pods(chosen),
        "policyTypes": [direction.capitalize() for direction in rules],
        **rules,
    }
    return manifest("networking.k8s.io/v1", "NetworkPolicy", name, spec, namespace=namespace)
