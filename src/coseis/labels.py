"""A file of landslide polygons or a label raster in, the truth on any part of a grid out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

import geopandas as gpd
import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo.geobox import GeoBox
from pydantic import Field, NonNegativeInt, model_validator
from rasterio.features import rasterize
from scipy.ndimage import distance_transform_edt

from coseis.errors import UsageError
from coseis.grid import crs_of
from coseis.label_rasters import RasterLabels, elsewhere, open_raster
from coseis.types import LABEL_IGNORE, Value
from coseis.vectors import SUFFIXES, Features, read_features

UintArray = npt.NDArray[np.uint8]
RASTER_SUFFIXES = frozenset({".tif", ".tiff"})
BLOCK_PX = 512
"""Polygons are burnt in whole blocks of the grid: GDAL cuts outlines at the border of the array that it burns
into and rounds there, so that by the rule all_touched a window would now and then miss a pixel."""


class Labels(Protocol):
    """Truth that can be asked for any part of a grid."""

    def mask(self, geobox: GeoBox) -> UintArray:
        """uint8 (y, x): 0 background, 1 and up the classes, LABEL_IGNORE where the truth is not known."""
        ...


class LabelConfig(Value):
    """How polygons become labels; the defaults are those of an evaluation.

    Where polygons overlap, an earlier class lies on a later one and any class on an ignored one: a slide that
    an annotator drew on an old scar is a slide. Areas of an ignore file lie on everything: nothing that they
    cover, say by a cloud, can be seen.
    """

    solid_px: float = Field(
        0, ge=0, description="Labels grow by so many px over background (ENVI's solid distance)."
    )
    rule: Literal["centre", "all_touched"] = Field(
        "centre", description="A pixel is labelled if its centre lies in a polygon, or if one touches it."
    )
    class_field: str | None = Field(
        None, description="Attribute that names a polygon's class; without it all are of one class."
    )
    classes: tuple[str, ...] = Field(
        ("landslide",), min_length=1, max_length=LABEL_IGNORE - 1, description="Names in channel order."
    )
    ignore_classes: tuple[str, ...] = Field(
        (), description="Classes that are neither landslide nor background: old scars, clouds, water."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = self.classes + self.ignore_classes
        if len(set(names)) < len(names):
            raise ValueError(f"classes and ignore_classes name a class twice: {', '.join(names)}")
        if self.class_field is None and len(names) > 1:
            raise ValueError(
                f"{len(names)} classes ({', '.join(names)}) cannot be told apart: give class_field"
            )
        return self

    @property
    def values(self) -> dict[str, int]:
        """Label of each class by name, in the order in which they lie on each other, the uppermost first."""
        ignored = dict.fromkeys(self.ignore_classes, LABEL_IGNORE)
        return {name: number for number, name in enumerate(self.classes, 1)} | ignored


class LabelFindings(Value):
    """What was found in a file of polygons, for a report."""

    path: str
    polygons: NonNegativeInt
    """That touch the grid, and are used."""
    repaired: NonNegativeInt
    """Invalid, such as rings that cross themselves, and made valid."""
    empty: NonNegativeInt
    """Without a geometry or an area; left out."""
    outside: NonNegativeInt
    """Beyond the grid; left out."""
    by_class: dict[str, NonNegativeInt]
    """Used polygons by class, in the order of the configuration."""


@dataclass(frozen=True)
class PolygonLabels:
    """Polygons with their labels; whatever lies outside of them is background."""

    grid: GeoBox
    """The whole grid; its origin anchors the blocks."""
    polygons: gpd.GeoSeries
    """In the CRS of the grid, the uppermost last."""
    values: UintArray
    """uint8 (polygon,): the label of each."""
    rule: Literal["centre", "all_touched"]
    solid_px: float
    findings: LabelFindings

    def mask(self, geobox: GeoBox) -> UintArray:
        """uint8 (y, x): the label of the uppermost polygon, grown over background by `solid_px`, else 0.

        What is contested between two grown labels goes to the class that is named first.
        """
        margin_px = int(np.ceil(self.solid_px))
        y0, x0 = _origin_on(self.grid, geobox)
        height, width = geobox.shape
        drawn = self._burn(y0 - margin_px, x0 - margin_px, (height + 2 * margin_px, width + 2 * margin_px))
        if not margin_px:
            return drawn
        grown = drawn.copy()
        # LABEL_IGNORE is the greatest label and the last: where a slide may be, it counts.
        for value in np.unique(drawn[drawn > 0]):
            near = distance_transform_edt(drawn != value) <= self.solid_px
            grown[(grown == 0) & near] = value
        return grown[margin_px:-margin_px, margin_px:-margin_px]

    def _burn(self, y0: int, x0: int, shape: tuple[int, int]) -> UintArray:
        """The polygons as they are drawn, over a window of the grid that may reach beyond it."""
        mask = np.empty(shape, dtype=np.uint8)
        rows, columns = (
            [(at, max(at, start), min(at + BLOCK_PX, start + size))
             for at in range(start // BLOCK_PX * BLOCK_PX, start + size, BLOCK_PX)]
            for start, size in zip((y0, x0), shape, strict=True)
        )  # fmt: skip
        for block_y, top, bottom in rows:
            for block_x, left, right in columns:
                block = self._burn_block(block_y, block_x, _part_of(self.grid, top, left, bottom, right))
                mask[top - y0 : bottom - y0, left - x0 : right - x0] = block[
                    top - block_y : bottom - block_y, left - block_x : right - block_x
                ]
        return mask

    def _burn_block(self, block_y: int, block_x: int, needed: GeoBox) -> UintArray:
        """A block with the polygons near the part of it that is needed."""
        block = np.zeros((BLOCK_PX, BLOCK_PX), dtype=np.uint8)
        near = self.polygons.sindex.query(needed.pad(1).extent.geom, sort=True)
        if near.size:
            rasterize(
                zip(self.polygons.iloc[near], self.values[near].tolist(), strict=True),
                out=block,
                transform=self.grid.affine @ Affine.translation(block_x, block_y),
                all_touched=self.rule == "all_touched",
            )
        return block


@dataclass(frozen=True)
class GridLabels:
    """The labels of a grid, from what was drawn and what is to be ignored; can be sent to workers."""

    grid: GeoBox
    drawn: PolygonLabels | RasterLabels
    ignored: PolygonLabels | None
    """Areas whose truth is not known, whatever is drawn there."""

    def mask(self, geobox: GeoBox) -> UintArray:
        """The same for a pixel whatever part of the grid is asked for.

        Args:
            geobox: A window of the grid, which may reach beyond it.

        Returns:
            uint8 (y, x): 0 background, 1 and up the classes, LABEL_IGNORE where the truth is not known, as it
            is outside of the grid.

        Raises:
            ValueError: The pixels of the geobox are not those of the grid.
        """
        y0, x0 = _origin_on(self.grid, geobox)
        mask = self.drawn.mask(geobox)
        if self.ignored:
            mask[self.ignored.mask(geobox) == LABEL_IGNORE] = LABEL_IGNORE
        inside = np.zeros(mask.shape, dtype=bool)
        inside[max(0, -y0) : max(0, self.grid.shape.y - y0), max(0, -x0) : max(0, self.grid.shape.x - x0)] = (
            True
        )
        mask[~inside] = LABEL_IGNORE
        return mask

    @property
    def findings(self) -> tuple[LabelFindings, ...]:
        """Of the labels and of the ignored areas, as far as they are polygons."""
        return tuple(part.findings for part in (self.drawn, self.ignored) if isinstance(part, PolygonLabels))


def open_labels(
    path: str | Path,
    geobox: GeoBox,
    config: LabelConfig | None = None,
    *,
    ignore: str | Path | None = None,
) -> GridLabels:
    """Opens landslide polygons or a label raster, to be asked block by block.

    Args:
        path: GeoPackage, GeoJSON, Shapefile (also zipped), FlatGeobuf or GeoParquet with polygons in any CRS,
            or a one-band GeoTIFF on any grid, 0 being background.
        geobox: The whole grid; labels that nowhere touch it are refused.
        config: How polygons become labels; None: one class, by the pixel's centre.
        ignore: Polygons of areas whose truth is not known, in any of those formats and any CRS.

    Raises:
        UsageError: Absent, of another type, without CRS, without polygons, of an unknown class, or somewhere
            else; or a raster where the configuration needs polygons.
    """
    config = config or LabelConfig()
    ignored = None if ignore is None else _open_ignored(Path(ignore), geobox, config)
    path = _checked_path(Path(path), RASTER_SUFFIXES | SUFFIXES)
    if path.suffix.lower() not in RASTER_SUFFIXES:
        return GridLabels(geobox, _open_polygons(path, geobox, config), ignored)
    if config.solid_px or config.class_field is not None or config.rule != "centre":
        raise UsageError(
            f"labels {path} are a raster, which is used as it is; solid_px, class_field and the rule "
            "all_touched need polygons"
        )
    return GridLabels(geobox, open_raster(path, geobox), ignored)


def _checked_path(path: Path, suffixes: frozenset[str]) -> Path:
    if not path.exists():
        raise UsageError(f"labels {path} do not exist")
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise UsageError(
            f"labels {path} have the unknown suffix {suffix or '(none)'}; expected one of "
            + ", ".join(sorted(suffixes))
        )
    return path


def _open_polygons(path: Path, geobox: GeoBox, config: LabelConfig) -> PolygonLabels:
    features = _read(path, config.class_field)
    names = _class_names(path, features, config)
    return _prepare_polygons(path, features.shapes, names, config.values, geobox, config)


def _open_ignored(path: Path, geobox: GeoBox, config: LabelConfig) -> PolygonLabels:
    shapes = _read(_checked_path(path, SUFFIXES), None).shapes
    names = np.full(len(shapes), "ignored", dtype=object)
    as_drawn = LabelConfig(rule=config.rule)
    return _prepare_polygons(path, shapes, names, {"ignored": LABEL_IGNORE}, geobox, as_drawn)


def _class_names(path: Path, features: Features, config: LabelConfig) -> npt.NDArray[np.object_]:
    """Class of each polygon, str (polygon,)."""
    if config.class_field is None:
        return np.full(len(features.shapes), config.classes[0], dtype=object)
    if config.class_field not in features.fields:
        raise UsageError(
            f"labels {path} have no attribute {config.class_field}; they have "
            f"{', '.join(features.fields) or 'none'}"
        )
    column = features.values
    # A whole number beside a missing one is read as 2.0.
    names = np.array(["" if value != value or value is None else _name_of(value) for value in column], object)
    unknown = sorted(set(names) - config.values.keys())
    if unknown:
        raise UsageError(
            f"labels {path} hold the unknown {config.class_field} "
            f"{', '.join(name or '(missing)' for name in unknown[:5])}; expected one of "
            f"{', '.join(config.values)}: name it in classes or in ignore_classes"
        )
    return names


def _prepare_polygons(
    path: Path,
    shapes: gpd.GeoSeries,
    names: npt.NDArray[np.object_],
    values: dict[str, int],
    geobox: GeoBox,
    config: LabelConfig,
) -> PolygonLabels:
    """Repairs, reprojects and orders polygons, and counts what was odd about them."""
    _check_place(path, shapes)
    given = len(shapes)
    held = ~(shapes.isna() | shapes.is_empty).to_numpy()
    shapes, names = shapes[held], names[held]
    odd = sorted(set(shapes.geom_type) - {"Polygon", "MultiPolygon"})
    if odd or shapes.empty:
        raise UsageError(f"labels {path} hold {', '.join(odd) or 'no geometry'}; expected polygons")
    valid = shapes.is_valid.to_numpy()
    shapes = shapes.force_2d().make_valid(method="structure", keep_collapsed=False)
    solid = ~shapes.is_empty.to_numpy()
    repaired = int((solid & ~valid).sum())
    shapes, names = shapes[solid].to_crs(crs_of(geobox).wkt), names[solid]
    if shapes.empty:
        raise UsageError(f"labels {path} hold {given} polygons without area; expected polygons")
    bounds = shapes.bounds.to_numpy()
    if not np.isfinite(bounds).all():
        raise UsageError(
            f"labels {path} have coordinates that their CRS does not have; is it the right one? GeoJSON "
            "is in degrees"
        )
    reach_px = int(np.ceil(config.solid_px)) + 1
    near = shapes.intersects(geobox.pad(reach_px).extent.geom).to_numpy()
    if not near.any():
        raise elsewhere(path, tuple(shapes.total_bounds), geobox)
    # Sorted so that the uppermost class comes last, and is burnt over the others.
    rank = {name: -place for place, name in enumerate(values)}
    order = np.flatnonzero(near)[np.argsort([rank[name] for name in names[near]], kind="stable")]
    by_class = {name: int((names[order] == name).sum()) for name in values}
    findings = LabelFindings(
        path=str(path),
        polygons=order.size,
        repaired=repaired,
        empty=given - solid.sum(),
        outside=solid.sum() - order.size,
        by_class=by_class,
    )
    labels = np.array([values[name] for name in names[order]], dtype=np.uint8)
    drawn = shapes.iloc[order].reset_index(drop=True)
    return PolygonLabels(geobox, drawn, labels, config.rule, config.solid_px, findings)


def _check_place(path: Path, shapes: gpd.GeoSeries) -> None:
    """Refuses polygons whose place cannot be told: without a CRS, or in degrees where it says metres."""
    west, south, east, north = shapes.total_bounds
    degrees = west >= -180 and east <= 180 and south >= -90 and north <= 90
    if shapes.crs is None:
        like = " and look like degrees (EPSG:4326)" if degrees else ""
        raise UsageError(f"labels {path} have no CRS{like}, so their place is unknown; store them with one")
    if shapes.crs.is_projected and degrees:
        raise UsageError(
            f"labels {path} look like degrees, but state the projected CRS {shapes.crs.to_string()}; "
            "store them with EPSG:4326"
        )


def _read(path: Path, field: str | None) -> Features:
    try:
        return read_features(path, field)
    except ValueError as error:
        raise UsageError(f"labels {path} cannot be read: {error}") from error


def _origin_on(grid: GeoBox, geobox: GeoBox) -> tuple[int, int]:
    """Row and column of a window's first pixel in a grid. Raises ValueError if it is no window of it."""
    x, y = ~grid.affine @ (geobox.affine.c, geobox.affine.f)
    expected = grid.affine @ Affine.translation(round(x), round(y))
    if geobox.crs != grid.crs or not geobox.affine.almost_equals(expected, 1e-6 * abs(grid.affine.a)):
        raise ValueError(f"{geobox} is not a window of the labels' {grid}: their pixels are not the same")
    return round(y), round(x)


def _part_of(grid: GeoBox, top: int, left: int, bottom: int, right: int) -> GeoBox:
    """A window of a grid, which may reach beyond it."""
    return GeoBox((bottom - top, right - left), grid.affine @ Affine.translation(left, top), grid.crs)


def _name_of(value: object) -> str:
    """A class as it is named in the configuration: 2 for 2.0, as a column with gaps is read."""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)
