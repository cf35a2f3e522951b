"""The pod of a process: restricted security, its account's password, probes, limits."""

from collections.abc import Mapping, Sequence

from infra.kubernetes.names import (
    NAMESPACE,
    REGISTRY,
    REGISTRY_PORT,
    SETTINGS,
    Manifest,
    account_secret,
    container_port,
    labels,
    selector,
)
from infra.kubernetes.sizes import TRAINING, Image, Size, Workload, workload
from services.platform.access import OPERATOR
from services.platform.design import DEFERRABLE_NICE, WORKER_NICE, HttpApp, Process
from services.platform.settings import (
    CLIENT_TOKEN,
    LABEL_TOKEN,
    PROMOTION,
    WEBHOOK_TOKEN,
    Settings,
)

# The user that the Dockerfile makes.
_USER = 10001
_HOME = "/data"
# The endpoints of a service lose a pod while it still answers: nothing is refused in between.
_DRAIN_S, _GRACE_S = 5, 45
# By nice value: where room is short, such as after the loss of a zone, the last goes first.
PRIORITIES = {0: "request-path", WORKER_NICE: "worker", DEFERRABLE_NICE: "deferrable"}
# Tokens that are files, by the setting that takes them.
_MOUNTED = {
    "client_token": CLIENT_TOKEN,
    "label_token": LABEL_TOKEN,
    "webhook_token": WEBHOOK_TOKEN,
}
# Tokens of people, by the setting that takes them; without the Secret the routes are closed.
_TOKENS = {"WHITEBOARD_ADMIN_TOKEN": "admin-token", "WHITEBOARD_ANALYST_TOKEN": "analyst-token"}
# By which serving verifies that a model was promoted; not secret.
PUBLIC_KEY = f"{PROMOTION}.public"
# What network policies know pods by: those with the operator's account, and those that train.
OPERATOR_LABEL, TRAINING_LABEL = {"whiteboard/account": OPERATOR}, {"whiteboard/trains": "true"}


def process_pod(
    owner: str, process: HttpApp | Process, config: Settings, arguments: Sequence[str] = ()
) -> Manifest:
    """Template of a process's pods.

    Args:
        owner: As `services.platform.run` calls it: its design, or "shared".
        arguments: What its command line has besides.
    """
    plan = workload(process.name)
    port = container_port(process, config)
    run = ("python", "-m", "services.platform.run", owner, process.name)
    main = container(process.name, plan.image, (*run, *plan.command, *arguments), plan.size)
    main |= {
        "env": _environment(process, plan),
        "ports": [{"name": "http", "containerPort": port}],
        **_probes(process),
    }
    secrets = [process.name, PUBLIC_KEY, *([OPERATOR, PROMOTION] if plan.trains else [])]
    if isinstance(process, HttpApp):
        main["lifecycle"] = {"preStop": {"sleep": {"seconds": _DRAIN_S}}}
    secrets += [_MOUNTED[token] for token in process.access.tokens if token in _MOUNTED]
    template = pod(process.name, main, secrets, process.nice)
    if plan.trains:
        template["metadata"]["labels"] |= OPERATOR_LABEL | TRAINING_LABEL
    template["metadata"]["annotations"] = {
        "prometheus.io/scrape": "true",
        "prometheus.io/path": "/metrics",
        "prometheus.io/port": str(port),
    }
    if plan.scaling == "any":
        template["spec"]["topologySpreadConstraints"] = _spread(process.name)
    return template


def command_pod(name: str, command: Sequence[str], size: Size) -> Manifest:
    """Template of a pod that runs a command of `whiteboard`, with the operator's account.

    Commands that train promote, too: they have the key that signs models. Simulators ask for
    decisions and label.
    """
    main = container(name, "train", command, size)
    trains = size is TRAINING
    main["env"] = _training() if trains else []
    tokens = [PROMOTION] if trains else [CLIENT_TOKEN, LABEL_TOKEN]
    secrets = [OPERATOR, PUBLIC_KEY, *tokens]
    template = pod(name, main, secrets, DEFERRABLE_NICE)
    template["metadata"]["labels"] |= OPERATOR_LABEL | (TRAINING_LABEL if trains else {})
    return template


