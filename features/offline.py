"""A Feast offline store: the last state strictly before each row, in one pass over the log.

Feast loads this class through `offline_store.type`. Feast's own stores join rows with
timestamp <= the entity row's, so a transaction would see the state that it produced itself (see
docs/adr/0002). The join is ordered by the stream's sequence where the entity rows have one
(`seq`), else by event time: online, a request sees what came before it in the stream, which for
a late event differs from what came before it in time.

Memory grows with the rows that are asked for, not with the log.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
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
from services.platform.storage.joins import LastBefore
from services.platform.storage.lake import Lake
from services.platform.types import Integers

_ROWS_AT_ONCE = 50_000
_LOG_ROWS_AT_ONCE = 65_536


class AsofOfflineStoreConfig(FeastConfigBaseModel):
    """Configuration of the store; it has no settings."""

    type: Literal["features.offline.AsofOfflineStore"] = "features.offline.AsofOfflineStore"


class AsofRetrievalJob(RetrievalJob):
    """A query that runs when its result is read, as a whole or in parts."""

    def __init__(
        self,
        query: Callable[[], Iterable[pa.Table]],
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

    def parts(self) -> Iterator[pd.DataFrame]:
        """The result, some rows at a time, with the features that Feast computes."""
        for part in self._query():
            yield AsofRetrievalJob(
                partial(iter, [part]), self._full_feature_names, self._on_demand, self._metadata
            ).to_df()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return pa.concat_tables(self._query())

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal().to_pandas()

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
    """Reads Parquet files from S3 or disk."""

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

        def query() -> Iterator[pa.Table]:
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

        def query() -> Iterator[pa.Table]:
            with duckdb.connect() as db:
                db.register("source", source)
                yield db.sql(
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
        return AsofRetrievalJob(lambda: iter([source.to_table(columns=chosen, filter=keep)]))

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
        message = (
            f"there is no log of this feature set's states in {path}: `whiteboard rebuild DESIGN`"
        )
        raise FileNotFoundError(message) from None


def _join(
    frame: pd.DataFrame, views: Sequence[FeatureView], full_names: bool
) -> Iterator[pa.Table]:
    """The rows with the columns of all views, `_ROWS_AT_ONCE` at a time."""
    order = SEQ_COLUMN if SEQ_COLUMN in frame else TIME_COLUMN
    entities = pa.Table.from_pandas(frame, preserve_index=False)
    found = [(_prefix(view, full_names), _states_before(entities, view, order)) for view in views]
    for begin in range(0, max(len(entities), 1), _ROWS_AT_ONCE):
        part = entities.slice(begin, _ROWS_AT_ONCE)
        for prefix, (states, number) in found:
            of_part = number[begin : begin + _ROWS_AT_ONCE]
            picked = states.take(pa.array(of_part, mask=of_part < 0))
            for name in states.column_names:
                part = part.append_column(prefix + name, picked[name])
        yield part


def _prefix(view: FeatureView, full_names: bool) -> str:
    return f"{view.projection.name_to_use()}__" if full_names else ""


def _states_before(entities: pa.Table, view: FeatureView, order: str) -> tuple[pa.Table, Integers]:
    """The states of a view that N rows need, and (N,) which of them each row needs, -1 for none.

    The last state is what a row without the view's key needs: a list of one NaN, which
    `state_log.stack` expands to a row of NaN.
    """
    source = view.batch_source
    if source is None:
        raise ValueError(f"feature view {view.name} has no source to read")
    keys = [e.name for e in view.entity_columns]
    names = [f.name for f in view.features]
    moment = SEQ_COLUMN if order == SEQ_COLUMN else source.timestamp_field
    # A column without any key has no type of its own.
    of_rows = [entities[key].cast(pa.string()) for key in keys]
    wanted = LastBefore(of_rows, _moments(entities[order]))
    # Batch by batch: the log is the largest table of the lake.
    scanner = _dataset(source).scanner(
        columns=[*keys, *names, moment],
        batch_size=_LOG_ROWS_AT_ONCE,
        batch_readahead=2,
        fragment_readahead=1,
    )
    for batch in scanner.to_batches():
        rows = pa.Table.from_batches([batch])
        wanted.add([rows[key] for key in keys], _moments(rows[moment]), rows.select(names))
    states, number = wanted.found(scanner.projected_schema.empty_table().select(names))
    no_key = pa.table(
        {name: pa.array([[np.nan]], states.schema.field(name).type) for name in names}
    )
    absent = np.zeros(len(entities), dtype=bool)
    for column in of_rows:
        absent |= column.is_null().to_numpy()
    return pa.concat_tables([states, no_key]), np.where(absent, len(states), number)


def _moments(column: pa.ChunkedArray) -> Integers:
    """(N,) what a log is ordered by: sequences, or times as microseconds."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
    return np.asarray(column.to_numpy(), dtype=np.int64)
