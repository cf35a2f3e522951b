"""The Feast feature store: entities, views and feature services, from one feature set.

Built in Python rather than by `feast apply`, which imports files by path and then finds every
view twice. Importing Feast takes seconds, so the request path does not import this module.
"""

import atexit
import json
import os
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from importlib import import_module
from urllib.parse import unquote, urlsplit

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

from features.cluster.topology import ClusterUrl, is_cluster
from features.feature_set import FeatureSet
from features.groups import EmbeddingGroup, Group, Passthrough
from features.online.layout import PROJECT
from features.spec import TIME_COLUMN, View
from features.state_log import log_folder
from services.platform.secret_files import make_private
from services.platform.settings import Settings


def open_store(settings: Settings, features: FeatureSet, log_path: str = "") -> FeatureStore:
    """Open the store, with its views applied.

    Args:
        log_path: Folder of the state logs, a path or s3:// URL; the lake's by default.
    """
    home = make_private(settings.home / "feast")
    # Made from code each time, and for this process alone: Feast keeps pickled functions in it, and
    # runs them as it opens it.
    registry = (home / f"{features.design}-{os.getpid()}.db").resolve()
    registry.unlink(missing_ok=True)
    atexit.register(registry.unlink, missing_ok=True)
    config = RepoConfig(
        project=PROJECT,
        provider="local",
        registry={
            "path": str(registry),
            "cache_ttl_seconds": 0,
        },
        online_store=_online_store(settings.redis),
        offline_store={"type": "features.offline.AsofOfflineStore"},
        entity_key_serialization_version=3,
        repo_path=home,
    )
    # Feast warns that on-demand views may be slow offline; docs/adr/0002 has the measured time.
    warnings.filterwarnings("ignore", message="On demand feature view is an experimental")
    store = FeatureStore(config=config)
    folder = log_path or f"s3://{settings.bucket}/{features.design}/states"
    store.apply(definitions(features, folder))
    return store


def _online_store(url: str) -> dict[str, str]:
    """Feast's configuration of a Redis. In a cluster, it finds no row: see `online/layout.py`."""
    of_cluster = is_cluster(url)
    found = ClusterUrl.parse(url if of_cluster else url.replace("://", "+cluster://", 1))
    login = urlsplit(found.node(found.seeds[0]))
    account = {"username": login.username, "password": login.password}
    options = [f"{k}={_option(unquote(v))}" for k, v in account.items() if v]
    hosts = [f"{host}:{port}" for host, port in found.seeds]
    return {
        "type": "redis",
        "redis_type": "redis_cluster" if of_cluster else "redis",
        "connection_string": ",".join([*hosts, *options]),
    }


def _option(value: str) -> str:
    r"""A value in Feast's connection string, which is split at commas and read as JSON.

    >>> print(_option("a,b"), _option("1e5"))
    "a\u002cb" "1e5"
    """
    return json.dumps(value).replace(",", r"\u002c")


def definitions(
    features: FeatureSet, log_path: str
) -> list[Entity | FeatureView | OnDemandFeatureView | FeatureService]:
    """All Feast objects of a design."""
    entities = {
        key: Entity(name=key, join_keys=[key], value_type=ValueType.STRING)
        for view in features.views
        for key in view.keys
    }
    views = [_view(state, entities, log_path) for state in features.states]
    request = RequestSource(
        name="request", schema=[Field(name=n, dtype=Float64) for n in features.request_features]
    )
    groups = [_group_view(features, group, [*views, request]) for group in features.groups]
    services = [FeatureService(name=features.design, features=list(groups))]
    embeddings = [_view(view, entities, log_path) for view in features.embeddings]
    if embeddings:
        groups += [_group_view(features, g, embeddings) for g in features.embedding_groups]
        services.append(FeatureService(name=graph_service(features), features=list(groups)))
    return [*entities.values(), *views, *embeddings, *groups, *services]


def graph_service(features: FeatureSet) -> str:
    """Name of the feature service that includes the embeddings."""
    return f"{features.design}_graph"


def _view(view: View, entities: Mapping[str, Entity], log_path: str) -> FeatureView:
    keys = [Field(name=key, dtype=String) for key in view.keys]
    return FeatureView(
        name=view.name,
        entities=[entities[key] for key in view.keys],
        schema=[*keys, Field(name=view.name, dtype=Array(Float64))],
        source=FileSource(
            name=f"{view.name}_log",
            path=f"{log_path}/{log_folder(view)}",
            timestamp_field=TIME_COLUMN,
        ),
        ttl=timedelta(0),
        online=True,
    )


def _group_view(
    features: FeatureSet,
    group: Group | Passthrough | EmbeddingGroup,
    sources: list[FeatureView | RequestSource],
) -> OnDemandFeatureView:
    transform = _transform_of(features.transform, group.name)
    return OnDemandFeatureView(
        name=group.name,
        description=group.documentation,
        sources=sources,
        schema=[Field(name=feature.name, dtype=Float64) for feature in group.features],
        feature_transformation=PandasTransformation(udf=transform, udf_string=features.transform),
        mode="pandas",
    )


def _transform_of(path: str, group: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """The transform of one group; its module is imported at the first call."""

    def transform(frame: pd.DataFrame) -> pd.DataFrame:
        module, _, function = path.partition(":")
        result: pd.DataFrame = getattr(import_module(module), function)(group, frame)
        return result

    return transform
