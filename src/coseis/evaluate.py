"""A predicted mask and labels in, counts of right and wrong pixels and the scores from them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pyogrio
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pydantic import NonNegativeInt
from pyproj import CRS, Transformer
from rasterio.features import rasterize
from rasterio.windows import Window

from coseis.errors import UsageError
from coseis.types import LABEL_IGNORE, Value

BoolArray = npt.NDArray[np.bool_]
UintArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]
RASTER_SUFFIXES = frozenset({".tif", ".tiff"})
VECTOR_SUFFIXES = frozenset({".gpkg", ".geojson", ".json", ".shp", ".fgb"})
PARQUET_SUFFIXES = frozenset({".parquet", ".geoparquet"})


SAMPLE_PX = 4096
"""Longest side of the sample in which the classes of a label raster are counted."""


class Scores(Value):
    """Counts of pixels, which add up over chunks in any order, and the scores that they give.

    A score whose denominator is 0 is None: without a predicted pixel there is no precision.
    """

    tp: NonNegativeInt = 0
    """Landslide, and predicted so."""
    fp: NonNegativeInt = 0
    """Predicted, but no landslide."""
    fn: NonNegativeInt = 0
    """Landslide, but not predicted."""
    tn: NonNegativeInt = 0
    """Neither."""

    def __add__(self, other: Scores) -> Scores:
        return Scores(
            tp=self.tp + other.tp, fp=self.fp + other.fp, fn=self.fn + other.fn, tn=self.tn + other.tn
        )

    @property
    def pixels(self) -> int:
        """All that were counted."""
        return self.tp + self.fp + self.fn + self.tn

    @property
    def precision(self) -> float | None:
        """Share of the predicted pixels that are landslide."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float | None:
        """Share of the landslide pixels that were predicted."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; 0 if landslides and predictions never meet."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float | None:
        """Intersection over union of prediction and truth."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def prevalence(self) -> float | None:
        """Share of landslide pixels in the truth. F1 depends on it: compare only where it is alike."""
        return _ratio(self.tp + self.fn, self.pixels)

    def summary(self) -> dict[str, float | None]:
        """Counts and scores by name, for a report."""
        names = ("tp", "fp", "fn", "tn", "precision", "recall", "f1", "iou", "prevalence")
        return {name: getattr(self, name) for name in names}


class Labels(Protocol):
    """Truth that can be asked for any part of a grid."""

    def mask(self, geobox: GeoBox) -> UintArray:
        """uint8 (y, x): 0 background, 1 landslide, LABEL_IGNORE where the truth is not known."""
        ...


@dataclass(frozen=True)
class PolygonLabels:
    """Landslide polygons; whatever lies outside of them is background."""

    polygons: gpd.GeoSeries
    """In the CRS of the grid that is asked for."""

    def mask(self, geobox: GeoBox) -> UintArray:
        """A pixel is landslide when its centre lies in a polygon; uint8 (y, x), 0 or 1."""
        near = self.polygons.iloc[self.polygons.sindex.query(geobox.extent.geom, predicate="intersects")]
        mask = np.zeros(geobox.shape, dtype=np.uint8)
        if len(near):
            rasterize(near, out=mask, transform=geobox.affine, default_value=1)
        return mask


@dataclass(frozen=True)
class RasterLabels:
    """A one-band label raster on any grid; not 0 is landslide, nodata and what lies outside is not known."""

    path: Path

    def mask(self, geobox: GeoBox) -> UintArray:
        """The label under each pixel's centre, so nearest neighbour and alike for any block; uint8 (y, x)."""
        mask = np.full(geobox.shape, LABEL_IGNORE, dtype=np.uint8)
        with rasterio.open(self.path) as source:
            rows, columns = _source_pixels(geobox, source)
            inside = (rows >= 0) & (rows < source.height) & (columns >= 0) & (columns < source.width)
            if not inside.any():
                return mask
            rows, columns = rows[inside], columns[inside]
            top, left = int(rows.min()), int(columns.min())
            window = Window(left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1)
            labels = source.read(1, window=window)
            known = (source.read_masks(1, window=window) > 0) & ~np.isnan(labels)
        values = np.where(known, labels != 0, LABEL_IGNORE).astype(np.uint8)
        mask[inside] = values[rows - top, columns - left]
        return mask


