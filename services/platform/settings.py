"""The settings: locations of the engines and ports of this machine. Only this file reads them.

Every field is set by WHITEBOARD_<NAME> or in a file `.env`. Costs are not settings: they are in a
design's `problem.py`, and hyperparameters in its `conf/`.
"""

import os
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

# Feast, MLflow and others report usage over the network by default.
for _switch in ("FEAST_USAGE", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ.setdefault(_switch, "False" if _switch == "FEAST_USAGE" else "true")


class Settings(BaseSettings):
    """Locations of engines and services.

    The defaults run all engines on this machine, not on their usual ports, so that they do not
    conflict with a Redis already running here.
    """

    model_config = SettingsConfigDict(env_prefix="WHITEBOARD_", env_file=".env", extra="ignore")

    home: Path = Field(Path(".whiteboard"), description="Engine data, logs, registry, reports.")
    host: str = Field("127.0.0.1", description="Address that engines and services listen on.")

    designs: str = Field("services.designs", description="Module that lists the designs.")

    nats_port: int = Field(14222, description="NATS clients.")
    nats_http_port: int = Field(18222, description="NATS monitoring page.")
    redis_port: int = Field(16379, description="Redis.")
    s3_port: int = Field(18333, description="SeaweedFS, S3 API.")
    s3_internal_port: int = Field(
        19300, description="First of four internal ports of SeaweedFS (with +10000 for gRPC)."
    )
    scorer_port: int = Field(18080, description="The fraud scorer.")
    inspector_port: int = Field(18081, description="The image inspector.")
    metrics_port: int = Field(
        18100, description="First of the workers' Prometheus ports; each adds its own offset."
    )

    nats_url: str = Field("", description="A NATS server or cluster; empty: the local one.")
    redis_url: str = Field("", description="A Redis; empty: the local one.")
    s3_endpoint: str = Field("", description="An S3 endpoint; empty: the local one.")
    mlflow_uri: str = Field("", description="An MLflow server; empty: SQLite under `home`.")
    scorer_url: str = Field("", description="URL of the scorer for clients; empty: the local one.")
    inspector_url: str = Field(
        "", description="URL of the inspection service for clients; empty: the local one."
    )

    user: str = Field("whiteboard", description="User of NATS, access key of S3.")
    password: SecretStr = Field(
        SecretStr("whiteboard-local"), description="Password of every engine. Change it off-host."
    )
    admin_token: SecretStr = Field(
        SecretStr(""), description="Token of the scorer's /admin routes; empty: they are disabled."
    )
    model_file: Path = Field(
        Path("/opt/ml/model/model.onnx"),
        description="Served instead of the champion if it exists, as in SageMaker.",
    )
    night_utc: str = Field("03:00", description="When the nightly retraining runs, HH:MM UTC.")
    bucket: str = Field("lake", description="S3 bucket of the lake and the models.")
    inbox: str = Field("inbox", description="S3 bucket where images land.")
    results: str = Field("results", description="S3 bucket of their inspection results.")
    shards: int = Field(16, ge=1, le=1024, description="Shards of each entity in a subject.")
    outbox_events: int = Field(
        10_000, ge=1, description="Decisions held in memory; more are written to disk."
    )
    outbox_megabytes: int = Field(512, ge=1, description="Maximum size of the outbox's file.")

    @property
    def nats(self) -> str:
        """NATS URL with credentials."""
        return self.nats_url or f"nats://{self.user}:{self._quoted}@{self.host}:{self.nats_port}"

    @property
    def redis(self) -> str:
        """Redis URL with credentials."""
        return self.redis_url or f"redis://:{self._quoted}@{self.host}:{self.redis_port}/0"

    @property
    def s3(self) -> str:
        """S3 endpoint, with scheme."""
        return self.s3_endpoint or f"http://{self.host}:{self.s3_port}"

    @property
    def mlflow(self) -> str:
        """MLflow tracking URI."""
        return self.mlflow_uri or f"sqlite:///{(self.home / 'mlflow' / 'mlflow.db').resolve()}"

    @property
    def scorer(self) -> str:
        """Base URL of the scorer."""
        return self.scorer_url or f"http://{self.host}:{self.scorer_port}"

    @property
    def inspector(self) -> str:
        """Base URL of the inspection service."""
        return self.inspector_url or f"http://{self.host}:{self.inspector_port}"

    def value(self, name: str, default: str) -> str:
        """A setting by name; one that a design adds is read from WHITEBOARD_<NAME>.

        Args:
            default: Where neither this class nor the environment has it.
        """
        if name in type(self).model_fields:
            return str(getattr(self, name))
        return os.environ.get(f"WHITEBOARD_{name.upper()}", default)

    @property
    def _quoted(self) -> str:
        return quote(self.password.get_secret_value(), safe="")


@lru_cache
def settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
