"""The address of a DEM goes in, a file or a STAC catalog; its tiles over an area come out."""

import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyproj
import shapely
from affine import Affine
from obstore.store import ObjectStore
from pydantic import ValidationError
from pyproj.exceptions import CRSError
from shapely.geometry.base import BaseGeometry

from coseis.addresses import (
    AddressPolicy,
    absolute_address,
    check_address,
    check_redirects,
    host_of,
    is_remote,
    local_path,
    public_form,
)
from coseis.assets import is_geotiff, refuse_signature
from coseis.catalogs import Query, Record, catalog_address, read_catalog
from coseis.dem import Dem, DemTile, transformer
from coseis.documents import Document
from coseis.errors import InputRefusedError, UsageError
from coseis.geotiff import header_of
from coseis.objects import get_object, open_store, put_object
from coseis.types import BandSource

DEM = "dem.json"
"""The tiles of a run's DEM, kept with it: new polygons need no search."""
AROUND_DEG = 0.02
"""Tiles are looked for this far around the area: slope needs a pixel more on each side."""
HEADER_THREADS = 16
ALWAYS = (datetime(1900, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))

_ELEVATION_ROLES = frozenset(("elevation", "dem", "dsm", "dtm"))
_ELEVATION_KEYS = ("data", "elevation", "dem")
_METRES = (None, "", "m", "metre", "meter", "metres", "meters")
_OTHER_RASTERS = (".vrt", ".hgt", ".img", ".asc", ".nc", ".jp2", ".bil", ".dt2", ".adf", ".zip")


def find_dem(
    address: str,
    aoi: dict[str, Any],
    *,
    collections: Sequence[str] = (),
    policy: AddressPolicy | None = None,
) -> Dem:
    """Find the files of a DEM over an area and read their headers; no elevation is read.

    Args:
        address: A GeoTIFF, or a STAC API, static catalog, collection or item file. Of an item, the asset
            with a role such as `elevation`, else the one called `data`, `elevation` or `dem`, else the only
            one with role `data` is taken.
        aoi: GeoJSON geometry, longitude and latitude.
        collections: Ids to search in a catalog; empty: all.
        policy: Hosts and folders that the files may lie on beside the address's own.

    Raises:
        UsageError: another kind of file, or collections of a file.
        InputRefusedError: a file that is no DEM, on a host that is not allowed, or none over the area.
        UnreachableError: a server does not answer.
    """
    policy = policy or AddressPolicy()
    area = shapely.from_geojson(json.dumps(aoi)).buffer(AROUND_DEG)
    shown = _shown(address)
    suffix = Path(public_form(address)).suffix.lower()
    if suffix in _OTHER_RASTERS:
        raise UsageError(
            f"--dem {shown} is a {suffix} file; expected a GeoTIFF (gdal_translate writes one) or a "
            "STAC catalog"
        )
    records: list[Record] = []
    if suffix in (".tif", ".tiff"):
        if collections:
            raise UsageError(f"--dem {shown} is a file; --dem-collection goes with a catalog")
        policy = _policy_of_file(address, policy)
        named = [_named_file(address, policy)]
    else:
        policy = policy.bound_to(catalog_address(address))
        records = _records_over(area, collections, policy)
        named = sorted((_named_asset(record, policy) for record in records), key=_name_and_address)
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        tiles = list(pool.map(lambda pair: _inspect(pair[0], pair[1], policy), named))
    tiles = [tile for tile in tiles if _covers(tile, area)]
    if not tiles:
        raise InputRefusedError(
            f"DEM {shown} has no elevation in the area "
            f"{','.join(f'{edge:.4f}' for edge in area.bounds)} ({len(named)} files looked at); "
            "give another --dem or --dem-collection"
        )
    found = {str(r.item.get("collection") or r.collection.get("id") or "") for r in records} - {""}
    return Dem(
        address=public_form(address),
        collections=tuple(collections),
        source=", ".join(sorted(found)) or shown,
        tiles=tuple(tiles),
        attribution="; ".join(dict.fromkeys(filter(None, map(_attribution, records)))) or None,
    )


