"""A stac-geoparquet file and what is asked for go in; its items come out as plain documents.

Only row groups whose statistics fit are read, and of a file on the web or in a bucket only their bytes are
fetched. The rows are read by pyarrow: the library of the format, stac-geoparquet, takes its newest form
alone, and ends in an AssertionError at what somebody else's file may hold.

Reference: the stac-geoparquet specification 1.0 (columns for properties, WKB geometry, bbox as a struct) and
GeoParquet 1.1 (bbox covering).
"""

import io
import json
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import requests
import shapely
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from shapely.errors import GEOSException

from coseis.addresses import WEB, is_remote, public_form, scheme_of, unanswered
from coseis.documents import parse_json
from coseis.errors import InputRefusedError, UnreachableError
from coseis.event import Window
from coseis.objects import open_store
from coseis.row_groups import condition, fitting_groups

SUFFIXES = (".parquet", ".geoparquet")
MAX_FOOTER_BYTES = 64 * 2**20
MAX_GROUP_BYTES = 2**30
"""Largest row group that is decoded, by its own account."""
MAX_GROUP_ROWS = 4_000_000
BATCH_ROWS = 1024
READ_BYTES = 2**16
"""Least range of a file far away."""
ITEM_COLUMNS = (
    "type", "stac_version", "stac_extensions", "id", "collection", "bbox", "geometry", "links", "assets",
)  # fmt: skip
"""What stands beside an item's properties; any other column is one of them."""

Document = dict[str, Any]


class Table(NamedTuple):
    """What a file gave."""

    items: list[Document]
    collections: dict[str, Document]
    """Documents of collections by id, where the file holds them."""
    known: set[str]
    """Ids of all collections in the file; looked for only where those that were asked for gave nothing."""


def is_parquet(address: str) -> bool:
    """Whether an address names a stac-geoparquet file."""
    return address.partition("?")[0].lower().endswith(SUFFIXES)


def read_items(
    address: str,
    session: requests.Session,
    *,
    collections: Sequence[str] = (),
    bbox: tuple[float, float, float, float],
    windows: Sequence[Window],
) -> Table:
    """The items of a file that touch the box and a window.

    A row that does not say where or when stays in: whoever asks says why it cannot be used.

    Args:
        address: Checked: path, http(s) or bucket.
        session: Reads web addresses, by ranges; it checks every hop.
        collections: Ids; empty: all. A file without that column passes whole.
        bbox: West, south, east, north in degrees.
        windows: Start and end, both with a zone.

    Raises:
        InputRefusedError: missing, no Parquet, no STAC items, damaged, or too large.
        UnreachableError: no answer; run again.
    """
    shown = public_form(address)
    try:
        with _opened(address, session) as raw:
            return _read(raw, shown, collections, bbox, windows)
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise InputRefusedError(
            f"{shown} denies access; do the credentials in the environment allow it?"
        ) from error
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, GEOSException) as error:
        if isinstance(error, requests.RequestException):
            raise unanswered(address, error) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputRefusedError(
            f"{shown} cannot be read as stac-geoparquet ({public_form(reason)})"
        ) from error
    except BaseError as error:
        raise UnreachableError(f"{shown} does not answer ({type(error).__name__}); run again") from error


def _read(
    raw: BinaryIO,
    shown: str,
    collections: Sequence[str],
    bbox: tuple[float, float, float, float],
    windows: Sequence[Window],
) -> Table:
    footer = _read_footer(raw, shown)
    metadata = pq.read_metadata(io.BytesIO(b"PAR1" + footer))
    file = pq.ParquetFile(pa.PythonFile(raw, "r"), metadata=metadata)
    schema = file.schema_arrow
    missing = [name for name in ("id", "geometry", "assets") if name not in schema.names]
    if missing:
        raise InputRefusedError(
            f"{shown} holds no STAC items: it has no column {', '.join(missing)}; expected stac-geoparquet"
        )
    wanted = condition(schema, collections, bbox, windows)
    items: list[Document] = []
    groups = range(metadata.num_row_groups)
    for group in groups if len(groups) < 2 else fitting_groups(footer, collections, bbox, windows):
        facts = file.metadata.row_group(group)
        if facts.total_byte_size > MAX_GROUP_BYTES or facts.num_rows > MAX_GROUP_ROWS:
            raise InputRefusedError(
                f"{shown} has a row group of {facts.num_rows} rows, {facts.total_byte_size / 2**20:.0f} MiB; "
                "write it with smaller ones"
            )
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], use_threads=False):
            for row in pa.Table.from_batches([batch]).filter(wanted).to_pylist():
                items.append(_item(row))
    known: set[str] = set()
    if collections and not items and "collection" in schema.names:
        for batch in file.iter_batches(BATCH_ROWS, columns=["collection"], use_threads=False):
            known |= {str(name) for name in batch.column(0).unique().to_pylist() if name is not None}
    return Table(items, _collections(schema), known)