def score(predicted: BoolArray, truth: BoolArray, observed: BoolArray | None = None) -> Scores:
    """Compares two masks pixel by pixel.

    Args:
        predicted: bool (y, x).
        truth: bool (y, x).
        observed: bool (y, x), pixels that count; None: all of them.

    Raises:
        ValueError: The shapes differ.
    """
    for name, mask in (("truth", truth), ("observed", observed)):
        if mask is not None and mask.shape != predicted.shape:
            raise ValueError(
                f"predicted has shape {predicted.shape}, {name} {mask.shape}; expected the same grid"
            )
    counted = np.ones(predicted.shape, dtype=bool) if observed is None else observed
    hit = predicted & truth & counted
    tp = np.count_nonzero(hit)
    fp = np.count_nonzero(predicted & counted) - tp
    fn = np.count_nonzero(truth & counted) - tp
    return Scores(tp=tp, fp=fp, fn=fn, tn=np.count_nonzero(counted) - tp - fp - fn)


def score_blocks(
    geoboxes: Iterable[GeoBox],
    read_prediction: Callable[[GeoBox], tuple[BoolArray, BoolArray]],
    labels: Labels,
) -> Scores:
    """Scores a map of any size block by block; the sum does not depend on how it was cut.

    Args:
        geoboxes: Parts of the map's grid that cover it once.
        read_prediction: From a part, predicted and observed, bool (y, x) each.
        labels: From `open_labels`; pixels without a known truth are not counted.
    """
    total = Scores()
    for geobox in geoboxes:
        predicted, observed = read_prediction(geobox)
        truth = labels.mask(geobox)
        total += score(predicted, truth == 1, observed & (truth != LABEL_IGNORE))
    return total


def read_labels(path: str | Path, geobox: GeoBox) -> UintArray:
    """Labels on a grid: uint8 (y, x), 0 background, 1 landslide, LABEL_IGNORE where the truth is not known.

    Raises:
        UsageError: As `open_labels`.
    """
    return open_labels(path, geobox).mask(geobox)


