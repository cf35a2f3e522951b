"""The charged-back party nearest to a party of a transaction, to explain an embedding.

The values of an embedding have no names. A reader can check instead which charged-back party is
nearest, at which distance, and what distance between parties is usual.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

import numpy as np
import pyarrow.compute as pc
from redis import Redis

from features.online.table import OnlineTable
from features.reading import embedding_values
from services.fraud.features.states import EMBEDDINGS, FEATURES, GRAPH
from services.fraud.ingestion.tables import LABELS_TABLE
from services.fraud.reasons.explainer import Explanation
from services.platform.storage.lake import Lake
from services.platform.types import Floats

# Chargebacks arrive in days; the newest stand for those that are running.
_NEWEST = 2_000
_REFRESH_S = 600.0
_MAX_PARTIES = 2


@dataclass(frozen=True)
class Neighbours:
    """Charged-back parties of one kind: P ids and embeddings (P, size), and their spread."""

    ids: list[str]
    values: Floats
    spread: float


class ChargedBackParties:
    """The parties of the newest chargebacks with their embeddings, read again every ten minutes."""

    def __init__(self, lake: Lake, redis: Redis) -> None:
        self._lake = lake
        self._redis = redis
        self._read_at = -_REFRESH_S
        self._known: dict[str, Neighbours] = {}

    def nearest(self, transaction: Mapping[str, Any], vector: Floats) -> list[dict[str, Any]]:
        """For each party with an embedding, the charged-back one nearest to it.

        Args:
            transaction: By entity, the party's id.
            vector: (len(FEATURES),) with the embeddings.

        Returns:
            `kind`, `id`, `nearest`, `distance` and `usual` (mean distance among charged-back
            parties), the nearest by their ratio first.

        Raises:
            OSError, redis.RedisError: an engine is away.
        """
        self._refresh()
        found = []
        for view in EMBEDDINGS:
            entity = view.keys[0]
            known, own = self._known.get(entity), transaction.get(entity)
            values = vector[[FEATURES.index(f"{view.name}_{i}") for i in range(view.size)]]
            if known is None or own is None or np.isnan(values).any():
                continue
            distance = np.linalg.norm(known.values - values, axis=1)
            distance[[i for i, one in enumerate(known.ids) if one == own]] = np.inf
            at = int(np.argmin(distance))
            if np.isfinite(distance[at]):
                found.append(_found(entity, own, known, at, float(distance[at])))
        return sorted(found, key=lambda one: one["distance"] / one["usual"])[:_MAX_PARTIES]

    def _refresh(self) -> None:
        if monotonic() - self._read_at < _REFRESH_S:
            return
        entities = [view.keys[0] for view in EMBEDDINGS]
        rows = self._lake.read(LABELS_TABLE, [*entities, "seq"], pc.field("fraud"))
        known = {}
        if rows is not None and len(rows):
            rows = rows.take(pc.sort_indices(rows["seq"]))[-_NEWEST:]
            for view in EMBEDDINGS:
                ids = [i for i in pc.unique(rows[view.keys[0]]).to_pylist() if i is not None]
                stored = OnlineTable(self._redis, view).load([(i,) for i in ids])
                values = embedding_values(stored)
                has = np.asarray(~np.isnan(values).any(axis=1))
                if has.sum() > 1:
                    kept = values[has]
                    spread = float(np.linalg.norm(kept - kept.mean(axis=0), axis=1).mean())
                    names = [i for i, h in zip(ids, has, strict=True) if h]
                    known[view.keys[0]] = Neighbours(names, kept, max(spread, 1e-9))
        self._known, self._read_at = known, monotonic()


def _found(entity: str, own: str, known: Neighbours, at: int, distance: float) -> dict[str, Any]:
    kind = entity.removesuffix("_id")
    return {
        "kind": kind,
        "id": own,
        "nearest": known.ids[at],
        "distance": distance,
        "usual": known.spread,
        "text": f"{kind} {own} lies next to the charged-back {kind} {known.ids[at]} "
        f"(distance {distance:.2f}, usually {known.spread:.2f})",
    }


def with_parties(
    found: Explanation, event: Mapping[str, Any], parties: ChargedBackParties
) -> Explanation:
    """An explanation whose graph reason names the nearest charged-back parties."""
    if not any(reason.group == GRAPH.name for reason in found.reasons):
        return found
    near = parties.nearest(event["transaction"], np.array(event["features"], dtype=np.float64))
    text = "; ".join(one["text"] for one in near)
    reasons = [
        replace(r, parties=near, text=text or r.text) if r.group == GRAPH.name else r
        for r in found.reasons
    ]
    return replace(found, reasons=reasons)
