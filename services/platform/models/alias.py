"""The registry's alias of the champion, read without MLflow, which takes seconds to import.

The alias can be moved in MLflow's UI, past the gate. Serving, retraining and rollback follow the
gate's record; `status` and `/readyz` say where the alias differs from what is served.
"""

import json
import sqlite3
import urllib.error
import urllib.parse
import urllib.request
from contextlib import closing
from pathlib import Path

from services.platform.models.names import CHAMPION
from services.platform.settings import Settings

_TIMEOUT_S = 1.0
_QUERY = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"
_REST = "/api/2.0/mlflow/registered-models/alias"


def alias_conflict(settings: Settings, design: str, served: int) -> str:
    """What is wrong with the alias while a version is served; empty if nothing is.

    A registry that does not answer, or has no alias, is not in conflict.
    """
    alias = read_alias(settings, design)
    if alias in (None, served):
        return ""
    return (
        f"the registry's alias {CHAMPION} names version {alias}, but version {served} passed the "
        f"gate and is served: move the alias back, or `whiteboard swap {design}`"
    )


def read_alias(settings: Settings, design: str) -> int | None:
    """Version that the alias names; None if there is none or the registry does not answer."""
    try:
        if settings.mlflow_uri.startswith(("http://", "https://")):
            return _from_server(settings.mlflow_uri, design)
        return _from_file(_database(settings), design)
    except (OSError, sqlite3.Error, ValueError, KeyError):
        return None


def _database(settings: Settings) -> Path:
    if not settings.mlflow_uri:
        return settings.mlflow_database
    scheme, _, path = settings.mlflow_uri.partition(":///")
    if scheme != "sqlite":
        raise ValueError(f"aliases of {scheme} are not read")
    return Path(urllib.parse.unquote(path)).absolute()


def _from_file(database: Path, design: str) -> int | None:
    uri = f"{database.as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, _TIMEOUT_S, uri=True)) as connection:
        row = connection.execute(_QUERY, (design, CHAMPION)).fetchone()
    return None if row is None else int(row[0])


def _from_server(url: str, design: str) -> int:
    """HTTPError, an OSError, if there is no alias."""
    query = urllib.parse.urlencode({"name": design, "alias": CHAMPION})
    with urllib.request.urlopen(f"{url.rstrip('/')}{_REST}?{query}", timeout=_TIMEOUT_S) as answer:
        return int(json.load(answer)["model_version"]["version"])
