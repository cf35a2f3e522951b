"""The Feast feature store: entities, feature views and feature services, from one spec.

Built in Python rather than by `feast apply`, which imports files by path and then finds every
view twice. Importing Feast takes seconds, so the request path does not import this module.
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
from features.spec import TIME_COLUMN, FeatureSpec, View
from services.platform.settings import Settings


def open_store(settings: Settings, spec: FeatureSpec, log_path: str = "") -> FeatureStore:
    """Open the store, with its views applied.

    Args:
        log_path: Folder of the state logs, a path or s3:// URL; the lake's by default.
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
    # Feast warns that on-demand views may be slow offline; docs/adr/0002 has the measured time.
    warnings.filterwarnings("ignore", message="On demand feature view is an experimental")
    store = FeatureStore(config=config)
    store.apply(definitions(spec, log_path or f"s3://{settings.bucket}/{spec.design}/states"))
    return store


def definitions(
    spec: FeatureSpec, log_path: str
) -> list[Entity | FeatureView | OnDemandFeatureView | FeatureService]:
    """All Feast objects of a design."""
    entities = {
        key: Entity(name=key, join_keys=[key], value_type=ValueType.STRING)
        for view in _views(spec)
        for key in view.keys
    }
    views = [_state_view(state, entities, log_path) for state in spec.states]
    request = RequestSource(
        name="request", schema=[Field(name=n, dtype=Float64) for n in spec.request_features]
    )
    groups = [_group_view(spec, n, names, [*views, request]) for n, names in spec.groups.items()]
    services = [FeatureService(name=spec.design, features=list(groups))]
    embeddings = [_state_view(e, entities, log_path) for e in spec.embeddings]
    if embeddings:
        groups += [
            _group_view(spec, n, names, embeddings) for n, names in spec.embedding_groups.items()
        ]
        services.append(FeatureService(name=graph_service(spec), features=list(groups)))
    return [*entities.values(), *views, *embeddings, *groups, *services]


def _views(spec: FeatureSpec) -> tuple[View, ...]:
    return (*spec.states, *spec.embeddings)


def graph_service(spec: FeatureSpec) -> str:
    """Name of the feature service that includes the embeddings."""
    return f"{spec.design}_graph"


def _state_view(state: View, entities: Mapping[str, Entity], log_path: str) -> FeatureView:
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
    )


def _group_view(
    spec: FeatureSpec,
    name: str,
    features: tuple[str, ...],
    sources: list[FeatureView | RequestSource],
) -> OnDemandFeatureView:
    transform = _transform_of(spec.transform, name)
    return OnDemandFeatureView(
        name=name,
        sources=sources,
        schema=[Field(name=feature, dtype=Float64) for feature in features],
        feature_transformation=PandasTransformation(udf=transform, udf_string=spec.transform),
        mode="pandas",
    )


def _transform_of(path: str, group: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """The transform of one group; its module is imported at the first call."""

    def transform(frame: pd.DataFrame) -> pd.DataFrame:
        module, _, function = path.partition(":")
        result: pd.DataFrame = getattr(import_module(module), function)(group, frame)
        return result

    return transform
