"""A file of polygons that anybody may have made goes in; its geometries come out, and one of its fields.

GDAL chooses among sixty drivers by what a file holds, not by its name: "area.geojson" may be a list of other
files and addresses to open, or a pipeline of commands. So the format is told here, by name and content both,
and GDAL is given only files whose first bytes leave it no choice. No driver can be forced or taken away once
pyogrio is imported.
"""

import json
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pyproj
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, GeometryError
from pyproj.exceptions import CRSError
from shapely.errors import GEOSException

from coseis.documents import parse_json
from coseis.geopackage import MAGIC, parse_wkb, read_geopackage

MAX_VERTICES = 20_000_000
MAX_BYTES = 16 * MAX_VERTICES
"""Of geometries, as stored, and of the values of a field."""
MAX_FILE_BYTES = 2 * 2**30
MAX_GEOJSON_BYTES = 2**30
"""Of memory, parsed: 5 million vertices, half a minute. A GeoPackage of as many is read in a second."""
MAX_MEMBERS = 1000
"""Of a ZIP file."""
BATCH_ROWS = 256
GEOJSON = (".geojson", ".json")
SHAPEFILE = (".shp", ".shx", ".dbf", ".prj", ".cpg")
PARQUET = (".parquet", ".geoparquet")
STARTS = {
    ".gpkg": MAGIC,
    ".shp": b"\x00\x00\x27\x0a",
    ".fgb": b"fgb\x03",
    ".zip": b"PK",
    **dict.fromkeys(PARQUET, b"PAR1"),
}
"""First bytes of each format; a GeoJSON starts with a brace."""
SUFFIXES = frozenset((*GEOJSON, *STARTS))

_CRS_NAME = re.compile(r"(?:urn:ogc:def:crs:)?(EPSG|OGC):[^:]*:?([A-Za-z0-9]+)")


class Features(NamedTuple):
    """What was read of a file."""

    shapes: gpd.GeoSeries
    """In the file's CRS, maybe None; missing where a feature has no geometry."""
    values: list[object]
    """Of the field that was asked for, a feature each; empty if the file has no such field."""
    fields: tuple[str, ...]
    """Names of all."""


def read_features(path: Path, field: str | None = None) -> Features:
    """Reads the one layer of a local file.

    Args:
        path: GeoJSON, GeoPackage, shapefile (also in a ZIP file), FlatGeobuf or GeoParquet.
        field: Attribute that is wanted too.

    Raises:
        ValueError: another format, whatever its name; damaged; several layers, or none; links to other files;
            more than MAX_VERTICES. The file is not named.
    """
    suffix = path.suffix.lower()
    try:
        if not path.is_file():
            raise ValueError("it is no plain file")
        _check_start(path, suffix)
        if suffix in GEOJSON:
            return _read_geojson(path, field)
        if suffix == ".gpkg":
            rows = read_geopackage(path, [field] if field else [], most_bytes=MAX_BYTES)
            values = rows.values.get(field or "", [])
            return Features(_series(parse_wkb(rows.wkb), rows.crs), values, rows.fields)
        if suffix in PARQUET:
            return _read_parquet(path, field)
        if suffix == ".zip":
            with _unpacked(path) as inner:
                return read_features(inner, field)
        return _read_gdal(path, field)
    except (OSError, MemoryError, OverflowError) as error:
        raise ValueError(f"it cannot be read ({getattr(error, 'strerror', None) or error})") from error


