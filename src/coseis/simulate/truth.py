"""From ground and what was seen of it, the files of the exact truth, and those of an annotator who errs."""

import json
from dataclasses import asdict
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
import shapely.affinity
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry
from rasterio.features import rasterize

from coseis.simulate.annotator import annotate
from coseis.simulate.frames import Frame, enclosing_grid
from coseis.simulate.ground import EAST_EPSG, Ground
from coseis.simulate.landcover import Cover
from coseis.simulate.planetscope import write_cog
from coseis.simulate.scenes import BANDS, Sky, SkyArray
from coseis.simulate.sensor import Exposure, Misfit, place
from coseis.types import PHASES, Value

_BEST_FIRST = (Sky.CLEAR, Sky.THIN, Sky.SHADOW, Sky.SNOW, Sky.CLOUD)


class Truth(Value):
    """Where the files of the truth are; all lie on one grid or in its CRS, but for the skies."""

    landslides: Path
    """GeoPackage: id, area_m2, kind (new or reactivated); one polygon per landslide."""
    parts: Path
    """GeoPackage: id of the landslide, part (source or deposit)."""
    old_scars: Path
    """GeoPackage: id, area_m2, kind (old or reactivated): scars of earlier events."""
    annotated: Path
    """GeoPackage: what an annotator would have drawn of the new landslides."""
    mask: Path
    """uint8: 1 in new landslides."""
    classes: Path
    """uint8, codes of `Cover` after the event; classes_pre is the same before it."""
    classes_pre: Path
    observed: Path
    """uint8, bands pre and post: the clearest sky of all scenes of the phase, codes of `Sky`, 0: no scene."""
    dem: Path
    """float32, metres."""

    @classmethod
    def under(cls, folder: Path) -> "Truth":
        """The usual names in a folder."""
        suffix = {"landslides": "gpkg", "parts": "gpkg", "old_scars": "gpkg", "annotated": "gpkg"}
        return cls(**{name: folder / f"{name}.{suffix.get(name, 'tif')}" for name in cls.model_fields})


def write_truth(files: Truth, ground: Ground, observed: SkyArray, *, seed: int) -> None:
    """Write the truth on the grid of the map.

    Args:
        files: where to; their folder exists.
        ground: the event.
        observed: uint8 (2, y, x), see `Truth.observed`.
        seed: of the annotator.
    """
    drawn = annotate(ground.landslides.geometry.to_numpy(), seed=seed)
    table = {"id": np.arange(1, len(drawn) + 1), "area_m2": shapely.area(drawn)}
    _write_polygons(files, ground, gpd.GeoDataFrame(table, geometry=drawn, crs=ground.landslides.crs))
    _write_rasters(
        files,
        ground.grid,
        ground.mask,
        (ground.cover["post"], ground.cover["pre"]),
        observed,
        ground.elevation_m,
    )


def write_truth_east(files: Truth, west: Truth, ground: Ground, observed: SkyArray) -> None:
    """Write the truth again in the zone to the east: polygons moved, rasters by the west's nearest pixel.

    Args:
        files: where to; their folder exists.
        west: what `write_truth` wrote.
        ground: the event.
        observed: uint8 (2, y, x), on the map's grid.
    """
    crs = f"EPSG:{EAST_EPSG}"
    tables = {
        name: gpd.read_file(getattr(west, name)).to_crs(crs)
        for name in ("landslides", "parts", "old_scars", "annotated")
    }
    for name, table in tables.items():
        if "area_m2" in table:
            table["area_m2"] = table.area
        table.to_file(getattr(files, name), layer=name, driver="GPKG", engine="pyogrio")
    outline = shapely.segmentize(ground.grid.extent.geom, 300.0)
    grid = enclosing_grid(Geometry(outline, ground.grid.crs).to_crs(crs).geom, EAST_EPSG)
    rows, columns = np.rint(place(ground.grid, grid).pixels()).astype(np.int32)
    size = ground.mask.shape[0]
    inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
    rows, columns = rows.clip(0, size - 1), columns.clip(0, size - 1)

    def moved(field: NDArray[np.generic], fill: float) -> NDArray[np.generic]:
        return np.where(inside, field[..., rows, columns], field.dtype.type(fill))

    mask = rasterize(
        tables["landslides"].geometry, out_shape=grid.shape, transform=grid.transform, dtype=np.uint8
    )
    covers = (moved(ground.cover["post"], 0), moved(ground.cover["pre"], 0))
    _write_rasters(files, grid, mask * inside, covers, moved(observed, 0), moved(ground.elevation_m, np.nan))