def read_dem(store: ObjectStore, address: str, collections: Sequence[str]) -> Dem | None:
    """The DEM that a run keeps; None if it keeps another than the one asked for, or none."""
    try:
        dem = Dem.model_validate_json(get_object(store, DEM) or b"")
    except ValidationError:
        return None
    return dem if (dem.address, dem.collections) == (public_form(address), tuple(collections)) else None


def keep_dem(store: ObjectStore, dem: Dem) -> None:
    """Keeps the DEM with a run: all that follows reads these tiles."""
    put_object(store, DEM, dem.model_dump_json(indent=1).encode())


@lru_cache(4)
def kept_dem(out: str, digest: str) -> Dem:
    """The DEM that the run at `out` keeps, for workers; read once a process, `digest` tells it from others.

    Raises:
        InputRefusedError: the run keeps another DEM, or none.
    """
    try:
        dem = Dem.model_validate_json(get_object(open_store(out), DEM) or b"")
    except ValidationError as error:
        raise InputRefusedError(f"{out}/{DEM} is missing or damaged; give --dem again") from error
    if dem.digest() != digest:
        raise InputRefusedError(f"{out}/{DEM} was changed while the run used it; run again")
    return dem


def _shown(address: str) -> str:
    """For messages and attributes: a remote address in its public form, of a file the name alone."""
    return public_form(address) if is_remote(address) else local_path(address).name


def _named_file(address: str, policy: AddressPolicy) -> tuple[str, BandSource]:
    refuse_signature("--dem", address)
    href = check_address(address if is_remote(address) else str(local_path(address).absolute()), policy)
    return _shown(address), BandSource(band="elevation", asset="file", href=href, index=1)


def _name_and_address(named: tuple[str, BandSource]) -> tuple[str, str]:
    return named[0], named[1].href


def _policy_of_file(address: str, policy: AddressPolicy) -> AddressPolicy:
    """The user named the file, so its own host, bucket or folder is allowed."""
    if not is_remote(address):
        return policy.bound_to(str(local_path(address).absolute()))
    bucket = host_of(address)
    extra = () if address.lower().startswith(("http:", "https:")) else (bucket,)
    return policy.bound_to(address).model_copy(update={"allow_hosts": (*policy.allow_hosts, *extra)})


def _records_over(area: BaseGeometry, collections: Sequence[str], policy: AddressPolicy) -> list[Record]:
    """The items of the policy's catalog that touch an area."""
    content = read_catalog(policy.catalog, Query(collections, area.bounds, (ALWAYS,)), policy)
    if content.refused:
        # A tile that is not found would be ground that is not known, and nobody would see why.
        first = content.refused[0]
        raise InputRefusedError(f"DEM {_shown(policy.catalog)}: {first.item_id}: {first.reason}")
    return [record for record in content.records if _touches(record.item, area)]


def _touches(item: Document, area: BaseGeometry) -> bool:
    """By the item's bbox; what has none is looked at."""
    try:
        numbers = [float(number) for number in item["bbox"]]
        half = len(numbers) // 2
        return bool(area.intersects(shapely.box(numbers[0], numbers[1], numbers[half], numbers[half + 1])))
    except (KeyError, TypeError, ValueError, IndexError):
        return True


def _named_asset(record: Record, policy: AddressPolicy) -> tuple[str, BandSource]:
    """Name and source of an item's elevations."""
    item = record.item
    item_id = str(item.get("id"))
    listed = item.get("assets")
    assets = {
        key: asset
        for key, asset in (listed.items() if isinstance(listed, Mapping) else ())
        if isinstance(asset, Mapping) and asset.get("href") and is_geotiff(asset)
    }
    by_role = [key for key, asset in assets.items() if _ELEVATION_ROLES & set(asset.get("roles") or ())]
    by_key = [key for key in _ELEVATION_KEYS if key in assets]
    plain = [key for key, asset in assets.items() if "data" in (asset.get("roles") or ())]
    chosen = by_role or by_key[:1] or plain
    if len(chosen) != 1:
        raise InputRefusedError(
            f"DEM item {item_id} has {'no' if not chosen else 'several'} assets of elevations "
            f"({', '.join(chosen or assets) or 'no GeoTIFF'}); expected one with role elevation or data"
        )
    key = chosen[0]
    refuse_signature(f"asset {key} of DEM item {item_id}", str(assets[key]["href"]))
    return item_id, BandSource(
        band="elevation",
        asset=key,
        href=check_address(absolute_address(str(assets[key]["href"]), record.address), policy),
        index=1,
        **_numbers(item_id, assets[key]),
    )