def open_labels(path: str | Path, geobox: GeoBox) -> Labels:
    """Opens landslide polygons or a label raster, to be asked block by block.

    Args:
        path: GeoPackage, GeoJSON, Shapefile, FlatGeobuf or GeoParquet with polygons in any CRS, or a
            one-band GeoTIFF on any grid, 0 being background.
        geobox: The whole grid; labels that nowhere touch it are refused.

    Raises:
        UsageError: Absent, of another type, without CRS, without polygons, or somewhere else.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"labels {path} do not exist")
    suffix = path.suffix.lower()
    if suffix in RASTER_SUFFIXES:
        return _open_raster(path, geobox)
    if suffix in VECTOR_SUFFIXES | PARQUET_SUFFIXES:
        return _open_polygons(path, geobox)
    known = ", ".join(sorted(RASTER_SUFFIXES | VECTOR_SUFFIXES | PARQUET_SUFFIXES))
    raise UsageError(f"labels {path} have the unknown suffix {suffix or '(none)'}; expected one of {known}")


def _open_polygons(path: Path, geobox: GeoBox) -> PolygonLabels:
    frame = _read_frame(path)
    if frame.crs is None:
        raise UsageError(f"labels {path} have no CRS, so their place is unknown; store them with one")
    shapes = frame.geometry[~(frame.geometry.isna() | frame.geometry.is_empty)]
    odd = sorted(set(shapes.geom_type) - {"Polygon", "MultiPolygon"})
    if odd or shapes.empty:
        raise UsageError(f"labels {path} hold {', '.join(odd) or 'no geometry'}; expected polygons")
    shapes = shapes.to_crs(_grid_crs(geobox))
    if not shapes.intersects(geobox.extent.geom).any():
        raise UsageError(_elsewhere(path, tuple(shapes.total_bounds), geobox))
    return PolygonLabels(shapes.reset_index(drop=True))


def _read_frame(path: Path) -> gpd.GeoDataFrame:
    try:
        if path.suffix.lower() in PARQUET_SUFFIXES:
            return gpd.read_parquet(path)
        layers = [str(name) for name, geometry_type in pyogrio.list_layers(path) if geometry_type is not None]
        if len(layers) != 1:
            raise UsageError(
                f"labels {path} hold {len(layers)} layers with geometry ({', '.join(layers)}); expected one"
            )
        frame = gpd.read_file(path, layer=layers[0])
    except (OSError, ValueError, pyogrio.errors.DataSourceError) as error:
        raise UsageError(f"labels {path} cannot be read: {error}") from error
    if not isinstance(frame, gpd.GeoDataFrame):
        raise UsageError(f"labels {path} hold no geometry; expected polygons")
    return frame


def _open_raster(path: Path, geobox: GeoBox) -> RasterLabels:
    try:
        with rasterio.open(path) as source:
            if source.count != 1:
                raise UsageError(
                    f"label raster {path} has {source.count} bands; expected one, 0 being background"
                )
            if source.crs is None:
                raise UsageError(
                    f"label raster {path} has no CRS, so its place is unknown; store it with one"
                )
            bounds = rasterio.warp.transform_bounds(source.crs, _grid_crs(geobox).to_wkt(), *source.bounds)
            _check_one_class(path, source)
    except rasterio.errors.RasterioIOError as error:
        raise UsageError(f"labels {path} cannot be read: {error}") from error
    extent = geobox.extent.boundingbox
    if (
        bounds[0] >= extent.right
        or bounds[2] <= extent.left
        or bounds[1] >= extent.top
        or bounds[3] <= extent.bottom
    ):
        raise UsageError(_elsewhere(path, bounds, geobox))
    return RasterLabels(path)


def _check_one_class(path: Path, source: rasterio.DatasetReader) -> None:
    """Refuses a raster of several classes: scored as one, a land cover map would be all landslide."""
    shape = (min(source.height, SAMPLE_PX), min(source.width, SAMPLE_PX))
    sample = source.read(1, out_shape=shape, masked=True).compressed()
    classes = np.unique(sample[(sample != 0) & ~np.isnan(sample)])
    if classes.size > 1:
        shown = ", ".join(f"{value:g}" for value in classes[:5]) + (", ..." if classes.size > 5 else "")
        raise UsageError(
            f"label raster {path} holds {classes.size} values beside 0 ({shown}); "
            "expected one: 0 is background, the other landslide"
        )


def _source_pixels(
    geobox: GeoBox, source: rasterio.DatasetReader
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Row and column of a raster under the centre of each pixel of a grid, int64 (y, x), maybe outside."""
    columns, rows = np.meshgrid(np.arange(geobox.shape[1]) + 0.5, np.arange(geobox.shape[0]) + 0.5)
    x, y = _transformed(geobox.affine, columns, rows)
    source_crs = CRS.from_user_input(source.crs)
    if _grid_crs(geobox) != source_crs:
        x, y = Transformer.from_crs(_grid_crs(geobox), source_crs, always_xy=True).transform(x, y)
    source_columns, source_rows = _transformed(~source.transform, x, y)
    # Places that the source's CRS cannot express come back infinite; -1 is outside of any raster.
    finite = np.isfinite(source_columns) & np.isfinite(source_rows)
    return (
        np.where(finite, np.floor(source_rows), -1).astype(np.int64),
        np.where(finite, np.floor(source_columns), -1).astype(np.int64),
    )


def _transformed(affine: Affine, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Affine's own operator takes arrays too, but its types do not say so."""
    return affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f


def _grid_crs(geobox: GeoBox) -> CRS:
    if geobox.crs is None:
        raise UsageError("the grid has no CRS, so labels cannot be put on it")
    return CRS.from_user_input(geobox.crs)


def _elsewhere(path: Path, bounds: tuple[float, ...], geobox: GeoBox) -> str:
    extent = geobox.extent.boundingbox
    return (
        f"labels {path} lie elsewhere: they cover x {bounds[0]:.0f} to {bounds[2]:.0f}, y {bounds[1]:.0f} to "
        f"{bounds[3]:.0f}, the map x {extent.left:.0f} to {extent.right:.0f}, y {extent.bottom:.0f} to "
        f"{extent.top:.0f} in {geobox.crs}"
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
