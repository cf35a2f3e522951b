"""A Feast offline store on a DuckDB ASOF JOIN: the last state strictly before each row.

Feast loads this class through `offline_store.type`. Feast's own stores join rows with
timestamp <= the entity row's, so a transaction would see the state that it produced itself (see
docs/adr/0002). The join is ordered by the stream's sequence where the entity rows have one
(`seq`), else by event time: online, a request sees what came before it in the stream, which for
a late event differs from what came before it in time.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
from feast import FeatureView, OnDemandFeatureView, RepoConfig
from feast.data_source import DataSource
from feast.infra.offline_stores.file_source import FileSource, SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import (
    OfflineStore,
    RetrievalJob,
    RetrievalMetadata,
)
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel
from feast.saved_dataset import SavedDatasetStorage

from features.spec import SEQ_COLUMN, TIME_COLUMN
from services.platform.settings import settings
from services.platform.storage.lake import Lake


class AsofOfflineStoreConfig(FeastConfigBaseModel):
    """Configuration of the store; it has no settings."""

    type: Literal["features.offline.AsofOfflineStore"] = "features.offline.AsofOfflineStore"


class AsofRetrievalJob(RetrievalJob):
    """A query that runs when its result is read."""

    def __init__(
        self,
        query: Callable[[], pa.Table],
        full_feature_names: bool = False,
        on_demand: Sequence[OnDemandFeatureView] = (),
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._query = query
        self._full_feature_names = full_feature_names
        self._on_demand = list(on_demand)
        self._metadata = metadata

    @property
    def full_feature_names(self) -> bool:
        """Whether features are named `view__feature`."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """Feature groups that Feast computes from the joined states."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """The features and keys requested, and their range of time."""
        return self._metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._query()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._query().to_pandas()

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool | None = False,
        timeout: int | None = None,
    ) -> None:
        """Write the result to a Parquet file. FileExistsError unless overwriting is allowed."""
        if not isinstance(storage, SavedDatasetFileStorage):
            raise TypeError(f"{type(storage).__name__}: this store persists to files")
        path = Path(storage.file_options.uri)
        if path.exists() and not allow_overwrite:
            raise FileExistsError(str(path))
        self.to_df().to_parquet(path)


class AsofOfflineStore(OfflineStore):
    """Reads Parquet files from S3 or disk and joins them in DuckDB."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        **kwargs: Any,
    ) -> RetrievalJob:
        """The states of each row's entities strictly before the row, in the rows' order.

        Args:
            entity_df: Join keys, `event_timestamp`, the request features, and optionally `seq`.

        Raises:
            ValueError: `entity_df` is not a DataFrame, or has no column `event_timestamp`.
        """
        if not isinstance(entity_df, pd.DataFrame):
            raise ValueError("entity_df: must be a DataFrame, not SQL or a range of time")
        if TIME_COLUMN not in entity_df:
            raise ValueError(f"entity_df: no column {TIME_COLUMN!r}")
        frame = entity_df

        def query() -> pa.Table:
            return _join(frame, feature_views, full_feature_names)

        times = frame[TIME_COLUMN]
        return AsofRetrievalJob(
            query,
            full_feature_names,
            OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            RetrievalMetadata(
                features=feature_refs,
                keys=[c for c in frame.columns if c != TIME_COLUMN],
                min_event_timestamp=times.min(),
                max_event_timestamp=times.max(),
            ),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Each entity's newest row within a range of time, for Feast's materialization."""
        source = _dataset(data_source)
        chosen = ", ".join([*join_key_columns, *feature_name_columns, timestamp_field])
        newest = ", ".join([timestamp_field, SEQ_COLUMN])

        def query() -> pa.Table:
            with duckdb.connect() as db:
                db.register("source", source)
                return db.sql(
                    f"SELECT {chosen} FROM source WHERE {timestamp_field} BETWEEN ? AND ? "
                    f"QUALIFY row_number() OVER (PARTITION BY {', '.join(join_key_columns)} "
                    f"ORDER BY ({newest}) DESC) = 1",
                    params=[start_date, end_date],
                ).to_arrow_table()

        return AsofRetrievalJob(query)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """All rows within a range of time."""
        source = _dataset(data_source)
        chosen = [*join_key_columns, *feature_name_columns, timestamp_field]
        time = ds.field(timestamp_field)
        keep = ds.scalar(True)
        if start_date is not None:
            keep = keep & (time >= start_date)
        if end_date is not None:
            keep = keep & (time <= end_date)
        return AsofRetrievalJob(lambda: source.to_table(columns=chosen, filter=keep))

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """Check the type only: the first backfill writes the files after the views exist."""
        if not isinstance(data_source, FileSource):
            raise TypeError(f"{type(data_source).__name__}: this store reads Parquet files")


def _dataset(source: DataSource | None) -> ds.Dataset:
    """The files of a source. FileNotFoundError where none was written for this feature set."""
    if not isinstance(source, FileSource):
        raise TypeError(f"{type(source).__name__}: this store reads Parquet files")
    path = str(source.path)
    where = Lake(settings()).filesystem if path.startswith("s3://") else None
    try:
        return ds.dataset(path.removeprefix("s3://"), filesystem=where, format="parquet")
    except FileNotFoundError:
        message = f"there is no log of this feature set's states in {path}: `whiteboard rebuild`"
        raise FileNotFoundError(message) from None


def _join(frame: pd.DataFrame, views: Sequence[FeatureView], full_names: bool) -> pa.Table:
    """One ASOF LEFT JOIN per view. DuckDB does not keep row order, hence the row number."""
    order = SEQ_COLUMN if SEQ_COLUMN in frame else TIME_COLUMN
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        db.register("entities", pa.Table.from_pandas(frame, preserve_index=False))
        db.execute("CREATE TABLE joined AS SELECT row_number() OVER () AS _row, * FROM entities")
        for view in views:
            _join_view(db, view, order, full_names)
        return db.sql("SELECT * EXCLUDE (_row) FROM joined ORDER BY _row").to_arrow_table()


def _join_view(
    db: duckdb.DuckDBPyConnection, view: FeatureView, order: str, full_names: bool
) -> None:
    """Add a view's columns to the table `joined`."""
    source = view.batch_source
    if source is None:
        raise ValueError(f"feature view {view.name} has no source to read")
    keys = [e.name for e in view.entity_columns]
    names = [f.name for f in view.features]
    prefix = f"{view.projection.name_to_use()}__" if full_names else ""
    timestamp = source.timestamp_field
    column = SEQ_COLUMN if order == SEQ_COLUMN else timestamp
    # Batch by batch: the log is the largest table of the lake.
    db.register("source", _dataset(source).scanner(columns=[*keys, *names, column]).to_reader())
    absent = " OR ".join(f"j.{key} IS NULL" for key in keys)
    # A null key gives a list of one NaN, which `state_log.stack` expands to a row of NaN.
    picked = (
        f"CASE WHEN {absent} THEN ['NaN'::DOUBLE] ELSE v.{name} END AS \"{prefix}{name}\""
        for name in names
    )
    db.execute("CREATE TABLE wider AS SELECT j.*, "
        + ", ".join(picked)
        + " FROM joined j ASOF LEFT JOIN source v ON "
        + " AND ".join(f"j.{key} = v.{key}" for key in keys)
        + f" AND j.{order} > v.{column}"
    )  # fmt: skip
    db.execute("DROP TABLE joined; ALTER TABLE wider RENAME TO joined")
    db.unregister("source")