def container(name: str, image: Image, command: Sequence[str], size: Size) -> Manifest:
    """A container that may change nothing but its mounted folders."""
    return {
        "name": name,
        "image": f"whiteboard-{image}",
        "imagePullPolicy": "IfNotPresent",
        "command": list(command),
        "envFrom": [{"configMapRef": {"name": SETTINGS}}],
        "resources": {
            "requests": {"cpu": f"{size.cpu}m", "memory": f"{size.memory}Mi"},
            "limits": {"cpu": f"{size.cpu_limit}m", "memory": f"{size.memory_limit}Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def pod(name: str, main: Manifest, secrets: Sequence[str], nice: int, claim: str = "") -> Manifest:
    """Template of a pod of one container that the `restricted` security standard admits.

    Args:
        secrets: Secrets of a home that the pod reads; it sees no other.
        claim: The disk of its home; empty: a folder that lasts as long as the pod.
    """
    home = {"persistentVolumeClaim": {"claimName": claim}} if claim else _folder("2Gi")
    volumes = [{"name": "home", **home}, {"name": "tmp", **_folder("1Gi")}]
    mounts: list[Manifest] = [
        {"name": "home", "mountPath": _HOME},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    if secrets:
        mounts.append({"name": "secrets", "mountPath": f"{_HOME}/secrets", "readOnly": True})
        sources = [{"secret": {"name": account_secret(one)}} for one in secrets]
        volumes.append({"name": "secrets", "projected": {"defaultMode": 0o440, "sources": sources}})
    return {
        "metadata": {"labels": labels(name)},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "priorityClassName": f"{NAMESPACE}-{PRIORITIES[nice]}",
            "terminationGracePeriodSeconds": _GRACE_S,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _USER,
                "runAsGroup": _USER,
                "fsGroup": _USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{**main, "volumeMounts": mounts}],
            "volumes": volumes,
        },
    }


def probe(path: str, period: int, failures: int) -> Manifest:
    """A probe of a route of a pod's port `http`."""
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _folder(size: str) -> Manifest:
    return {"emptyDir": {"sizeLimit": size}}


def _environment(process: HttpApp | Process, plan: Workload) -> list[Manifest]:
    if plan.trains:
        return _training()
    one_thread: list[Manifest] = [{"name": "OMP_NUM_THREADS", "value": "1"}]
    if isinstance(process, HttpApp):
        return [*one_thread, *(_token(name, secret) for name, secret in _TOKENS.items())]
    return one_thread


def _token(name: str, secret: str) -> Manifest:
    key = {"name": secret, "key": secret, "optional": True}
    return {"name": name, "valueFrom": {"secretKeyRef": key}}


def _training() -> list[Manifest]:
    """Only pods that train know the registry, and use as many threads as their limit has cores.

    A container sees all cores of its node.
    """
    limit = {"resource": "limits.cpu", "divisor": "1"}
    return [
        {"name": "WHITEBOARD_MLFLOW_URI", "value": f"http://{REGISTRY}:{REGISTRY_PORT}"},
        {"name": "OMP_NUM_THREADS", "valueFrom": {"resourceFieldRef": limit}},
    ]


def _probes(process: HttpApp | Process) -> Mapping[str, Manifest]:
    """Probes of the routes that the process has: a worker has its metrics page only.

    A thread serves that page: it shows that the process runs, not that its consumer advances. The
    metrics of its lag show that.
    """
    is_app = isinstance(process, HttpApp)
    live, ready = ("/healthz", "/readyz") if is_app else ("/metrics", "/metrics")
    return {
        "startupProbe": probe(live, period=3, failures=40),
        "livenessProbe": probe(live, period=10, failures=6),
        "readinessProbe": probe(ready, period=3, failures=2),
    }


def _spread(name: str) -> list[Manifest]:
    """Over zones, then nodes: a preference, so that other zones can take a lost one's pods."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": selector(labels(name)),
        }
        for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
    ]