def read_table(path: Path, fields: Sequence[str]) -> gpd.GeoDataFrame:
    """Reads the one layer of a GeoPackage with several fields, values as they are stored.

    Args:
        path: A local file.
        fields: Columns that it must have; others are not read.

    Raises:
        ValueError: as `read_features`, or a column is missing. The file is not named.
    """
    try:
        if not path.is_file():
            raise ValueError("it is no plain file")
        if path.suffix.lower() != ".gpkg":
            raise ValueError("it is no GeoPackage (.gpkg)")
        _check_start(path, ".gpkg")
        rows = read_geopackage(path, fields, most_bytes=MAX_BYTES)
    except (OSError, MemoryError, OverflowError) as error:
        raise ValueError(f"it cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if missing := [name for name in fields if name not in rows.values]:
        raise ValueError(f"it has no column {', '.join(missing)}")
    columns = {name: pd.Series(rows.values[name], dtype=object) for name in fields}
    return gpd.GeoDataFrame(columns, geometry=_series(parse_wkb(rows.wkb), rows.crs))


def _check_start(path: Path, suffix: str) -> None:
    if suffix not in SUFFIXES:
        raise ValueError(
            f"it has the unknown suffix {suffix or '(none)'}; expected one of {', '.join(sorted(SUFFIXES))}"
        )
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES // 2**30} GiB")
    with path.open("rb") as file:
        start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")
    if not start.startswith(STARTS.get(suffix, b"{")):
        raise ValueError(f"it is no {suffix} file: it starts with {start[:16]!r}")


def _series(shapes: Any, crs: pyproj.CRS | None) -> gpd.GeoSeries:
    series = gpd.GeoSeries(shapes, crs=crs)
    if (count := int(shapely.get_num_coordinates(np.asarray(series)).sum())) > MAX_VERTICES:
        raise ValueError(f"it has {count} vertices, more than {MAX_VERTICES}; simplify it, or cut it")
    return series


def _read_geojson(path: Path, field: str | None) -> Features:
    try:
        document = parse_json(path.read_bytes(), most_bytes=MAX_GEOJSON_BYTES)
    except ValueError as error:
        raise ValueError(f"{error}; if it is only large, `ogr2ogr out.gpkg in.geojson`") from error
    listed = document.get("features") if document.get("type") == "FeatureCollection" else [document]
    if not isinstance(listed, list) or not all(isinstance(entry, Mapping) for entry in listed):
        raise ValueError("it is no GeoJSON: its features are no list of objects")
    features: list[Mapping[str, Any]] = listed
    if document.get("type") in ("Polygon", "MultiPolygon"):
        features = [{"geometry": document}]
    elif document.get("type") not in ("FeatureCollection", "Feature"):
        raise ValueError(f"it is no GeoJSON: its type is {str(document.get('type'))[:40]!r}")
    texts = [json.dumps(entry["geometry"]) if entry.get("geometry") else None for entry in features]
    try:
        shapes = np.asarray(shapely.from_geojson([*texts, None])[:-1])
    except (GEOSException, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"one of its geometries is no GeoJSON ({error})") from error
    tables = [entry.get("properties") for entry in features]
    rows: list[Mapping[str, Any]] = [table if isinstance(table, Mapping) else {} for table in tables]
    fields = tuple(dict.fromkeys(name for row in rows for name in row))
    values = [row.get(field) for row in rows] if field in fields else []
    return Features(_series(shapes, _geojson_crs(document.get("crs"))), values, fields)


def _geojson_crs(member: object) -> pyproj.CRS:
    """That of the member `crs`, which older files have; longitude and latitude by RFC 7946."""
    if member is None:
        return pyproj.CRS("OGC:CRS84")
    properties = member.get("properties") if isinstance(member, Mapping) else None
    name = str(properties.get("name")) if isinstance(properties, Mapping) else ""
    match = _CRS_NAME.fullmatch(name)
    try:
        if match is None:
            raise CRSError(name)
        # Not any text: PROJ takes pipelines and names of files too.
        return pyproj.CRS.from_authority(match[1], match[2])
    except CRSError as error:
        raise ValueError(f"its CRS {name[:80]!r} is not known; expected one like EPSG:32654") from error


def _read_gdal(path: Path, field: str | None) -> Features:
    """A shapefile or a FlatGeobuf, batch by batch: the counts that a file states may be lies."""
    # GDAL 3.12's own stream of FlatGeobuf counts its offsets wrong where a geometry is null.
    pyogrio.set_gdal_config_options({"OGR_FLATGEOBUF_STREAM_BASE_IMPL": "YES"})
    # Absolute, or GDAL might take a name such as PG:x for a database.
    name = str(path.resolve())
    wkb: list[bytes | None] = []
    values: list[object] = []
    try:
        info = pyogrio.read_info(name)
        fields = tuple(map(str, info["fields"]))
        columns = [column for column in fields if column == field]
        with pyogrio.raw.open_arrow(name, columns=columns, batch_size=BATCH_ROWS, use_pyarrow=True) as (
            meta,
            reader,
        ):
            crs = pyproj.CRS.from_user_input(meta["crs"]) if meta["crs"] else None
            spent = 0
            for batch in reader:
                spent += batch.nbytes
                if spent > MAX_BYTES:
                    raise ValueError(
                        f"it holds more than {MAX_BYTES / 2**20:.0f} MiB; simplify it, or cut it"
                    )
                wkb += batch.column(meta["geometry_name"] or "wkb_geometry").to_pylist()
                values += batch.column(columns[0]).to_pylist() if columns else []
    except (
        DataSourceError,
        DataLayerError,
        FeatureError,
        GeometryError,
        CRSError,
        KeyError,
        pa.ArrowException,
    ) as e:
        raise ValueError(f"it is damaged ({e})") from e
    return Features(_series(parse_wkb(wkb), crs), values, fields)


def _read_parquet(path: Path, field: str | None) -> Features:
    """GeoParquet; geometries that a dictionary repeats are counted before they are laid out in memory."""
    try:
        with pq.ParquetFile(path) as file:
            geo = parse_json((file.schema_arrow.metadata or {}).get(b"geo", b"{}"))
            name = str(geo["primary_column"])
            about = geo["columns"][name]
            if about["encoding"] != "WKB" or name not in file.schema_arrow.names:
                raise ValueError(f"its geometries are stored as {about['encoding']}; expected WKB")
            fields = tuple(column for column in file.schema_arrow.names if column != name)
        wanted = [name, *(column for column in fields if column == field)]
        parts: dict[str, list[Any]] = {column: [] for column in wanted}
        spent = 0
        with pq.ParquetFile(path, read_dictionary=wanted) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=wanted, use_threads=False):
                for column in wanted:
                    values = batch.column(column)
                    spent += _laid_out_bytes(values)
                    if spent > MAX_BYTES:
                        raise ValueError(
                            f"it holds more than {MAX_BYTES / 2**20:.0f} MiB; simplify it, or cut it"
                        )
                    parts[column] += values.to_pylist()
        stated = about.get("crs", {})
        crs = pyproj.CRS.from_json_dict(stated) if stated else None
        if "crs" not in about:
            crs = pyproj.CRS("OGC:CRS84")
    except (pa.ArrowException, KeyError, TypeError, AttributeError, CRSError) as error:
        raise ValueError(f"it is no readable GeoParquet ({type(error).__name__}: {error})") from error
    values = parts[field] if field and field in fields else []
    return Features(_series(parse_wkb(parts[name]), crs), values, fields)


