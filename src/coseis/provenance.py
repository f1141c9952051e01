"""Polygons and the scenes of a run go in, when and how obliquely each polygon was seen comes out."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import geopandas as gpd
import numpy as np

from coseis.types import Scene


class _Seen(NamedTuple):
    """Of some scenes together."""

    first: str | None = None
    last: str | None = None
    off_nadir_deg: float = np.nan


def provenance_attributes(polygons: gpd.GeoDataFrame, scenes: Sequence[Scene]) -> gpd.GeoDataFrame:
    """The polygons with when they were seen; their columns are kept.

    Args:
        polygons: With `scenes`, item ids with commas between.
        scenes: Those that the map was made from.

    Returns:
        New columns: `seen_from` and `seen_to`, first and last acquisition among a polygon's own scenes, ISO
        8601 in UTC, missing where one of them is not known; `off_nadir_deg`, the largest view angle that
        they state, NaN where none does.
    """
    by_id: dict[str, list[Scene]] = {}
    for scene in scenes:
        by_id.setdefault(scene.item_id, []).append(scene)
    # Neighbours were seen in the same scenes: there are far fewer lists than polygons.
    seen = {names: _seen(names, by_id) for names in polygons["scenes"].unique()}
    rows = [seen[names] for names in polygons["scenes"]]
    return polygons.assign(
        seen_from=[row.first for row in rows],
        seen_to=[row.last for row in rows],
        off_nadir_deg=np.array([row.off_nadir_deg for row in rows], dtype=np.float64),
    )


def _seen(names: str, by_id: Mapping[str, Sequence[Scene]]) -> _Seen:
    ids = [name for name in names.split(",") if name]
    # An id may hold a comma: then nothing is said.
    if not ids or any(name not in by_id for name in ids):
        return _Seen()
    used = [scene for name in ids for scene in by_id[name]]
    angles = [abs(scene.off_nadir_deg) for scene in used if scene.off_nadir_deg is not None]
    return _Seen(
        _written(min(scene.start for scene in used)),
        _written(max(scene.end for scene in used)),
        max(angles, default=np.nan),
    )


def _written(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
