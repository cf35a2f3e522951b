"""What runs and ends: the bootstrap once, retraining and compaction every night."""

from collections.abc import Sequence

from infra.kubernetes.names import Manifest, manifest
from infra.kubernetes.pods import command_pod
from infra.kubernetes.sizes import TRAINING
from services.platform.design import Design

# Retraining takes minutes (docs/performance.md), the shadow phase waits for decisions.
_NIGHT, _COMPACTION = "0 3 * * *", "30 4 * * *"
_DEADLINE_S = 4 * 3600
_KEPT_S = 24 * 3600


def job_objects(designs: Sequence[Design]) -> list[Manifest]:
    """The bootstrap, and for each design its nights."""
    made = [manifest("batch/v1", "Job", "bootstrap", _job("bootstrap", "whiteboard bootstrap"))]
    for design in designs:
        # 2 means that the gate refused, which is not a failure.
        night = f"whiteboard night {design.name} --json || [ $? -eq 2 ]"
        made.append(_nightly(f"night-{design.name}", _NIGHT, night))
        if design.lake_tables is not None:
            compact = f"whiteboard compact {design.name} --json"
            made.append(_nightly(f"compact-{design.name}", _COMPACTION, compact))
    return made


def _nightly(name: str, schedule: str, command: str) -> Manifest:
    spec = {
        "schedule": schedule,
        "timeZone": "Etc/UTC",
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 3600,
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {"spec": _job(name, command)},
    }
    return manifest("batch/v1", "CronJob", name, spec)


def _job(name: str, command: str) -> Manifest:
    template = command_pod(name, ("sh", "-c", command), TRAINING)
    template["spec"]["restartPolicy"] = "Never"
    return {
        # Each of these commands continues what a killed one left.
        "backoffLimit": 3,
        "activeDeadlineSeconds": _DEADLINE_S,
        "ttlSecondsAfterFinished": _KEPT_S,
        "template": template,
    }