def see(observed: SkyArray, frame: Frame, exposure: Exposure, size_px: int) -> None:
    """Enter into `observed`, in place, where one more scene shows the ground more clearly than those before.

    Args:
        observed: uint8 (2, y, x), see `Truth.observed`.
        frame: the scene.
        exposure: its sky.
        size_px: side of the map.
    """
    rank = np.full(256, len(_BEST_FIRST), np.uint8)
    rank[list(_BEST_FIRST)] = np.arange(len(_BEST_FIRST))
    rows, columns = window = frame.window
    padded = frame.padded(size_px)
    inner = tuple(slice(s.start - p.start, s.stop - p.start) for s, p in zip(window, padded, strict=True))
    sky = exposure.sky_over_ground[inner]
    outline = shapely.affinity.translate(frame.footprint, -columns.start, -rows.start)
    inside = rasterize([outline], out_shape=sky.shape, dtype=np.uint8) > 0
    best = observed[(PHASES.index(frame.phase), *window)]
    best[...] = np.where(inside & (rank[sky] < rank[best]), sky, best)


def misfit_row(frame: Frame, epsg: int, misfit: Misfit) -> dict[str, object]:
    """The true misfit of a scene for shifts.json: ground appears at its true place plus these, pixels of 3 m.

    At elevation z: scene + relief * clip((z - reference_m) / scale_m, -1, 1) + band; each [down, right] in
    rows and columns of the map.
    """
    row = asdict(misfit)
    bands = dict(zip(BANDS, row.pop("bands_px"), strict=True))
    return {"phase": frame.phase, "strip": frame.strip, "epsg": epsg, **row, "bands_px": bands}


def write_shifts(path: Path, rows: dict[str, dict[str, object]]) -> None:
    """Write the true misfit of each scene, by its id."""
    path.write_text(json.dumps({"pixel_m": 3.0, "axes": ["down", "right"], "scenes": rows}, indent=1))


def write_legend(path: Path) -> None:
    """Write what the codes of the rasters mean."""
    legend = {
        "classes": {str(int(c)): c.name.lower() for c in Cover},
        "observed and skies": {"0": "not seen"} | {str(int(s)): s.name.lower() for s in Sky},
    }
    path.write_text(json.dumps(legend, indent=1))


def _write_polygons(files: Truth, ground: Ground, annotated: gpd.GeoDataFrame) -> None:
    tables = {"landslides": ground.landslides, "parts": ground.parts, "old_scars": ground.old_scars}
    for name, table in (tables | {"annotated": annotated}).items():
        table.to_file(getattr(files, name), layer=name, driver="GPKG", engine="pyogrio")


def _write_rasters(
    files: Truth,
    grid: GeoBox,
    mask: NDArray[np.generic],
    covers: tuple[NDArray[np.generic], NDArray[np.generic]],
    observed: NDArray[np.generic],
    elevation_m: NDArray[np.generic],
) -> None:
    write_cog(files.mask, mask, grid, nodata=None)
    write_cog(files.classes, covers[0], grid, nodata=0)
    write_cog(files.classes_pre, covers[1], grid, nodata=0)
    write_cog(files.observed, observed, grid, nodata=None, descriptions=PHASES)
    hollow = bool(np.isnan(elevation_m).any())
    write_cog(files.dem, elevation_m, grid, nodata=float("nan") if hollow else None)
