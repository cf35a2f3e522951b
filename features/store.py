"""The feature store as Feast knows it: entities, views, readings and one service, from one spec.

Built in Python rather than by `feast apply`, which imports files by path and then finds every
view twice. Importing Feast takes seconds, so nothing on the request path imports this module.
"""

import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from importlib import import_module
from urllib.parse import urlsplit

import pandas as pd
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    OnDemandFeatureView,
    RepoConfig,
    RequestSource,
    ValueType,
)
from feast.transformation.pandas_transformation import PandasTransformation
from feast.types import Array, Float64, String

from features.online import PROJECT
from features.spec import TIME_COLUMN, FeatureSpec, State
from services.skeleton.settings import Settings


def open_store(settings: Settings, spec: FeatureSpec, log_path: str = "") -> FeatureStore:
    """Open the store, with its views applied.

    Args:
        log_path: Folder of the state logs, a path or s3:// URL; by default in the lake.
    """
    home = settings.home / "feast"
    home.mkdir(parents=True, exist_ok=True)
    url = urlsplit(settings.redis)
    config = RepoConfig(
        project=PROJECT,
        provider="local",
        registry={"path": str((home / f"{spec.design}.db").resolve()), "cache_ttl_seconds": 0},
        online_store={
            "type": "redis",
            "connection_string": f"{url.hostname}:{url.port},password={url.password or ''}",
        },
        offline_store={"type": "features.offline.AsofOfflineStore"},
        entity_key_serialization_version=3,
        repo_path=home,
    )
    # Reading groups offline is what Feast warns may be slow; docs/adr/0002 has what it takes here.
    warnings.filterwarnings("ignore", message="On demand feature view is an experimental")
    store = FeatureStore(config=config)
    store.apply(definitions(spec, log_path or f"s3://{settings.bucket}/{spec.design}/states"))
    return store


def definitions(
    spec: FeatureSpec, log_path: str
) -> list[Entity | FeatureView | OnDemandFeatureView | FeatureService]:
    """Everything Feast is told about a design."""
    entities = {
        key: Entity(name=key, join_keys=[key], value_type=ValueType.STRING)
        for state in spec.states
        for key in state.keys
    }
    views = [_state_view(state, entities, log_path) for state in spec.states]
    request = RequestSource(name="request", schema=[Field(name=n, dtype=Float64) for n in spec.own])
    groups = [_group_view(spec, name, views, request) for name in spec.groups]
    service = FeatureService(name=spec.design, features=list(groups))
    return [*entities.values(), *views, *groups, service]


def _state_view(state: State, entities: Mapping[str, Entity], log_path: str) -> FeatureView:
    keys = [Field(name=key, dtype=String) for key in state.keys]
    return FeatureView(
        name=state.name,
        entities=[entities[key] for key in state.keys],
        schema=[*keys, Field(name=state.name, dtype=Array(Float64))],
        source=FileSource(
            name=f"{state.name}_log",
            path=f"{log_path}/{state.name}",
            timestamp_field=TIME_COLUMN,
        ),
        ttl=timedelta(0),
        online=True,
        description=f"sums of {', '.join(state.measures)} by {', '.join(state.keys)}",
    )


def _group_view(
    spec: FeatureSpec, name: str, views: list[FeatureView], request: RequestSource
) -> OnDemandFeatureView:
    transform = _reader(spec.reading, name)
    return OnDemandFeatureView(
        name=name,
        sources=[*views, request],
        schema=[Field(name=feature, dtype=Float64) for feature in spec.groups[name]],
        feature_transformation=PandasTransformation(udf=transform, udf_string=spec.reading),
        mode="pandas",
    )


def _reader(reading: str, group: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def read_group(frame: pd.DataFrame) -> pd.DataFrame:
        module, _, function = reading.partition(":")
        result: pd.DataFrame = getattr(import_module(module), function)(group, frame)
        return result

    return read_group
