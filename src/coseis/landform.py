"""A DEM and polygons go in; elevation, relief, slope and aspect of each polygon come out.

Slope is computed on the DEM's own pixels, never on resampled ones, and a pixel counts with the share of it
that the polygon covers (exactextract), so that a landslide smaller than a pixel has a value too.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from exactextract import exact_extract
from exactextract.feature import JSONFeatureSource
from exactextract.operation import Operation
from exactextract.raster import RasterSource
from numpy.typing import NDArray
from rasterio.windows import Window

from coseis.dem import Dem, Lattice
from coseis.errors import UsageError
from coseis.reach import REACH_COLUMNS, measure_reach

TERRAIN_COLUMNS = (
    "elevation_mean_m",
    "elevation_min_m",
    "elevation_max_m",
    "relief_m",
    "slope_mean_deg",
    "slope_p90_deg",
    "aspect_deg",
    *REACH_COLUMNS,
)
"""Numbers of a polygon, float64, NaN where the DEM has nothing of it; see `terrain_attributes`."""
GROUP_PX = 512
"""Polygons that begin in the same square of the DEM are read together."""
MOST_WINDOW_PX = 2**21
"""Most pixels of the DEM in memory at once: 64 bytes each."""
LEAST_RESULTANT = 1e-6
"""Directions whose mean is shorter than this cancel out: they have no mean direction."""

Floats = NDArray[np.float64]


class Surface(NamedTuple):
    """The ground at each pixel of a window, float64 (y, x) each, NaN where it is not known."""

    elevation: Floats
    """Metres."""
    slope: Floats
    """Degrees, 0-90; not known either where one of the eight neighbours is not."""
    east: Floats
    north: Floats
    """Unit vector down the slope, from true north; not known either where the ground is level."""


def slope_aspect(elevation: NDArray[np.floating], down_m: Floats, across_m: Floats) -> tuple[Floats, Floats]:
    """Slope and aspect from the eight neighbours of each pixel, as gdaldem gives them.

    Args:
        elevation: (y + 2, x + 2), metres, with a ring of one pixel around what is wanted; NaN is missing.
        down_m: Height of a pixel, metres, (y, x) or what broadcasts to it.
        across_m: Width of a pixel, likewise.

    Returns:
        Slope, float64 (y, x), degrees 0-90; and the direction down the slope, degrees 0-360 clockwise from
        the grid's up, NaN where the ground is level. Both NaN where any of the nine elevations is missing.

    Reference:
        Horn (1981), doi:10.1109/PROC.1981.11918.
    """
    z = elevation.astype(np.float64, copy=False)
    up, middle, down = z[:-2], z[1:-1], z[2:]
    rise_east = _ends(up) + 2 * _ends(middle) + _ends(down)
    rise_north = (up[:, :-2] + 2 * up[:, 1:-1] + up[:, 2:]) - (down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:])
    east, north = rise_east / (8 * across_m), rise_north / (8 * down_m)
    steepness = np.hypot(east, north)
    slope = np.degrees(np.arctan(steepness))
    slope[np.isnan(middle[:, 1:-1])] = np.nan
    aspect = np.mod(np.degrees(np.arctan2(-east, -north)), 360.0)
    aspect[(steepness == 0) | np.isnan(slope)] = np.nan
    return slope, aspect


def read_surface(lattice: Lattice, window: Window) -> Surface:
    """The ground in a window of a DEM. A pure function of each pixel, whatever the window.

    Raises:
        InputRefusedError: a tile cannot be read.
    """
    ringed = Window(window.col_off - 1, window.row_off - 1, window.width + 2, window.height + 2)
    elevation = lattice.elevation(ringed).astype(np.float64)
    down_m, across_m, up_deg = lattice.pixel_size_m(window)
    slope, aspect = slope_aspect(elevation, down_m, across_m)
    direction = np.radians(aspect + up_deg)
    return Surface(elevation[1:-1, 1:-1], slope, np.sin(direction), np.cos(direction))


def terrain_attributes(polygons: gpd.GeoDataFrame, dem: Dem, *, group_px: int = GROUP_PX) -> gpd.GeoDataFrame:
    """The polygons with what the ground is like under each; their columns are kept.

    Polygons are read in groups by place, so a region needs no more memory than a window of it, and the values
    do not depend on the groups. Of several lattices, the one counts that has most of the polygon.

    Args:
        polygons: Polygons in any CRS.
        dem: Where the elevations lie.
        group_px: Side of the squares by which polygons are grouped, pixels of the DEM.

    Returns:
        The same rows with `elevation_mean_m`, `elevation_min_m`, `elevation_max_m` and `relief_m`, the
        highest less the lowest pixel; `slope_mean_deg` and `slope_p90_deg`, which a tenth of the area
        exceeds; `aspect_deg`, mean direction down the slope, clockwise from true north, each part of the area
        with the same weight; `drop_m`, `runout_m` and `h_over_l`, see `reach.measure_reach`; `dem_share`,
        the share of the polygon with an elevation, 0-1; `dem_source`. Numbers are NaN where the share is 0,
        those of slope and aspect also where no slope is known.

    Raises:
        UsageError: the polygons have no CRS.
        InputRefusedError: a tile cannot be read.
    """
    if polygons.crs is None:
        raise UsageError("the polygons have no CRS; set it with set_crs")
    best = pd.DataFrame(np.nan, index=range(len(polygons)), columns=[*TERRAIN_COLUMNS, "dem_share"])
    best["dem_share"] = 0.0
    crs = polygons.crs.to_wkt()
    for lattice in dem.lattices:
        shapes = _on_lattice(polygons.geometry.to_numpy(), lattice, crs)
        for rows, window in _groups(shapes, lattice, best.dem_share.to_numpy() < 1, group_px):
            found = _measure(shapes[rows], lattice, window)
            better = found.dem_share.to_numpy() > best.dem_share.to_numpy()[rows]
            best.iloc[rows[better]] = found.to_numpy()[better]
    columns = {name: best[name].to_numpy() for name in best.columns}
    return polygons.assign(**columns, dem_source=dem.source)


def _ends(row: Floats) -> Floats:
    """Rise from the pixel before to the pixel after."""
    return row[:, 2:] - row[:, :-2]


def _on_lattice(shapes: NDArray[np.object_], lattice: Lattice, crs: str) -> NDArray[np.object_]:
    """Shapes with columns as x and rows as y: all edges of pixels are whole numbers."""

    def place(xy: Floats) -> Floats:
        return np.column_stack(lattice.to_pixels(xy[:, 0], xy[:, 1], crs))

    moved: NDArray[np.object_] = np.asarray(shapely.transform(shapes, place))
    return moved


def _groups(
    shapes: NDArray[np.object_], lattice: Lattice, wanted: NDArray[np.bool_], group_px: int
) -> Iterator[tuple[NDArray[np.int64], Window]]:
    """Row numbers of the wanted shapes that begin in one square and touch the DEM, and their window."""
    touching = np.unique(lattice.boxes.query(shapes)[0])
    rows = touching[wanted[touching]]
    left, top, right, bottom = shapely.bounds(shapes[rows]).T
    sides = pd.DataFrame(
        {"row0": np.floor(top), "row1": np.ceil(bottom), "col0": np.floor(left), "col1": np.ceil(right)},
        dtype=np.int64,
    )
    square = [sides.row0 // group_px, sides.col0 // group_px]
    for _, group in sides.groupby(square):
        row, col = int(group.row0.min()), int(group.col0.min())
        window = Window(col, row, int(group.col1.max()) - col, int(group.row1.max()) - row)
        if window.width * window.height <= MOST_WINDOW_PX or len(group) == 1:
            yield rows[group.index], window
            continue
        # One of them is huge: the others must not be read with it.
        for number, one in group.iterrows():
            window = Window(int(one.col0), int(one.row0), int(one.col1 - one.col0), int(one.row1 - one.row0))
            yield rows[[number]], window


def _measure(shapes: NDArray[np.object_], lattice: Lattice, window: Window) -> pd.DataFrame:
    """The attributes of some shapes that lie in a window, in their order."""
    surface = _reader(lattice, window)
    layers = {name: _Layer(surface, number, window) for number, name in enumerate(Surface._fields)}
    wanted = {
        "area_px": ("count", "elevation"),
        "elevation_mean_m": ("mean", "elevation"),
        "elevation_min_m": ("min", "elevation"),
        "elevation_max_m": ("max", "elevation"),
        "slope_mean_deg": ("mean", "slope"),
        "slope_p90_deg": ("quantile", "slope"),
        "east": ("mean", "east"),
        "north": ("mean", "north"),
    }
    operations = [
        Operation(statistic, name, layers[layer], options={"q": 0.9} if statistic == "quantile" else None)
        for name, (statistic, layer) in wanted.items()
    ]
    upwards = shapely.transform(shapes, lambda xy: xy * (1, -1))  # it counts y from the south
    features = [{"type": "Feature", "properties": {}, "geometry": s.__geo_interface__} for s in upwards]
    table: pd.DataFrame = exact_extract(
        list(layers.values()),
        JSONFeatureSource(features),
        operations,
        output="pandas",
        max_cells_in_memory=MOST_WINDOW_PX,
    )
    table.columns = list(wanted)  # it adds the quantile to that column's name
    table["relief_m"] = table.elevation_max_m - table.elevation_min_m
    east, north = table.east.to_numpy(np.float64), table.north.to_numpy(np.float64)
    directed = np.hypot(east, north) >= LEAST_RESULTANT
    table["aspect_deg"] = np.where(directed, np.degrees(np.arctan2(east, north)) % 360, np.nan)
    for name, values in measure_reach(shapes, lattice)._asdict().items():
        table[name] = values
    # Shares of pixels are float32: a millionth is beneath them.
    table["dem_share"] = (table.area_px / shapely.area(shapes)).clip(0, 1).round(6)
    return table[[*TERRAIN_COLUMNS, "dem_share"]].astype(np.float64)


def _reader(lattice: Lattice, window: Window) -> Callable[[Window], Surface]:
    """Reads parts of a window: from memory, or each by itself where the window is too large for it."""
    whole = read_surface(lattice, window) if window.width * window.height <= MOST_WINDOW_PX else None
    last: dict[tuple[int, ...], Surface] = {}

    def read(part: Window) -> Surface:
        if whole is not None:
            rows, cols = part.toslices()
            return Surface(*(layer[rows, cols] for layer in whole))
        if part.flatten() not in last:  # asked for once a layer
            last.clear()
            place = Window(
                window.col_off + part.col_off, window.row_off + part.row_off, part.width, part.height
            )
            last[part.flatten()] = read_surface(lattice, place)
        return last[part.flatten()]

    return read


class _Layer(RasterSource):  # type: ignore[misc]  # it has no types
    """One layer of the surface in a window, as exactextract asks for it."""

    def __init__(self, surface: Callable[[Window], Surface], number: int, window: Window) -> None:
        super().__init__()
        self._surface, self._number, self._window = surface, number, window
        self.set_name(Surface._fields[number])

    def res(self) -> tuple[float, float]:
        return 1.0, 1.0

    def extent(self) -> tuple[float, float, float, float]:
        left, top = self._window.col_off, self._window.row_off
        return (
            float(left), float(-top - self._window.height), float(left + self._window.width), float(-top),
        )  # fmt: skip

    def srs_wkt(self) -> None:
        return None

    def nodata_value(self) -> float:
        return math.nan

    def read_window(self, x0: int, y0: int, nx: int, ny: int) -> NDArray[Any]:
        # A copy in one piece: it takes the memory as it lies.
        return np.ascontiguousarray(self._surface(Window(x0, y0, nx, ny))[self._number])
