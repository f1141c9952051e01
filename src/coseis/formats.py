"""An inventory goes in, what other programs open comes out: GeoPackage, FlatGeobuf, Shapefile, KMZ, CSV."""

import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import geopandas as gpd
import pandas as pd
import pyogrio
from obstore.store import ObjectStore
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

from coseis.errors import InputRefusedError
from coseis.objects import get_object, open_store, put_object

INVENTORY, ITEM = "landslides.parquet", "item.json"
LAYER = "landslides"
SHAPEFILE_NAMES: Mapping[str, str] = {
    "probability_mean": "prob_mean",
    "probability_max": "prob_max",
    "perimeter_m": "perim_m",
    "pixel_count": "pixels",
    "context_incomplete_share": "ctx_incomp",
    "model_digest": "model",
    "pre_overlap": "pre_overl",
    "pre_observed": "pre_obs",
    "vegetation_change": "veg_change",
    "touches_unobserved": "at_unseen",
    "touches_aoi_border": "at_border",
    "elevation_mean_m": "elev_mean",
    "elevation_min_m": "elev_min",
    "elevation_max_m": "elev_max",
    "slope_mean_deg": "slope_mean",
    "slope_p90_deg": "slope_p90",
    "amalgamation": "amalgam",
    "volume_soil_m3": "vol_soil",
    "off_nadir_deg": "off_nadir",
    "roads_cut_m": "road_cut_m",
    "river_distance_m": "river_dist",
    "river_contact_m": "river_cont",
    "crosses_river": "cross_riv",
    "buildings_touched": "buildings",
}
"""Columns whose names are longer than the ten letters of a Shapefile, and their names there."""
MOST_SHAPEFILE_BYTES = 2**31
"""Of each of its files: many programs count them in 31 bits."""
MOST_TEXT = 254
"""Letters of a Shapefile's text, in bytes of UTF-8."""
KMZ_STYLES: Mapping[str, str] = {
    "new": "PEN(c:#FFB000,w:2px);BRUSH(fc:#FFB00055)",
    "reactivated": "PEN(c:#FF5D8F,w:2px);BRUSH(fc:#FF5D8F55)",
    "pre-existing": "PEN(c:#6EA8FF,w:2px);BRUSH(fc:#6EA8FF33)",
    "unknown": "PEN(c:#C9D3DA,w:2px);BRUSH(fc:#C9D3DA55)",
}
"""OGR's feature styles, in the colours of the map page."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so is computed by spreadsheets; item ids are a stranger's text."""


class Format(NamedTuple):
    """One way to write an inventory."""

    file: str
    """Name of the file."""
    title: str
    media_type: str
    write: Callable[[gpd.GeoDataFrame, Path], None]


def export_run(out: str, names: Sequence[str], folder: Path | None = None) -> list[str]:
    """Writes the inventory of a finished run in other formats, and names them in its STAC item.

    Args:
        out: Address of the run.
        names: Keys of FORMATS.
        folder: A local folder for the files; default: the run itself.

    Returns:
        Where each file lies.

    Raises:
        InputRefusedError: no finished run, or as `write_format`.
        UnreachableError: the run's store does not answer.
    """
    store = open_store(out, must_exist=True)
    content = get_object(store, INVENTORY)
    if content is None:
        raise InputRefusedError(f"{out} holds no inventory (no {INVENTORY}); run coseis map first")
    polygons = gpd.read_parquet(io.BytesIO(content))
    if folder is not None:
        return [str(write_format(name, polygons, folder)) for name in names]
    with tempfile.TemporaryDirectory() as made:
        for name in names:
            path = write_format(name, polygons, Path(made))
            put_object(store, path.name, path, media_type=FORMATS[name].media_type)
    _name_in_item(store, names)
    return [f"{out.rstrip('/')}/{FORMATS[name].file}" for name in names]


def _name_in_item(store: ObjectStore, names: Sequence[str]) -> None:
    item = json.loads(get_object(store, ITEM) or b"{}")
    for name in names:
        made = FORMATS[name]
        asset = {"href": f"./{made.file}", "title": made.title, "type": made.media_type, "roles": ["data"]}
        item.setdefault("assets", {})[made.file] = asset
    put_object(store, ITEM, json.dumps(item, indent=2).encode())


def write_format(name: str, polygons: gpd.GeoDataFrame, folder: Path) -> Path:
    """Writes an inventory in one format of FORMATS, whole or not at all.

    Args:
        name: A key of FORMATS.
        polygons: The inventory, in any CRS; an empty one gives a file without features.
        folder: Where the file is made; one of the same name is replaced.

    Returns:
        The file.

    Raises:
        InputRefusedError: the format cannot hold the inventory, or the file cannot be written.
    """
    path = folder / FORMATS[name].file
    path.unlink(missing_ok=True)
    try:
        FORMATS[name].write(polygons, path)
    except (DataSourceError, DataLayerError, FeatureError, OSError) as error:
        path.unlink(missing_ok=True)
        raise InputRefusedError(f"{path} cannot be written ({error})") from error
    return path


