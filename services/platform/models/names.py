"""Names of models: version labels, object paths in the lake's bucket, announcement keys."""

import json

CHAMPION, CHALLENGER = "champion", "challenger"

# NATS key-value bucket that announces the version in each role.
ANNOUNCEMENTS = "models"


def announced_version(note: bytes | None) -> int | None:
    """The version that an announcement names; None: there is none. ValueError: it is no such note.

    >>> announced_version(b'{"version": 7}'), announced_version(b'{"version": null}')
    (7, None)
    """
    try:
        found = json.loads(note or b"{}")
        version = found.get("version")
    except (ValueError, AttributeError):
        version = ""
    if version is not None and type(version) is not int:
        raise ValueError(f"not an announcement: {(note or b'')[:80]!r}")
    return version


def version_label(candidate: str, version: int) -> str:
    """The label of a model version.

    >>> version_label("xgboost", 7)
    'xgboost:7'
    """
    return f"{candidate}:{version}"


def label_version(label: str) -> int:
    """The version in a label. ValueError if it has none.

    >>> label_version("xgboost:7")
    7
    """
    return int(label.rpartition(":")[2])


def served_path(design: str, role: str = CHAMPION) -> str:
    """Object that serving or shadow mode loads for a role.

    >>> served_path("fraud")
    'models/fraud/champion.onnx'
    """
    return f"models/{design}/{role}.onnx"


def version_path(design: str, version: int) -> str:
    """Object of a registered version."""
    return f"models/{design}/{version}.onnx"


def reference_path(design: str, version: int) -> str:
    """Object of a version's drift reference: see `monitoring.reference`."""
    return f"models/{design}/{version}.reference.npz"


def retraining_path(design: str, champion: int) -> str:
    """Object that records how far a champion's retraining has come."""
    return f"models/{design}/nights/champion-{champion}.json"


def earlier_retraining_path(design: str, day: str) -> str:
    """As `retraining_path`, of the outcomes up to a day: where earlier releases wrote it."""
    return f"models/{design}/nights/{day}.json"


def announcement_key(design: str, role: str) -> str:
    """Key of a role's announcement.

    >>> announcement_key("fraud", "champion")
    'fraud.champion'
    """
    return f"{design}.{role}"
