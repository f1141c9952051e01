"""Status codes of a map in, how much of every square kilometre was seen out.

"No polygon" means "no landslide" only where the ground was seen: this layer says where that is. Counts are
whole pixels of cells on the kilometres of the map's own grid, so they add up over any blocks.
"""

from collections.abc import Iterable, Iterator, Sequence

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from coseis.types import CONTEXT_INCOMPLETE, SCENE_FILL, Phase, Status

CELL_M = 1000
REASONS = (
    Status.CLOUD,
    Status.SHADOW,
    Status.HAZE,
    Status.LIGHT_HAZE,
    Status.SNOW,
    Status.UNUSABLE,
    Status.NODATA,
    Status.NOT_ACQUIRED,
    Status.FAILED,
    Status.NOT_COMPUTED,
)
"""Why a pixel of the area was not seen, or what it was seen through, each a column."""


def count_cells(
    status: NDArray[np.uint8],
    scene: NDArray[np.uint16],
    phases: Sequence[Phase],
    geobox: GeoBox,
    *,
    origin: tuple[int, int],
) -> pd.DataFrame:
    """Counts of one block, a row a cell that holds any of the area.

    Args:
        status: uint8 (phase, y, x), status codes with or without the context bit.
        scene: uint16 (phase, y, x), scene index, SCENE_FILL where none was used.
        phases: Names of the phases.
        geobox: Grid of the whole map, in metres, north up.
        origin: Row and column of the block's first pixel.

    Returns:
        Indexed by (north, east), the cell's place in kilometres of the grid; columns of pixel counts: `area`,
        `seen_post`, `seen_pre` where there is that phase, and one a reason, of the post phase.
    """
    codes = status & ~np.uint8(CONTEXT_INCOMPLETE)
    post = phases.index("post")
    seen = [f"seen_{phase}" for phase in phases]
    rows = []
    for north, y in _spans(geobox.affine.f, geobox.affine.e, origin[0], status.shape[1]):
        for east, x in _spans(geobox.affine.c, geobox.affine.a, origin[1], status.shape[2]):
            counts = np.bincount(codes[post, y, x].ravel(), minlength=len(Status))
            inside = codes[post, y, x] != Status.OUTSIDE_AOI
            if not inside.any():
                continue
            used = [(inside & (of_phase[y, x] != SCENE_FILL)).sum() for of_phase in scene]
            rows.append([north, east, inside.sum(), *used, *(counts[reason] for reason in REASONS)])
    columns = ["north", "east", "area", *seen, *(reason.name.lower() for reason in REASONS)]
    return pd.DataFrame(rows, columns=columns, dtype=np.int64).set_index(["north", "east"])


def join_cells(counts: Iterable[pd.DataFrame], geobox: GeoBox) -> gpd.GeoDataFrame:
    """The cells of a whole map from the counts of its blocks, ordered from north to south and west to east.

    Returns:
        `area_km2` of the cell that belongs to the map; `observed` and `pre_observed`, shares of it that the
        phase saw, 0-1; a share a reason (`cloud`, ...), of the post phase; the square, in the grid's CRS.
    """
    total = pd.concat(counts).groupby(level=[0, 1]).sum().sort_index(ascending=[False, True])
    north, east = (total.index.get_level_values(level).to_numpy(float) for level in ("north", "east"))
    corner = np.array([east, north]) * CELL_M
    area = total["area"].astype(float)
    shares = {
        name: (total[column] / area).round(6) if column in total else area * 0
        for name, column in {
            "observed": "seen_post",
            "pre_observed": "seen_pre",
            **{reason.name.lower(): reason.name.lower() for reason in REASONS},
        }.items()
    }
    return gpd.GeoDataFrame(
        {"area_km2": (area * abs(geobox.affine.a * geobox.affine.e) / 1e6).round(6), **shares},
        geometry=shapely.box(corner[0], corner[1], corner[0] + CELL_M, corner[1] + CELL_M),
        crs=str(geobox.crs),
    ).reset_index(drop=True)


def _spans(first_m: float, step_m: float, start: int, count: int) -> Iterator[tuple[int, slice]]:
    """(kilometre, slice of the block) along one axis: a pixel belongs to the cell that holds its centre."""
    place = np.floor((first_m + (start + np.arange(count) + 0.5) * step_m) / CELL_M).astype(int)
    changes = np.flatnonzero(np.diff(place)) + 1
    for begin, end in zip([0, *changes], [*changes, count], strict=True):
        yield int(place[begin]), slice(int(begin), int(end))