def _item(row: Document) -> Document:
    """A row as an item: properties beneath, geometry and bbox as in GeoJSON, without what is empty."""
    item: Document = {"type": "Feature"}
    item |= {name: _plain(row[name]) for name in ITEM_COLUMNS if row.get(name) is not None}
    item["properties"] = {name: _plain(value) for name, value in row.items() if name not in ITEM_COLUMNS}
    geometry = row.get("geometry")
    item["geometry"] = json.loads(str(shapely.to_geojson(shapely.from_wkb(geometry)))) if geometry else None
    if isinstance(row.get("bbox"), dict):
        sides = [row["bbox"].get(name) for name in ("xmin", "ymin", "xmax", "ymax")]
        item["bbox"] = None if None in sides else sides
    # Each asset that any item has is a column, empty for the others.
    assets = item.setdefault("assets", {})
    if isinstance(assets, dict):
        item["assets"] = {key: asset for key, asset in assets.items() if asset}
    return item


def _plain(value: Any) -> Any:
    """As JSON would have it: times as text, bytes (projected geometries) left out, and no empty fields."""
    if isinstance(value, dict):
        parts = {key: _plain(part) for key, part in value.items()}
        return {key: part for key, part in parts.items() if part is not None}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    return value.isoformat() if isinstance(value, date) else None if isinstance(value, bytes) else value


def _collections(schema: pa.Schema) -> dict[str, Document]:
    """The collections in the file's metadata: several, or one as older files have it."""
    stored = parse_json((schema.metadata or {}).get(b"stac-geoparquet", b"{}"))
    several = stored.get("collections") if isinstance(stored, dict) else None
    found = dict(several) if isinstance(several, dict) else {}
    one = stored.get("collection") if isinstance(stored, dict) else None
    if isinstance(one, dict):
        found.setdefault(str(one.get("id")), one)
    return {name: document for name, document in found.items() if isinstance(document, dict)}


def _opened(address: str, session: requests.Session) -> BinaryIO:
    scheme = scheme_of(address)
    if scheme in WEB:
        return io.BufferedReader(_web_file(address, session), READ_BYTES)
    if is_remote(address):
        bucket, _, key = address.split("://", 1)[1].partition("/")
        store = open_store(f"{scheme}://{bucket}")
        size = obstore.head(store, key)["size"]
        fetch = partial(obstore.get_range, store, key)
        return io.BufferedReader(_RangeFile(size, lambda start, end: fetch(start=start, end=end)), READ_BYTES)
    return open(address, "rb")


def _web_file(address: str, session: requests.Session) -> "_RangeFile":
    def fetch(start: int, end: int) -> bytes:
        wanted = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        with session.get(address, headers=wanted, stream=True) as response:
            if response.status_code != 206:
                raise InputRefusedError(
                    f"{public_form(address)} answers HTTP {response.status_code} to a range; is the address "
                    "right, and does its server give ranges?"
                )
            sizes.append(int(response.headers.get("Content-Range", "").rpartition("/")[2]))
            return bytes(response.raw.read(end - start))

    sizes: list[int] = []
    fetch(0, 1)
    return _RangeFile(sizes[0], fetch)


def _read_footer(raw: BinaryIO, shown: str) -> bytes:
    """The end of a file; refuses what is no Parquet before a length that it states itself is believed."""
    size = raw.seek(0, io.SEEK_END)
    raw.seek(max(0, size - 8))
    tail = raw.read(8)
    if size < 12 or tail[4:] != b"PAR1":
        raise InputRefusedError(f"{shown} is no Parquet file, or breaks off; expected stac-geoparquet")
    footer = int.from_bytes(tail[:4], "little")
    if footer > min(MAX_FOOTER_BYTES, size - 12):
        raise InputRefusedError(f"{shown} states a footer of {footer} bytes; it is damaged or too large")
    raw.seek(size - 8 - footer)
    return raw.read(footer + 8)


class _RangeFile(io.RawIOBase):
    """A file far away, read by ranges."""

    def __init__(self, size: int, fetch: Callable[[int, int], Any]) -> None:
        self._size, self._fetch, self._place = size, fetch, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The next byte to be read."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a byte."""
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, or what is left of the file."""
        end = min(self._place + len(buffer), self._size)
        if end <= self._place:
            return 0
        content = bytes(self._fetch(self._place, end))
        if len(content) != end - self._place:
            raise OSError(f"{len(content)} bytes came of {end - self._place}")
        buffer[: len(content)] = content
        self._place = end
        return len(content)