def _laid_out_bytes(values: pa.Array) -> int:
    if not isinstance(values, pa.DictionaryArray):
        return int(values.nbytes)
    lengths = np.array(
        [len(entry) if isinstance(entry, bytes | str) else 8 for entry in values.dictionary.to_pylist()]
    )
    indices = values.indices.drop_null().to_numpy(zero_copy_only=False)
    return int(lengths[indices].sum()) if len(indices) else 0


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The one vector file of a ZIP file, in a folder that goes away; no name of a member becomes a path."""
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            members = _members(archive)
            # A Mac lays a file ._NAME beside each.
            members = [m for m in members if not Path(m.filename).name.startswith("._")]
            layers = [m for m in members if Path(m.filename).suffix.lower() in SUFFIXES - {".zip"}]
            if len(layers) != 1:
                raise ValueError(f"it holds {len(layers)} vector files; expected one, such as a shapefile")
            stem, suffix = Path(layers[0].filename).stem, Path(layers[0].filename).suffix.lower()
            # Not only the layer's name decides: of two members of one name neither is to be trusted.
            taken = layers if suffix != ".shp" else [m for m in members if Path(m.filename).stem == stem]
            for member in taken:
                ending = Path(member.filename).suffix.lower()
                if ending == suffix or ending in SHAPEFILE:
                    with archive.open(member) as packed, (Path(folder) / f"layer{ending}").open("xb") as out:
                        _copy(packed, out, member.file_size)
            yield Path(folder) / f"layer{suffix}"
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"it is no readable ZIP file ({error})") from error


def _members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise ValueError(f"it has {len(members)} members; expected at most {MAX_MEMBERS}")
    if (size := sum(member.file_size for member in members)) > MAX_FILE_BYTES:
        raise ValueError(
            f"it would unpack to {size / 2**20:.0f} MiB; expected at most {MAX_FILE_BYTES >> 20}"
        )
    for member in members:
        parts = member.filename.replace("\\", "/").split("/")
        if ".." in parts or parts[0] == "" or ":" in parts[0] or stat.S_ISLNK(member.external_attr >> 16):
            raise ValueError(f"its member {member.filename!r} reaches out of it")
    return members


def _copy(packed: IO[bytes], out: IO[bytes], size: int) -> None:
    shutil.copyfileobj(packed, out, 2**20)
    if out.tell() != size:
        raise ValueError(f"one of its members has {out.tell()} bytes, not {size} as it says")
