"""Writes the manifests: `python -m infra.kubernetes.generate`, which `make kubernetes` runs.

The base has every process of every design, as `registered` lists them. A process cannot be left
out: without a size the generator refuses it, and a test compares what is committed with what is
generated.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from infra.kubernetes.jobs import job_objects
from infra.kubernetes.names import (
    ENGINES_NAMESPACE,
    NAMESPACE,
    SETTINGS,
    Manifest,
    labels,
    settings_values,
)
from infra.kubernetes.network import policies
from infra.kubernetes.pods import PRIORITIES
from infra.kubernetes.workloads import (
    process_objects,
    registry_objects,
    simulator_objects,
)
from services.platform.design import SCHEDULER, Design, HttpApp, Process, registered
from services.platform.run import SHARED
from services.platform.settings import Settings

FOLDER = Path(__file__).parent
_HEADER = "# Written by `make kubernetes` from the designs; do not edit.\n"
# Pods of a namespace are held to this pod security standard. The charts' pods keep to the lower.
_SECURITY = {NAMESPACE: "restricted", ENGINES_NAMESPACE: "baseline"}


def processes(designs: Sequence[Design]) -> list[tuple[str, HttpApp | Process]]:
    """(owner, process) of all that run in a cluster.

    The walkthrough does not: it shows, and kills, the processes of the machine that it runs on.
    """
    own = [(design.name, process) for design in designs for process in design.everything]
    return [*own, (SHARED, SCHEDULER)]


def files(config: Settings) -> dict[str, str]:
    """By path below this folder, what is generated."""
    designs = registered(config)
    every = processes(designs)
    apps = [process for _, process in every if isinstance(process, HttpApp)]
    base: dict[str, list[Manifest]] = {
        "cluster": [*map(_namespace, _SECURITY), *_priority_classes()],
        "settings": [_settings(settings_values(apps, config))],
        "network-policies": policies([process for _, process in every], config),
        "jobs": job_objects(designs),
        "registry": registry_objects(),
    }
    base |= {p.name: process_objects(owner, p, config) for owner, p in every}
    resources = [f"{name}.yaml" for name in base]
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": resources,
    }
    return {
        "base/kustomization.yaml": _text([kustomization]),
        **{f"base/{name}.yaml": _text(objects) for name, objects in base.items()},
        "overlays/local/simulators.yaml": _text(simulator_objects()),
    }


def write(folder: Path, made: Mapping[str, str]) -> None:
    """Write generated files, and remove those of the base that are generated no longer."""
    for old in (folder / "base").glob("*.yaml"):
        old.unlink()
    for name, text in made.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _namespace(name: str) -> Manifest:
    level = _SECURITY[name]
    modes = {"enforce": level, "warn": "restricted", "audit": "restricted"}
    security = {f"pod-security.kubernetes.io/{mode}": level for mode, level in modes.items()}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {**labels(name), **security}},
    }


def _priority_classes() -> list[Manifest]:
    """The order of the nice values, for whole pods."""
    return [
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": f"{NAMESPACE}-{name}", "labels": labels(name)},
            "value": 1_000 * (20 - nice),
            "description": f"Pods of processes with the nice value {nice} on one machine.",
        }
        for nice, name in PRIORITIES.items()
    ]


def _settings(values: Mapping[str, str]) -> Manifest:
    metadata = {"name": SETTINGS, "namespace": NAMESPACE, "labels": labels(SETTINGS)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(values)}


class _Plain(yaml.SafeDumper):
    """Writes lists that occur twice out, instead of references."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(objects: Sequence[Manifest]) -> str:
    return _HEADER + yaml.dump_all(objects, Dumper=_Plain, sort_keys=False, width=110)


def main() -> None:
    """Write all files, for the settings' defaults: the result is committed."""
    write(FOLDER, files(Settings.model_construct()))


if __name__ == "__main__":
    main()
