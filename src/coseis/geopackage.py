"""A GeoPackage goes in; the polygons of its one feature table come out, and some of its fields.

Read with SQLite alone. GDAL gives the SQL that a database brings along (views, generated columns, virtual
tables) functions that open files and addresses; here it may read plain tables, and call nothing.

Reference: OGC 12-128r18, GeoPackage Encoding Standard 1.3.1, clauses 2.1.3 (geometry) and 1.1.2 (CRS).
"""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from pyproj.exceptions import CRSError

MAGIC = b"SQLite format 3\x00"
QUERY_OPERATIONS = 2_000_000_000
"""Steps of SQLite's machine for all queries together: some minutes. Damaged pages can send it in circles."""
STEP_OPERATIONS = 100_000
ENVELOPE_BYTES = (0, 32, 48, 48, 64)
"""Of a geometry's header, by the indicator in its flags."""
SRS = "gpkg_spatial_ref_sys"
TABLES = ("gpkg_contents", "gpkg_geometry_columns", SRS)


class Layer(NamedTuple):
    """A table of features."""

    table: str
    geometry: str
    """Name of the column."""
    srs: int
    fields: tuple[str, ...]
    """The other columns."""


class Rows(NamedTuple):
    """The features of the one layer."""

    wkb: list[bytes | None]
    values: dict[str, list[object]]
    """Of the fields that were asked for and are there, by name."""
    fields: tuple[str, ...]
    crs: pyproj.CRS | None


def read_geopackage(path: Path, fields: Sequence[str], *, most_bytes: int) -> Rows:
    """Reads the one layer of features.

    Args:
        path: A local file.
        fields: Columns whose values are wanted too.
        most_bytes: Most bytes of geometries and values together.

    Raises:
        ValueError: no GeoPackage, damaged, of several layers or none, of a view or virtual table, or larger.
    """
    try:
        with closing(_connect(path)) as connection:
            layer = _one_layer(connection)
            wanted = [layer.geometry, *(name for name in fields if name in layer.fields)]
            connection.set_authorizer(_authorizer({*TABLES, layer.table}))
            rows = connection.execute(
                f"SELECT {', '.join(map(_quoted, wanted))} FROM {_quoted(layer.table)} ORDER BY rowid"
            )
            wkb: list[bytes | None] = []
            values: dict[str, list[object]] = {name: [] for name in wanted[1:]}
            spent = 0
            for geometry, *row in rows:
                spent += sum(len(part) for part in (geometry, *row) if isinstance(part, bytes | str))
                if spent > most_bytes:
                    raise ValueError(
                        f"it holds more than {most_bytes / 2**20:.0f} MiB; simplify it, or cut it"
                    )
                wkb.append(_wkb(geometry))
                for name, value in zip(values, row, strict=True):
                    values[name].append(value)
            return Rows(wkb, values, layer.fields, _crs(connection, layer.srs))
    # A text that is no UTF-8 raises OperationalError, a database of another kind DatabaseError.
    except (sqlite3.Error, UnicodeError) as error:
        raise ValueError(f"it is no readable GeoPackage ({error})") from error


def parse_wkb(blobs: list[bytes | None]) -> NDArray[np.object_]:
    """Geometries of WKB. Raises ValueError where one is damaged."""
    try:
        return np.asarray(shapely.from_wkb(np.array([*blobs, None], object))[:-1])
    except (shapely.errors.GEOSException, ValueError, TypeError) as error:
        raise ValueError(f"one of its geometries is damaged ({error})") from error


def _connect(path: Path) -> sqlite3.Connection:
    # immutable: no journal beside it is looked for, none is written.
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
    steps = iter(range(QUERY_OPERATIONS // STEP_OPERATIONS))
    connection.set_progress_handler(lambda: next(steps, None) is None, STEP_OPERATIONS)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.set_authorizer(_authorizer({"sqlite_master", *TABLES}))
    return connection


def _authorizer(tables: set[str]) -> Callable[..., int]:
    """Allows reading columns of these tables; no function, no pragma, no other table, nothing written."""
    allowed = {name.lower() for name in tables}

    def authorize(action: int, first: str | None, second: str | None, *_: object) -> int:
        may = action == sqlite3.SQLITE_SELECT or (
            action == sqlite3.SQLITE_READ and str(first).lower() in allowed
        )
        return sqlite3.SQLITE_OK if may else sqlite3.SQLITE_DENY

    return authorize


def _one_layer(connection: sqlite3.Connection) -> Layer:
    made = {
        str(name): (str(kind), str(sql))
        for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master")
        if kind in ("table", "view")
    }
    if not {name.lower() for name in made} >= set(TABLES):
        raise ValueError("it is an SQLite database, but no GeoPackage")
    listed = connection.execute(
        "SELECT c.table_name, g.column_name, g.srs_id FROM gpkg_contents AS c, gpkg_geometry_columns AS g "
        "WHERE c.table_name = g.table_name AND c.data_type = 'features'"
    ).fetchmany(100)
    if len(listed) != 1:
        names = ", ".join(str(row[0]) for row in listed[:5])
        raise ValueError(f"it has {len(listed)} layers with geometry ({names}); expected one")
    table, geometry, srs = listed[0]
    kind, sql = made.get(str(table), ("", ""))
    if kind != "table" or "virtual" in sql.split("(")[0].lower().split():
        raise ValueError(
            f"its layer {table} is a {kind and 'view or a virtual table'}; expected a plain table"
        )
    connection.set_authorizer(_authorizer({str(table)}))
    columns = [
        str(column[0]) for column in connection.execute(f"SELECT * FROM {_quoted(table)} LIMIT 0").description
    ]
    if geometry not in columns:
        raise ValueError(f"its layer {table} has no column {geometry}")
    fields = tuple(name for name in columns if name not in (geometry, "fid"))
    return Layer(str(table), str(geometry), int(srs), fields)


def _crs(connection: sqlite3.Connection, srs: int) -> pyproj.CRS | None:
    """None for what the standard, or GDAL, writes of one that is not known."""
    if srs in (-1, 0):
        return None
    found = connection.execute(
        f"SELECT organization, organization_coordsys_id, definition FROM {SRS} WHERE srs_id = ?", (srs,)
    ).fetchone()
    if found and "undefined" in f"{found[0]} {found[2]}".lower():
        return None
    try:
        if found and str(found[0]).upper() == "EPSG":
            return pyproj.CRS.from_epsg(int(found[1]))
        return pyproj.CRS.from_wkt(str(found[2]))
    except (CRSError, TypeError, ValueError) as error:
        raise ValueError(f"its coordinate reference system {srs} is not known") from error


def _wkb(blob: object) -> bytes | None:
    """The WKB behind a GeoPackage's own header; None of an empty geometry."""
    if blob is None:
        return None
    if not isinstance(blob, bytes) or blob[:2] != b"GP" or len(blob) < 8:
        raise ValueError("one of its geometries is not in the form of a GeoPackage")
    envelope = blob[3] >> 1 & 7
    if envelope >= len(ENVELOPE_BYTES) or blob[3] & 0x20:
        raise ValueError("one of its geometries has a header of an extension")
    return None if blob[3] & 0x10 else blob[8 + ENVELOPE_BYTES[envelope] :]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