def _write_geopackage(polygons: gpd.GeoDataFrame, path: Path) -> None:
    pyogrio.write_dataframe(polygons, path, driver="GPKG", layer=LAYER, geometry_type="MultiPolygon",
                            promote_to_multi=True)  # fmt: skip


def _write_flatgeobuf(polygons: gpd.GeoDataFrame, path: Path) -> None:
    pyogrio.write_dataframe(polygons, path, driver="FlatGeobuf", layer=LAYER, geometry_type="MultiPolygon",
                            promote_to_multi=True)  # fmt: skip


def _write_shapefile(polygons: gpd.GeoDataFrame, path: Path) -> None:
    """One ZIP with .shp, .dbf, .shx, .prj and .cpg, as QGIS and GDAL open it."""
    table = polygons.rename(columns=SHAPEFILE_NAMES)
    long = [name for name in table.columns if len(name) > 10 and name != table.geometry.name]
    if long:
        raise InputRefusedError(
            f"a Shapefile has field names of ten letters, but {', '.join(long)} have more; rename them, or "
            "choose geopackage"
        )
    for name in table.columns:
        if pd.api.types.is_bool_dtype(table[name]):
            # It has no truth values of its own that all programs read.
            table[name] = table[name].astype("int32")
        elif pd.api.types.is_string_dtype(table[name]) and name != table.geometry.name:
            table[name] = table[name].map(_fit, na_action="ignore")
    pyogrio.write_dataframe(table, path, driver="ESRI Shapefile", layer=LAYER, encoding="UTF-8")
    with zipfile.ZipFile(path) as archive:
        large = [entry.filename for entry in archive.infolist() if entry.file_size >= MOST_SHAPEFILE_BYTES]
    if large:
        path.unlink()
        raise InputRefusedError(
            f"{', '.join(large)} of {path.name} would have 2 GiB or more, which a Shapefile cannot hold; "
            "choose geopackage"
        )


def _fit(text: str) -> str:
    """The first MOST_TEXT bytes of a text, an ellipsis last where it was cut."""
    encoded = text.encode()
    if len(encoded) <= MOST_TEXT:
        return text
    return encoded[: MOST_TEXT - len("…".encode())].decode(errors="ignore") + "…"


def _write_kmz(polygons: gpd.GeoDataFrame, path: Path) -> None:
    """For Google Earth: coloured by change, named by id."""
    table = polygons.to_crs(4326)
    change = table["change"] if "change" in table else pd.Series("unknown", table.index)
    table = table.assign(name=table["id"], OGR_STYLE=change.map(KMZ_STYLES))
    pyogrio.write_dataframe(table, path, driver="LIBKML", layer=LAYER, layer_options={"NAME": "Landslides"})


def _write_csv(polygons: gpd.GeoDataFrame, path: Path) -> None:
    """One row a landslide with the longitude and latitude of its centroid; no polygon."""
    # On the plane of the polygons' own grid: of degrees there is no centroid.
    centres = polygons.geometry.centroid.to_crs(4326)
    table = pd.DataFrame(polygons.drop(columns=polygons.geometry.name))
    table.insert(1, "longitude", centres.x.round(6))
    table.insert(2, "latitude", centres.y.round(6))
    for name in table.columns:
        if pd.api.types.is_string_dtype(table[name]):
            table[name] = table[name].map(_no_formula, na_action="ignore")
    table.to_csv(path, index=False)


def _no_formula(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


FORMATS: Mapping[str, Format] = {
    "geopackage": Format(
        "landslides.gpkg",
        "Landslide inventory, GeoPackage",
        "application/geopackage+sqlite3",
        _write_geopackage,
    ),
    "flatgeobuf": Format(
        "landslides.fgb", "Landslide inventory, FlatGeobuf", "application/vnd.flatgeobuf", _write_flatgeobuf
    ),
    "shapefile": Format(
        "landslides.shp.zip", "Landslide inventory, Shapefile", "application/vnd.shp", _write_shapefile
    ),
    "kmz": Format(
        "landslides.kmz",
        "Landslides for Google Earth",
        "application/vnd.google-earth.kmz",
        _write_kmz,
    ),
    "csv": Format("landslides.csv", "Centroids of landslides, table", "text/csv", _write_csv),
}
"""What an inventory can be written as, beside GeoParquet and PMTiles, which every run publishes."""
