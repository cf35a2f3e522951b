"""What is wrong with a set of manifests, in words; nothing: an empty list."""

from collections.abc import Iterator

import jsonschema
import kubernetes_validate

from services.platform.design import HttpApp
from tests.unit.kubernetes.reach import matches

_VOLUMES = {"configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected", "secret"}

# The part that we use of KEDA 2.20's ScaledObject (keda.sh/v1alpha1), and its scaler's parameters
# (https://keda.sh/docs/2.20/scalers/nats-jetstream): kubernetes-validate knows no other's kinds.
_TEXT, _WHOLE = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}


def _object(required: dict, optional: dict | None = None) -> dict:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


_JETSTREAM = _object(
    {"natsServerMonitoringEndpoint": _TEXT, "account": _TEXT, "stream": _TEXT, "consumer": _TEXT},
    {name: {"type": "string", "pattern": "^[0-9]+$"} for name in
     ("lagThreshold", "activationLagThreshold")},
)  # fmt: skip
SCALED_OBJECT = _object(
    {
        "apiVersion": {"const": "keda.sh/v1alpha1"},
        "kind": {"const": "ScaledObject"},
        "metadata": {"type": "object"},
        "spec": _object(
            {
                "scaleTargetRef": _object({"name": _TEXT}, {"apiVersion": _TEXT, "kind": _TEXT}),
                "triggers": {
                    "type": "array",
                    "minItems": 1,
                    "items": _object({"type": {"const": "nats-jetstream"}, "metadata": _JETSTREAM}),
                },
            },
            {
                "pollingInterval": _WHOLE,
                "minReplicaCount": _WHOLE,
                "maxReplicaCount": _WHOLE,
                "fallback": _object({"failureThreshold": _WHOLE, "replicas": _WHOLE}),
            },
        ),
    }
)


def title(one: dict) -> str:
    return f"{one['kind']} {one['metadata']['name']}"


