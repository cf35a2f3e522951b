"""The settings: locations of the engines and ports of this machine. Only this file reads them.

Every field is set by WHITEBOARD_<NAME> or in a file `.env`. Costs are not settings: they are in a
design's `problem.py`, and hyperparameters in its `conf/`.
"""

import os
import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from services.platform.access import OPERATOR
from services.platform.secret_files import new_secret, read_secret

# The checkout, where this is one: an installed package has no pyproject.toml above it.
_ROOT = Path(__file__).resolve().parents[2]
_ENV_FILES = (_ROOT / ".env", ".env") if (_ROOT / "pyproject.toml").exists() else (".env",)
_HOME = Path(".whiteboard")
_KEY = re.compile("[0-9a-f]{64}")
_TIME = re.compile("([01]?[0-9]|2[0-3]):[0-5][0-9]")
# Files of secrets in `home` that are no account's password.
WEBHOOK_TOKEN = "webhook-token"
LABEL_TOKEN = "label-token"
CLIENT_TOKEN = "client-token"
PROMOTION = "promotion-key"

# Feast, MLflow and others report usage over the network by default.
for _switch in ("FEAST_USAGE", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ.setdefault(_switch, "False" if _switch == "FEAST_USAGE" else "true")
# Both are read when the library is loaded, which is later. OpenMP's threads sleep at their
# barriers: beside other work a spinning thread takes the core of the one that it waits for, and
# training takes several times as long (ADR 32). Arrow's memory is jemalloc's, which holds less of
# what is freed: ADR 33.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address that a service listens on.

    A name other than localhost may be any machine's.

    >>> [is_loopback(h) for h in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "scorer", "")]
    [True, True, True, False, False, False, False]
    """
    try:
        return host.lower() == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _with_port(hosts: str, port: int) -> str:
    """Hosts by comma, each with a port.

    >>> _with_port("a", 1), _with_port("a:7,b,[::1]:8", 1)
    ('a:1', 'a:7,b:1,[::1]:8')
    """
    found = [host.strip() for host in hosts.split(",") if host.strip()]
    return ",".join(h if re.search(r":\d+$", h) else f"{h}:{port}" for h in found)


def _bypass_proxies(hosts: Iterable[str]) -> None:
    """Make HTTP clients of this process and its children reach hosts without a proxy.

    Clients read one of the two spellings, so both get the names of both.
    """
    names = [os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY")]
    known = [host.strip() for value in names for host in value.split(",") if host.strip()]
    value = ",".join(dict.fromkeys([*known, *hosts]))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = value


_bypass_proxies(("localhost", "127.0.0.1", "::1"))


class _PrefixedEnvironment(EnvSettingsSource):
    """Every WHITEBOARD_ variable, as of a `.env` file: designs add settings of their own."""

    def __call__(self) -> dict[str, Any]:
        found = super().__call__()
        prefix = self.env_prefix.lower()
        return {
            **{k.removeprefix(prefix): v for k, v in self.env_vars.items() if k.startswith(prefix)},
            **found,
        }


class Settings(BaseSettings):
    """Locations of engines and services.

    The defaults run all engines on this machine, not on their usual ports, so that they do not
    conflict with a Redis already running here. A design's settings, `<service>_port` and
    `<service>_url`, are read by `value`.
    """

    model_config = SettingsConfigDict(env_prefix="WHITEBOARD_", env_file=_ENV_FILES, extra="allow")

    home: Path = Field(
        _HOME,
        description="Engine data, logs, registry, reports. The default is in the working directory "
        "if it is there, otherwise in the checkout.",
    )
    host: str = Field("127.0.0.1", description="Address that engines and services listen on.")

    hosts: str = Field(
        "",
        description="Names under which services are asked, besides localhost, addresses and their "
        "URLs' names; by comma.",
    )

    designs: str = Field("services.designs", description="Module that lists the designs.")
    instance: str = Field(
        "", description="Name of a process among those that share its port; `up` gives it."
    )
    build: str = Field(
        "",
        description="What runs, for /readyz and /metrics: a commit or an image's tag; `up` and "
        "`deploy` give the checkout's commit.",
    )

    nats_port: int = Field(14222, description="NATS clients.")
    nats_http_port: int = Field(18222, description="NATS monitoring page.")
    redis_port: int = Field(16379, description="Redis.")
    s3_port: int = Field(18333, description="SeaweedFS, S3 API.")
    s3_internal_port: int = Field(
        19300, description="First of four internal ports of SeaweedFS (with +10000 for gRPC)."
    )
    metrics_port: int = Field(
        18100, description="First of the workers' Prometheus ports; each adds its own offset."
    )

    host_by_name: bool = Field(
        False,
        description="Each worker's Prometheus page is on a host of its own name, as in Compose.",
    )
    nats_host: str = Field(
        "",
        description="Host of NATS, another machine's; several, as a:4222,b:4222: its cluster's. "
        "Empty: `host`.",
    )
    redis_host: str = Field(
        "",
        description="Host of Redis, another machine's; several, as a:6379,b:6379: a Redis "
        "Cluster's. Empty: `host`.",
    )
    nats_url: str = Field(
        "", description="A NATS server, or several of a cluster by comma; empty: the local one."
    )
    redis_url: str = Field(
        "", description="A Redis, or redis+cluster://a:6379,b:6379; empty: the local one."
    )
    nats_replicas: int = Field(
        1,
        ge=1,
        le=5,
        description="Servers that have each stream and bucket that is made; 3 in a cluster.",
    )
    s3_endpoint: str = Field("", description="An S3 endpoint; empty: the local one.")
    mlflow_uri: str = Field("", description="An MLflow server; empty: SQLite under `home`.")

    user: str = Field(
        OPERATOR,
        pattern=r"^[^\s/:,=.*>]+$",
        description="Account at NATS, Redis and S3. A process that `up` starts has its own.",
    )
    password: SecretStr = Field(
        SecretStr(""), description="Its password; empty: the one in `home`, which `up` makes."
    )
    admin_token: SecretStr = Field(
        SecretStr(""), description="Token of the services' /admin routes; empty: they are disabled."
    )
    webhook_token: SecretStr = Field(
        SecretStr(""), description="Token of the store's notifications; empty: the one in `home`."
    )
    label_token: SecretStr = Field(
        SecretStr(""), description="Token of labels by HTTP; empty: the one in `home`."
    )
    client_token: SecretStr = Field(
        SecretStr(""),
        description="Token of who asks for decisions; empty: the one in `home`.",
    )
    require_tokens: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="Whether /score, /inspect, /invocations and /decisions need that token; auto: "
        "where `host` is not this machine's own address 127.0.0.1.",
    )
    signing_key: SecretStr = Field(
        SecretStr(""), description="Ed25519 key of promotion, hex; empty: the one in `home`."
    )
    verify_key: str = Field(
        "", description="Its public key, by which serving verifies; empty: the one in `home`."
    )
    analyst_token: SecretStr = Field(
        SecretStr(""), description="Token of the /reviews routes; empty: they are disabled."
    )
    model_file: Path = Field(
        Path("/opt/ml/model/model.onnx"),
        description="Served instead of the champion if it exists, as in SageMaker.",
    )
    night_utc: str = Field(
        "03:00",
        description="When the nightly retraining runs, HH:MM UTC; empty: another program runs it.",
    )
    control_share: float = Field(
        0.03,
        ge=0,
        le=1,
        description="Share of declines that is approved to learn their outcome, up to 100 EUR; "
        "less above it in proportion; 0: none.",
    )
    audit_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of passed parts that a person looks at, to learn what escapes; 0: none.",
    )
    bucket: str = Field("lake", description="S3 bucket of the lake and the models.")
    inbox: str = Field("inbox", description="S3 bucket where images land.")
    results: str = Field("results", description="S3 bucket of their inspection results.")
    shards: int = Field(16, ge=1, le=1024, description="Shards of each entity in a subject.")
    outbox_events: int = Field(
        10_000, ge=1, description="Decisions held in memory; more are written to disk."
    )
    outbox_megabytes: int = Field(512, ge=1, description="Maximum size of the outbox's file.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments come before the environment, which comes before a `.env` file."""
        return init_settings, _PrefixedEnvironment(settings_cls), dotenv_settings

    @field_validator("password")
    @classmethod
    def _usable(cls, password: SecretStr) -> SecretStr:
        plain = password.get_secret_value()
        if plain != plain.strip() or not plain.isprintable():
            raise ValueError("must not have spaces at its ends or control characters")
        return password

    @field_validator("signing_key", "verify_key")
    @classmethod
    def _is_key(cls, key: SecretStr | str) -> SecretStr | str:
        plain = key if isinstance(key, str) else key.get_secret_value()
        if plain and not _KEY.fullmatch(plain):
            raise ValueError("must be 64 hexadecimal digits: `whiteboard secrets` makes a pair")
        return key

    @field_validator("night_utc")
    @classmethod
    def _is_time(cls, night: str) -> str:
        if night and not _TIME.fullmatch(night):
            raise ValueError("must be a time of day as HH:MM, such as 03:00, or empty")
        return night

    @model_validator(mode="after")
    def _absolute_home(self) -> "Settings":
        home = self.home.expanduser()
        if "home" not in self.model_fields_set and len(_ENV_FILES) > 1 and not home.exists():
            home = _ROOT / home
        # Past the validator, which would run again.
        self.__dict__["home"] = Path(os.path.abspath(home))
        return self

    @property
    def local_engines(self) -> tuple[str, ...]:
        """The engines that this machine runs: those without a host or URL elsewhere."""
        elsewhere = {
            "nats": self.nats_url or self.nats_host,
            "redis": self.redis_url or self.redis_host,
            "seaweedfs": self.s3_endpoint,
        }
        return tuple(name for name, place in elsewhere.items() if not place)

    @property
    def nats(self) -> str:
        """NATS URL with credentials, percent-encoded."""
        where = _with_port(self.nats_host or self.host, self.nats_port)
        return self.nats_url or f"nats://{self.user}:{self._quoted}@{where}"

    @property
    def redis(self) -> str:
        """Redis URL with credentials, percent-encoded; redis+cluster://… where it is a cluster."""
        if self.redis_url:
            return self.redis_url
        where = _with_port(self.redis_host or self.host, self.redis_port)
        login = f"{self.user}:{self._quoted}@{where}"
        return f"redis+cluster://{login}" if "," in where else f"redis://{login}/0"

    @property
    def s3(self) -> str:
        """S3 endpoint, with scheme."""
        return self.s3_endpoint or f"http://{self.host}:{self.s3_port}"

    @property
    def mlflow(self) -> str:
        """MLflow tracking URI, percent-encoded."""
        return self.mlflow_uri or f"sqlite:///{quote(str(self.mlflow_database))}"

    @property
    def mlflow_database(self) -> Path:
        """The SQLite file of a registry without a server."""
        return (self.home / "mlflow" / "mlflow.db").resolve()

    @property
    def host_names(self) -> frozenset[str]:
        """Names under which services are asked, besides localhost and addresses."""
        urls = (v for k, v in (self.model_extra or {}).items() if k.endswith("_url"))
        named = (urlsplit(str(url)).hostname or "" for url in urls)
        return frozenset({self.host, *self.hosts.replace(" ", "").split(","), *named} - {""})

    def value(self, name: str, default: str) -> str:
        """A setting by name; one that a design adds is read from WHITEBOARD_<NAME> too.

        Args:
            default: Where it is not set.
        """
        return str(getattr(self, name, default))

    @property
    def plain_password(self) -> str:
        """Password of `user`: as set, or of this home. Without one, none that an engine takes."""
        given = self.password.get_secret_value()
        return given or read_secret(self.home, self.user) or _NO_PASSWORD

    @property
    def plain_webhook_token(self) -> str:
        """Token of the store's notifications; empty: there is none, and none is accepted."""
        return self.webhook_token.get_secret_value() or read_secret(self.home, WEBHOOK_TOKEN)

    @property
    def plain_label_token(self) -> str:
        """Token of labels by HTTP; empty: there is none, and no label is accepted."""
        return self.label_token.get_secret_value() or read_secret(self.home, LABEL_TOKEN)

    @property
    def plain_client_token(self) -> str:
        """Token of clients that ask for decisions; empty: there is none."""
        return self.client_token.get_secret_value() or read_secret(self.home, CLIENT_TOKEN)

    @property
    def wants_client_token(self) -> bool:
        """Whether a request for a decision needs the client token."""
        return self.require_tokens == "yes" or (
            self.require_tokens == "auto" and not is_loopback(self.host)
        )

    @property
    def plain_verify_key(self) -> str:
        """Public key of promotion, hex; empty: there is none, and no model is served."""
        return self.verify_key or read_secret(self.home, f"{PROMOTION}.public")

    def folder(self, service: str) -> Path:
        """Where a process of a service keeps what is its own."""
        return self.home / (self.instance or service)

    def with_account(self, user: str) -> "Settings":
        """These settings with another account of this home, unless `user` is set."""
        if "user" in self.model_fields_set or user == self.user:
            return self
        return self.model_copy(update={"user": user, "password": SecretStr("")})

    @property
    def _quoted(self) -> str:
        return quote(self.plain_password, safe="")


def keep_home(config: Settings) -> None:
    """Make this process and its children find the home from any working directory."""
    os.environ["WHITEBOARD_HOME"] = str(config.home)


# Random, so that a home without secrets opens no engine.
_NO_PASSWORD = new_secret()
_accounts: list[str] = []


def use_account(user: str) -> None:
    """Make `settings` return a service's account from now on, unless `user` is set."""
    _accounts.append(user)
    settings.cache_clear()


@lru_cache
def settings() -> Settings:
    """The settings of this process, read once. SystemExit names the one that is wrong."""
    try:
        made = Settings()
        if _accounts:
            made = made.with_account(_accounts[-1])
    except ValidationError as error:
        wrong = (
            f"WHITEBOARD_{'_'.join(map(str, one['loc'])).upper()}: "
            + one["msg"].removeprefix("Value error, ")
            for one in error.errors(include_input=False)
        )
        raise SystemExit("wrong settings: " + "; ".join(wrong)) from None
    _bypass_proxies([made.host])
    return made