def _numbers(item_id: str, asset: Mapping[str, Any]) -> dict[str, float]:
    """Scale, offset and nodata where the item states them; its unit must be the metre."""
    bands = asset.get("raster:bands") or asset.get("bands") or [{}]
    band = {**asset, **(bands[0] if isinstance(bands, list) and isinstance(bands[0], Mapping) else {})}
    unit = band.get("unit")
    if unit not in _METRES:
        raise InputRefusedError(f"DEM item {item_id} has elevations in {unit}; expected metres")
    stated = {name: band.get(f"raster:{name}", band.get(name)) for name in ("scale", "offset", "nodata")}
    return {
        name: float(value)
        for name, value in stated.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def _attribution(record: Record) -> str:
    """Names of the providers, as for scenes."""
    properties = record.item.get("properties") or {}
    providers = properties.get("providers") or record.collection.get("providers") or []
    return ", ".join(str(provider["name"]) for provider in providers if "name" in provider)


def _inspect(name: str, source: BandSource, policy: AddressPolicy) -> DemTile:
    """The tile of a checked address, from its header."""
    check_redirects(source.href, policy)
    label = f"DEM {name}, {public_form(source.href)},"
    tiff = header_of(source.href, label.rstrip(","))
    if tiff.crs is None:
        raise InputRefusedError(
            f"{label} has no coordinate reference system; set it with gdal_edit.py -a_srs"
        )
    if len(tiff.dtypes) != 1 or tiff.dtypes[0] in ("uint8", "int8") or tiff.dtypes[0].startswith("complex"):
        raise InputRefusedError(
            f"{label} has {len(tiff.dtypes)} bands of {tiff.dtypes[0]}; expected one band of elevations, "
            "int16, int32 or float32"
        )
    affine = tiff.transform
    if affine.b or affine.d or affine.a <= 0 or affine.e >= 0:
        raise InputRefusedError(f"{label} is rotated or not north-up; expected a north-up grid (gdalwarp)")
    crs = _horizontal(tiff.crs.to_wkt(), label)
    return DemTile(name=name, source=source, crs=crs, transform=tuple(affine)[:6], shape=tiff.shape)


def _horizontal(wkt: str, label: str) -> str:
    """The horizontal part of a CRS, WKT; the vertical part, if there is one, must be in metres."""
    try:
        crs = pyproj.CRS.from_wkt(wkt)
    except CRSError as error:
        raise InputRefusedError(f"{label} has a coordinate reference system that is not known") from error
    if len(crs.axis_info) > 2 and crs.axis_info[2].unit_conversion_factor != 1:
        raise InputRefusedError(f"{label} has elevations in {crs.axis_info[2].unit_name}; expected metres")
    horizontal = crs.sub_crs_list[0] if crs.is_compound else crs.to_2d()
    if not (horizontal.is_projected or horizontal.is_geographic):
        raise InputRefusedError(f"{label} has a local CRS, so its place is not known")
    return horizontal.to_wkt()


def _covers(tile: DemTile, area: BaseGeometry) -> bool:
    affine, (height, width) = Affine(*tile.transform), tile.shape
    x, y = zip(*(affine @ corner for corner in ((0, 0), (width, height))), strict=True)
    bounds = transformer(tile.crs, "OGC:CRS84").transform_bounds(min(x), min(y), max(x), max(y))
    return bool(area.intersects(shapely.box(*bounds)))