def pods(objects: list[dict]) -> Iterator[tuple[str, dict]]:
    """(title, template) of everything that makes pods."""
    for one in objects:
        spec = one.get("spec", {})
        if one["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield title(one), spec["template"]
        elif one["kind"] == "CronJob":
            yield title(one), spec["jobTemplate"]["spec"]["template"]


def containers(objects: list[dict]) -> Iterator[tuple[str, dict]]:
    for name, template in pods(objects):
        for one in template["spec"]["containers"] + template["spec"].get("initContainers", []):
            yield name, one


def schema_errors(objects: list[dict], version: str) -> list[str]:
    """What Kubernetes of a version, or KEDA, would refuse."""
    found = []
    for one in objects:
        try:
            if one["kind"] == "ScaledObject":
                jsonschema.validate(one, SCALED_OBJECT)
            else:
                kubernetes_validate.validate(one, version, strict=True)
        except jsonschema.ValidationError as error:
            found.append(f"{title(one)}: {error.message}")
    return found


def missing_processes(objects: list[dict], processes: list) -> list[str]:
    """Processes that no container runs by their design's name and their own."""
    commands = [one["command"] for _, one in containers(objects)]
    run = ["python", "-m", "services.platform.run"]
    return [
        process.name
        for owner, process in processes
        if not any(command[:5] == [*run, owner, process.name] for command in commands)
    ]


def unlimited(objects: list[dict]) -> list[str]:
    """Containers without a request or a limit."""
    return [
        f"{name}: no {kind} of {what}"
        for name, one in containers(objects)
        for kind in ("requests", "limits")
        for what in ("cpu", "memory")
        if what not in one.get("resources", {}).get(kind, {})
    ]


def insecure(objects: list[dict]) -> list[str]:
    """What the pod security standard `restricted` forbids, and writable root file systems."""
    found = []
    for name, template in pods(objects):
        spec = template["spec"]
        whole = spec.get("securityContext", {})
        wrong = {
            "host": any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")),
            "root": whole.get("runAsNonRoot") is not True or whole.get("runAsUser") in (0, None),
            "seccomp": whole.get("seccompProfile", {}).get("type") != "RuntimeDefault",
            "volumes": any(not (set(v) - {"name"}) <= _VOLUMES for v in spec.get("volumes", [])),
            "api token": spec.get("automountServiceAccountToken") is not False,
        }
        found += [f"{name}: {what}" for what, is_wrong in wrong.items() if is_wrong]
    for name, one in containers(objects):
        own = one.get("securityContext", {})
        wrong = {
            "escalation": own.get("allowPrivilegeEscalation") is not False,
            "root file system": own.get("readOnlyRootFilesystem") is not True,
            "capabilities": own.get("capabilities") != {"drop": ["ALL"]},
            "privileged": own.get("privileged", False),
            "root": own.get("runAsUser") == 0 or own.get("runAsNonRoot") is False,
        }
        found += [f"{name}: {what}" for what, is_wrong in wrong.items() if is_wrong]
    return found


def wrong_probes(objects: list[dict], processes: list, routes: dict[str, set[str]]) -> list[str]:
    """Processes without three probes of routes that they have, on a port that they listen on."""
    kinds = ("startupProbe", "livenessProbe", "readinessProbe")
    found = []
    for name, one in containers(objects):
        owner = _process(one, processes)
        if owner is None:
            continue
        listens = {port["name"] for port in one["ports"]}
        known = routes[owner.name] if isinstance(owner, HttpApp) else {"/metrics"}
        for kind in kinds:
            probe = one.get(kind, {}).get("httpGet", {})
            if probe.get("path") not in known or probe.get("port") not in listens:
                found.append(f"{name}: {kind}")
    return found


def unguarded(objects: list[dict]) -> list[str]:
    """Several pods without a disruption budget, and budgets that would block every drain."""
    budgets = [one["spec"] for one in objects if one["kind"] == "PodDisruptionBudget"]
    found = [str(spec) for spec in budgets if spec.get("maxUnavailable") in (0, "0%", None)]
    scaled = {
        one["spec"]["scaleTargetRef"]["name"]
        for one in objects
        if one["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")
    }
    for one in objects:
        if one["kind"] not in ("Deployment", "StatefulSet"):
            continue
        several = one["spec"].get("replicas", 1) > 1 or one["metadata"]["name"] in scaled
        labels = one["spec"]["template"]["metadata"]["labels"]
        if several and not any(matches(spec["selector"], labels) for spec in budgets):
            found.append(title(one))
    return found


def dangling(objects: list[dict]) -> list[str]:
    """References to objects that are not there, and selectors that select no pod, or several's."""
    names = {(one["kind"], one["metadata"]["name"]) for one in objects}
    templates = [template["metadata"]["labels"] for _, template in pods(objects)]
    found = []
    for one in objects:
        spec = one.get("spec", {})
        if one["kind"] in ("HorizontalPodAutoscaler", "ScaledObject"):
            target = spec["scaleTargetRef"]
            if (target["kind"], target["name"]) not in names:
                found.append(f"{title(one)}: {target['name']}")
        if one["kind"] in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
            count = sum(matches(spec["selector"], labels) for labels in templates)
            if count != 1:
                found.append(f"{title(one)}: selects {count}")
        if one["kind"] == "Service" and not any(
            spec["selector"].items() <= labels.items() for labels in templates
        ):
            found.append(f"{title(one)}: selects no pod")
    for name, template in pods(objects):
        wanted = {("PriorityClass", template["spec"]["priorityClassName"])}
        for one in template["spec"]["containers"]:
            for source in one.get("envFrom", []):
                wanted.add(("ConfigMap", source["configMapRef"]["name"]))
        for volume in template["spec"]["volumes"]:
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                wanted.add(("PersistentVolumeClaim", claim))
        found += [f"{name}: no {kind} {what}" for kind, what in wanted - names]
    return found


def _process(container: dict, processes: list):
    command = container["command"]
    names = {process.name: process for _, process in processes}
    if command[:3] != ["python", "-m", "services.platform.run"]:
        return None
    return names.get(command[4])
